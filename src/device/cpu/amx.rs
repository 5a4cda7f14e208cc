//! Tiles of Intel's AMX: products of bf16 factors with sums in f32, sixteen times as many a cycle
//! as fused multiply-adds of f32.
//!
//! A block is 32 latents by 32 tokens, four tiles of sums. Factors lie in memory tile by tile:
//! of a group of 16 latents `[step][latent][32 values of k]`, of a group of 16 tokens
//! `[step][16 pairs of values of k][token][2]`.

use super::isa::Isa;

/// Rows of a tile: latents or tokens of a group.
pub const GROUP: usize = 16;
/// Latents, and tokens, of a block.
pub const BLOCK: usize = 2 * GROUP;
/// Values of k in a step.
pub const STEP: usize = 32;
/// Numbers of a tile of factors: a kibibyte.
pub const TILE: usize = GROUP * STEP;

/// Sums [latent][token].
#[repr(C, align(64))]
#[derive(Clone, bytemuck::Zeroable)]
pub struct Block(pub [[f32; BLOCK]; BLOCK]);

impl Block {
    /// Blocks in memory that begins at a cache line.
    pub fn slice(memory: &mut [f32]) -> &mut [Self] {
        let (before, blocks, after) = {
            // SAFETY: a block is such numbers, at its alignment.
            unsafe { memory.align_to_mut() }
        };
        assert!(before.is_empty() && after.is_empty());
        blocks
    }
}

/// The tiles of this thread, set up until it is dropped. Without AMX (in tests) the same sums are
/// formed by plain loops.
pub struct Tiles {
    amx: bool,
}

impl Tiles {
    /// … for `isa`.
    pub fn new(isa: Isa) -> Self {
        let amx = isa == Isa::Amx;
        #[cfg(target_arch = "x86_64")]
        if amx {
            // SAFETY: a pool has only instruction sets that the machine has.
            unsafe { x86::configure() };
        }
        Self { amx }
    }

    /// `sums` = w·xᵀ over the steps that both have, or `sums` += … unless `first`. Factors are two
    /// groups each.
    ///
    /// # Panics
    /// Where they are not equally many whole steps, one at least.
    #[inline]
    pub fn multiply(&self, w: [&[u16]; 2], x: [&[u16]; 2], sums: &mut Block, first: bool) {
        let len = w[0].len();
        assert!(
            len > 0 && len.is_multiple_of(TILE) && [w[1], x[0], x[1]].map(<[u16]>::len) == [len; 3]
        );
        #[cfg(target_arch = "x86_64")]
        if self.amx {
            // SAFETY: `new` has set the tiles up; all four have `len / TILE` steps.
            return unsafe { x86::multiply(w, x, len / TILE, sums, first) };
        }
        plain(w, x, sums, first);
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.amx {
            // SAFETY: as in `new`. What is not in use is not saved when threads are switched.
            unsafe { x86::release() };
        }
    }
}

/// Whether this machine has AMX and lets this process use it.
pub fn available() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        x86::available()
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    {
        false
    }
}

fn plain(w: [&[u16]; 2], x: [&[u16]; 2], sums: &mut Block, first: bool) {
    let value = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    for (latent, row) in sums.0.iter_mut().enumerate() {
        for (token, sum) in row.iter_mut().enumerate() {
            let (w, i) = (w[latent / GROUP], latent % GROUP);
            let (x, j) = (x[token / GROUP], token % GROUP);
            let mut total = if first { 0.0 } else { *sum };
            for (w, x) in w.chunks_exact(TILE).zip(x.chunks_exact(TILE)) {
                for k in 0..STEP {
                    let pair = k / 2 * STEP + 2 * j + k % 2;
                    total += value(w[i * STEP + k]) * value(x[pair]);
                }
            }
            *sum = total;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BLOCK, Block, GROUP};
    use std::arch::asm;

    /// Whether the processor has it, and the system saves its registers for this process, which
    /// must have asked for that.
    #[cfg(target_os = "linux")]
    pub fn available() -> bool {
        use std::sync::OnceLock;
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        *AVAILABLE.get_or_init(|| {
            const BF16: u32 = 1 << 22;
            const TILE: u32 = 1 << 24;
            let leaf = std::arch::x86_64::__cpuid_count(7, 0);
            leaf.edx & (BF16 | TILE) == BF16 | TILE && permitted()
        })
    }

    #[cfg(target_os = "linux")]
    fn permitted() -> bool {
        /// arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA); an older kernel refuses it.
        const ARCH_PRCTL: i64 = 158;
        const REQUEST: u64 = 0x1023;
        const TILE_DATA: u64 = 18;
        let result: i64;
        // SAFETY: the call changes nothing but what this process may use.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") REQUEST,
                in("rsi") TILE_DATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    /// Eight tiles of 16 rows of 64 bytes.
    ///
    /// # Safety
    /// The machine has AMX.
    pub unsafe fn configure() {
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut config = Config {
            palette: 1,
            start: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        config.row_bytes[..8].fill(64);
        config.rows[..8].fill(GROUP as u8);
        // SAFETY: 64 bytes are read.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
    }

    /// # Safety
    /// The machine has AMX.
    pub unsafe fn release() {
        // SAFETY: the caller's promise.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }

    /// Four products a step, of four tiles of factors.
    ///
    /// # Safety
    /// The tiles are set up; all factors have `steps` > 0 steps.
    #[inline]
    pub unsafe fn multiply(
        w: [&[u16]; 2],
        x: [&[u16]; 2],
        steps: usize,
        sums: &mut Block,
        first: bool,
    ) {
        // SAFETY: a tile of sums has 16 rows 128 bytes apart; of factors 16 rows of 64 bytes, one
        // after the other, of as many steps as the caller promises.
        unsafe {
            let sums = sums.0.as_mut_ptr().cast::<f32>();
            asm!(
                "test {first:l}, {first:l}",
                "jnz 2f",
                "tileloadd tmm0, [{sums}+{row}*1]",
                "tileloadd tmm1, [{sums}+{row}*1+64]",
                "tileloadd tmm2, [{below}+{row}*1]",
                "tileloadd tmm3, [{below}+{row}*1+64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "tileloadd tmm4, [{w0}+{line}*1]",
                "tileloadd tmm6, [{x0}+{line}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{x1}+{line}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{w1}+{line}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {w0}, 1024",
                "add {w1}, 1024",
                "add {x0}, 1024",
                "add {x1}, 1024",
                "dec {steps}",
                "jnz 3b",
                "tilestored [{sums}+{row}*1], tmm0",
                "tilestored [{sums}+{row}*1+64], tmm1",
                "tilestored [{below}+{row}*1], tmm2",
                "tilestored [{below}+{row}*1+64], tmm3",
                first = in(reg) u64::from(first),
                sums = in(reg) sums,
                below = in(reg) sums.add(GROUP * BLOCK),
                row = in(reg) 128usize,
                line = in(reg) 64usize,
                w0 = inout(reg) w[0].as_ptr() => _,
                w1 = inout(reg) w[1].as_ptr() => _,
                x0 = inout(reg) x[0].as_ptr() => _,
                x1 = inout(reg) x[1].as_ptr() => _,
                steps = inout(reg) steps => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
