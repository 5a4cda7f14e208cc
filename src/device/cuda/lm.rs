//! The language model's forward as kernel launches; products are those of the encoder.

use super::Cuda;
use super::launch::{Shape, count};
use super::memory::{In, Memory};
use crate::device::coded::Coded;
use crate::device::lm::{
    Activation, Attention, Embed, Head, Linear, LmOps, Mlp, NO_TARGET, Norm, NormKind, QkNorm,
    Table,
};
use crate::domain::{Code, Error, Result};

type Buf = Memory<f32>;

/// A padding row, in what says of each row where its context begins or where it stands in it.
const NOT_THERE: u32 = u32::MAX;
/// The widest head that attention takes.
const MOST_HEAD: usize = 512;
/// Bytes of logits that are there at a time.
const LOGITS: usize = 64 << 20;

/// A weight matrix [n, k].
pub struct Matrix {
    rows: Buf,
    n: usize,
    k: usize,
}

/// Which parts of rows a norm is for: `each` stretches from `offset` of rows of `stride`.
struct Stretches {
    rows: usize,
    each: usize,
    stride: usize,
    offset: usize,
}

fn cap(softcap: Option<f64>) -> f32 {
    softcap.unwrap_or(0.0) as f32
}

impl Cuda {
    fn apply(
        &self,
        x: In<'_, f32>,
        rows: usize,
        w: &Matrix,
        bias: Option<&Buf>,
        out: &mut Buf,
    ) -> Result<()> {
        self.product(
            x,
            None,
            w.rows.input(0, w.n * w.k),
            None,
            bias.map(|bias| bias.input(0, w.n)),
            out,
            [rows, w.n, w.k],
            w.n,
        )
    }

    fn norm_in_place(&self, buf: &mut Buf, norm: &Norm<Self>, of: &Stretches) -> Result<()> {
        let len = of.rows * of.stride;
        // The kernel allows that both are the same.
        let out = buf.output(len);
        let x = out.as_input();
        self.norm_rows(x, norm, of, out)
    }

    fn norm_rows(
        &self,
        x: In<'_, f32>,
        norm: &Norm<Self>,
        of: &Stretches,
        out: super::memory::Out<'_, f32>,
    ) -> Result<()> {
        let d = norm.weight.len();
        let [rows, each, stride, offset] = [of.rows, of.each, of.stride, of.offset].map(count);
        self.kernels.norm_rows(
            &self.gpu,
            Shape::warps(of.rows * of.each),
            x,
            norm.weight.input(0, d),
            norm.bias.as_ref().map(|bias| bias.input(0, d)),
            out,
            norm.eps,
            rows,
            each,
            stride,
            offset,
            count(d),
            u32::from(norm.kind == NormKind::Layer),
        )
    }
}

/// Kernels that read codes.
fn unbuilt() -> Error {
    let message = "GPUs hold language models in f32 only, as yet";
    Error::new(Code::ModelUnsupported, "model.precision", message)
        .hint("set it to f32, or run with --device cpu")
}

impl LmOps for Cuda {
    type Weight = Matrix;

    fn pack(&self, w: &[f32], n: usize, k: usize) -> Result<Matrix> {
        let rows = Memory::of(&self.gpu, &w[..n * k])?;
        Ok(Matrix { rows, n, k })
    }

    fn pack_coded(&self, _: Coded) -> Result<Matrix> {
        Err(unbuilt())
    }

    fn embed(&self, work: &Embed<'_, Self>, out: &mut Buf) -> Result<()> {
        let Table::Plain(table) = work.table else {
            return Err(unbuilt());
        };
        let (rows, d) = (work.ids.len(), work.d_model);
        let ids = Memory::of(&self.gpu, work.ids)?;
        let at = Memory::of(&self.gpu, &work.at[..rows])?;
        self.kernels.embed(
            &self.gpu,
            Shape::blocks(rows, 256),
            table.input(0, table.len()),
            work.positions
                .map(|positions| positions.input(0, positions.len())),
            ids.input(0, rows),
            at.input(0, rows),
            out.output(rows * d),
            work.scale as f32,
            count(d),
        )
    }

    fn norm(&self, x: &Buf, rows: usize, norm: &Norm<Self>, out: &mut Buf) -> Result<()> {
        let stride = norm.weight.len();
        let all = Stretches {
            rows,
            each: 1,
            stride,
            offset: 0,
        };
        let (x, out) = (x.input(0, rows * stride), out.output(rows * stride));
        self.norm_rows(x, norm, &all, out)
    }

    fn add(&self, delta: &Buf, len: usize, to: &mut Buf) -> Result<()> {
        let (delta, to) = (delta.input(0, len), to.output(len));
        self.kernels
            .add_to(&self.gpu, Shape::threads(len), delta, to, len as u64)
    }

    fn linear(&self, x: &Buf, rows: usize, layer: &Linear<Self>, out: &mut Buf) -> Result<()> {
        let w = &layer.weight;
        self.apply(x.input(0, rows * w.k), rows, w, layer.bias.as_ref(), out)
    }

    fn attention(&self, work: &Attention<'_, Self>, qkv: &mut Buf, out: &mut Buf) -> Result<()> {
        let (rows, d, width) = (work.rows, work.head_dim, work.qkv_width());
        if d > MOST_HEAD {
            return Err(Error::new(
                Code::ModelUnsupported,
                "head_dim",
                format_args!("heads of {d} are wider than {MOST_HEAD}"),
            )
            .hint("use --device cpu"));
        }
        let (mut position, mut first) = (vec![NOT_THERE; rows], vec![NOT_THERE; rows]);
        for span in work.spans {
            for at in 0..span.len {
                let begin = work.window.map_or(0, |w| (at + 1).saturating_sub(w));
                position[span.start + at] = count(at);
                first[span.start + at] = count(span.start + begin);
            }
        }
        let first = Memory::of(&self.gpu, &first)?;
        let (queries, keys) = (work.heads * d, work.kv_heads * d);
        let mut normalise = |norm: &Norm<Self>, each, offset| {
            let of = Stretches {
                rows,
                each,
                stride: width,
                offset,
            };
            self.norm_in_place(qkv, norm, &of)
        };
        match work.qk_norm {
            QkNorm::Off => {}
            QkNorm::FullWidth(q, k) => {
                normalise(q, 1, 0)?;
                normalise(k, 1, queries)?;
            }
            QkNorm::PerHead(q, k) => {
                normalise(q, work.heads, 0)?;
                normalise(k, work.kv_heads, queries)?;
            }
        }
        debug_assert_eq!(width, queries + 2 * keys);
        if let Some(rope) = work.rope {
            let (half, heads) = (rope.dim / 2, work.heads + work.kv_heads);
            let position = Memory::of(&self.gpu, &position)?;
            let n = rows * heads * half;
            let [heads, d, width, half] = [heads, d, width, half].map(count);
            self.kernels.rotate(
                &self.gpu,
                Shape::threads(n),
                qkv.output(rows * work.qkv_width()),
                rope.cos.input(0, rope.cos.len()),
                rope.sin.input(0, rope.sin.len()),
                position.input(0, rows),
                n as u64,
                heads,
                d,
                width,
                half,
            )?;
        }
        let shape = Shape {
            blocks: [rows, work.heads],
            threads: 128,
            shared: (128 + 4) * 4,
        };
        self.kernels.attention(
            &self.gpu,
            shape,
            qkv.input(0, rows * width),
            first.input(0, rows),
            out.output(rows * queries),
            work.scale as f32,
            cap(work.softcap),
            count(work.heads),
            count(work.kv_heads),
            count(d),
        )
    }

    fn mlp(&self, x: &Buf, rows: usize, mlp: &Mlp<Self>, out: &mut Buf) -> Result<()> {
        let (up, down, d) = (&mlp.up, &mlp.down, mlp.d_mlp);
        let mut inner = Memory::new(&self.gpu, rows * up.weight.n)?;
        let x = x.input(0, rows * up.weight.k);
        self.apply(x, rows, &up.weight, up.bias.as_ref(), &mut inner)?;
        let mut active = Memory::new(&self.gpu, rows * d)?;
        let kind = match mlp.activation {
            Activation::Gelu => 0,
            Activation::GeluTanh => 1,
            Activation::Silu => 2,
            Activation::Relu => 3,
        };
        self.kernels.mlp_activate(
            &self.gpu,
            Shape::threads(rows * d),
            inner.input(0, rows * up.weight.n),
            active.output(rows * d),
            (rows * d) as u64,
            count(d),
            kind,
            u32::from(mlp.gated),
        )?;
        let active = active.input(0, rows * d);
        self.apply(active, rows, &down.weight, down.bias.as_ref(), out)
    }

    fn logits(&self, x: &Buf, rows: usize, head: &Head<Self>, out: &mut Buf) -> Result<()> {
        let k = head.tiles[0].k;
        for (i, tile) in head.tiles.iter().enumerate() {
            let mut part = Memory::new(&self.gpu, rows * tile.n)?;
            self.apply(x.input(0, rows * k), rows, tile, None, &mut part)?;
            for r in 0..rows {
                out.copy(r * head.vocab + i * head.tile, &part, r * tile.n, tile.n)?;
            }
        }
        if head.softcap.is_some() {
            let n = rows * head.vocab;
            let (logits, cap) = (out.output(n), cap(head.softcap));
            self.kernels
                .softcap(&self.gpu, Shape::threads(n), logits, n as u64, cap)?;
        }
        Ok(())
    }

    fn losses(&self, x: &Buf, head: &Head<Self>, targets: &[u32], out: &mut [f64]) -> Result<()> {
        const { assert!(NO_TARGET == NOT_THERE) };
        let (k, rows) = (head.tiles[0].k, targets.len());
        let chunk = (LOGITS / 4 / head.tiles[0].n).clamp(1, rows.max(1));
        let mut logits = Memory::new(&self.gpu, chunk * head.tiles[0].n)?;
        let mut state = Memory::new(&self.gpu, chunk * 3)?;
        for from in (0..rows).step_by(chunk) {
            let n = chunk.min(rows - from);
            let wanted = &targets[from..from + n];
            let on_gpu = Memory::of(&self.gpu, wanted)?;
            for (i, tile) in head.tiles.iter().enumerate() {
                self.apply(x.input(from * k, n * k), n, tile, None, &mut logits)?;
                self.kernels.loss_tile(
                    &self.gpu,
                    Shape::warps(n),
                    logits.input(0, n * tile.n),
                    on_gpu.input(0, n),
                    state.output(n * 3),
                    cap(head.softcap),
                    count(n),
                    count(tile.n),
                    count(i * head.tile),
                )?;
            }
            let mut sums = vec![0.0; n * 3];
            state.read(0, &mut sums)?;
            for ((out, target), sums) in out[from..].iter_mut().zip(wanted).zip(sums.chunks(3)) {
                if *target != NO_TARGET {
                    *out = sums[0] + sums[1].ln() - sums[2];
                }
            }
        }
        Ok(())
    }
}
