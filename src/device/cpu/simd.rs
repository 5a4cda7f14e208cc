//! Plain loops, compiled once for each instruction set.
//!
//! The loops are written so that the compiler vectorises them, with a fixed number of
//! lanes wherever a sum is formed: its order is that of the source, whatever the width of
//! the registers.

/// Defines a function that takes the [`super::isa::Isa`] first and runs a copy of its body
/// compiled for it. In the body the constant in angle brackets says whether the machine
/// has a fused multiply-add; see [`fma`].
macro_rules! for_each_isa {
    ($(#[$doc:meta])* $vis:vis fn $name:ident<$fma:ident>($($arg:ident: $type:ty),* $(,)?)
        $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name(isa: $crate::device::cpu::isa::Isa, $($arg: $type),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const $fma: bool>($($arg: $type),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn avx512($($arg: $type),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                match isa {
                    // SAFETY: a pool has only instruction sets that the machine has.
                    $crate::device::cpu::isa::Isa::Avx512 => {
                        return unsafe { avx512($($arg),*) };
                    }
                    // SAFETY: as above.
                    $crate::device::cpu::isa::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::device::cpu::isa::Isa::Portable => {}
                }
            }
            let _ = isa;
            body::<{ cfg!(any(target_feature = "fma", target_arch = "aarch64")) }>($($arg),*)
        }
    };
}
pub(super) use for_each_isa;

/// a·b + c, fused where `FUSED`.
#[inline(always)]
pub fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    match FUSED {
        true => a.mul_add(b, c),
        false => a * b + c,
    }
}

/// Lanes of a sum.
pub const LANES: usize = 16;

/// The sum of 16 lanes, as a tree.
#[inline(always)]
pub fn add_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}
