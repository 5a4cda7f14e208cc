//! The language model's forward as kernel launches.

mod attention;
mod coded;
mod product;

use super::Cuda;
use super::launch::{Shape, count};
use super::memory::{In, Memory};
use crate::device::coded::Coded;
use crate::device::lm::{
    Activation, Attention, Embed, Head, Linear, LmOps, Mlp, NO_TARGET, Norm, NormKind, Table,
};
use crate::domain::Result;
pub use attention::Plan;
use product::{Factor, Matrix};

type Buf = Memory<f32>;

/// Bytes of logits that are there at a time.
const LOGITS: usize = 64 << 20;

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
    /// out [rows, n] = x [rows, k] through `layer`.
    fn through(
        &self,
        x: In<'_, f32>,
        rows: usize,
        layer: &Linear<Self>,
        out: &mut Buf,
    ) -> Result<()> {
        let (w, bias) = (&layer.weight, layer.bias.as_ref());
        let factor = w.factor(self, x, rows)?;
        w.apply(self, &factor, bias, out.output(rows * w.n), w.n)
    }

    /// The norm of `x` as products with `w` take it; in f32 it is written to `normed`.
    fn normed<'a>(
        &self,
        x: &Buf,
        rows: usize,
        norm: &Norm<Self>,
        normed: &'a mut Buf,
        w: &Matrix,
    ) -> Result<Factor<'a>> {
        let d = w.k;
        let Some(layout) = w.layout() else {
            self.norm(x, rows, norm, normed)?;
            return w.factor(self, normed.input(0, rows * d), rows);
        };
        let (len, [padded, panels]) = (layout.len(rows), layout.arguments());
        let mut out = Memory::new(&self.gpu, len)?;
        self.kernels.norm_to_bf16(
            &self.gpu,
            Shape::warps(rows),
            x.input(0, rows * d),
            norm.weight.input(0, d),
            norm.bias.as_ref().map(|bias| bias.input(0, d)),
            out.output(len),
            norm.eps,
            count(rows),
            count(d),
            padded,
            panels,
            u32::from(norm.kind == NormKind::Layer),
        )?;
        Ok(Factor::bf16(out, rows))
    }

    fn mlp_of(&self, x: &Factor<'_>, rows: usize, mlp: &Mlp<Self>, out: &mut Buf) -> Result<()> {
        let (up, down, d) = (&mlp.up, &mlp.down, mlp.d_mlp);
        let n = up.weight.n;
        let mut inner = Memory::new(&self.gpu, rows * n)?;
        let to = inner.output(rows * n);
        up.weight.apply(self, x, up.bias.as_ref(), to, n)?;
        let kind = match mlp.activation {
            Activation::Gelu => 0,
            Activation::GeluTanh => 1,
            Activation::Silu => 2,
            Activation::Relu => 3,
        };
        let (inner, gated) = (inner.input(0, rows * up.weight.n), u32::from(mlp.gated));
        let (gpu, kernels) = (&self.gpu, &self.kernels);
        let Some(layout) = down.weight.layout() else {
            let n = rows * d;
            let mut active = Memory::new(gpu, n)?;
            let (shape, to, n_) = (Shape::threads(n), active.output(n), n as u64);
            kernels.mlp_activate(gpu, shape, inner, to, n_, count(d), kind, gated)?;
            return self.through(active.input(0, n), rows, down, out);
        };
        let (len, [padded, panels]) = (layout.len(rows), layout.arguments());
        let mut active = Memory::new(gpu, len)?;
        let (n, to) = (rows * layout.padded / 4, active.output(len));
        let (shape, n, d) = (Shape::threads(n), n as u64, count(d));
        kernels.mlp_activate_bf16(gpu, shape, inner, to, n, d, padded, panels, kind, gated)?;
        let (w, bias) = (&down.weight, down.bias.as_ref());
        let factor = Factor::bf16(active, rows);
        w.apply(self, &factor, bias, out.output(rows * w.n), w.n)
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

impl LmOps for Cuda {
    type Weight = Matrix;
    type CodedTable = coded::Held;

    fn pack(&self, w: &[f32], n: usize, k: usize) -> Result<Matrix> {
        Matrix::plain(self, w, n, k)
    }

    fn pack_coded(&self, w: Coded) -> Result<Matrix> {
        Matrix::coded(self, &w)
    }

    fn hold_coded(&self, table: Coded) -> Result<coded::Held> {
        coded::Held::new(self, &table)
    }

    fn embed(&self, work: &Embed<'_, Self>, out: &mut Buf) -> Result<()> {
        let (plain, coded) = match work.table {
            Table::Plain(table) => (Some(table.input(0, table.len())), None),
            Table::Coded(table) => (None, Some(table.arguments())),
        };
        let coded = coded.as_ref();
        let [kind, group] = coded.map_or([0; 2], |coded| [coded.kind, coded.group]);
        let (rows, d) = (work.ids.len(), work.d_model);
        let ids = Memory::of(&self.gpu, work.ids)?;
        let at = Memory::of(&self.gpu, &work.at[..rows])?;
        self.kernels.embed(
            &self.gpu,
            Shape::blocks(rows, 256),
            plain,
            coded.map(|coded| coded.codes),
            coded.map(|coded| coded.scales),
            work.positions
                .map(|positions| positions.input(0, positions.len())),
            ids.input(0, rows),
            at.input(0, rows),
            out.output(rows * d),
            work.scale as f32,
            count(d),
            kind,
            group,
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
        self.through(x.input(0, rows * layer.weight.k), rows, layer, out)
    }

    fn norm_linear(
        &self,
        x: &Buf,
        rows: usize,
        norm: &Norm<Self>,
        normed: &mut Buf,
        layer: &Linear<Self>,
        out: &mut Buf,
    ) -> Result<()> {
        let w = &layer.weight;
        let factor = self.normed(x, rows, norm, normed, w)?;
        w.apply(
            self,
            &factor,
            layer.bias.as_ref(),
            out.output(rows * w.n),
            w.n,
        )
    }

    fn attention(&self, work: &Attention<'_, Self>, qkv: &mut Buf, out: &mut Buf) -> Result<()> {
        attention::attend(self, work, qkv, out)
    }

    fn mlp(&self, x: &Buf, rows: usize, mlp: &Mlp<Self>, out: &mut Buf) -> Result<()> {
        let w = &mlp.up.weight;
        let factor = w.factor(self, x.input(0, rows * w.k), rows)?;
        self.mlp_of(&factor, rows, mlp, out)
    }

    fn norm_mlp(
        &self,
        x: &Buf,
        rows: usize,
        norm: &Norm<Self>,
        normed: &mut Buf,
        mlp: &Mlp<Self>,
        out: &mut Buf,
    ) -> Result<()> {
        let factor = self.normed(x, rows, norm, normed, &mlp.up.weight)?;
        self.mlp_of(&factor, rows, mlp, out)
    }

    fn logits(&self, x: &Buf, rows: usize, head: &Head<Self>, out: &mut Buf) -> Result<()> {
        let first = &head.tiles[0];
        let factor = first.factor(self, x.input(0, rows * first.k), rows)?;
        for (i, tile) in head.tiles.iter().enumerate() {
            let all = rows * head.vocab;
            let from = all.min(i * head.tile);
            let part = out.output_at(from, all - from);
            tile.apply(self, &factor, None, part, head.vocab)?;
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
        const { assert!(NO_TARGET == attention::NOT_THERE) };
        let (k, rows) = (head.tiles[0].k, targets.len());
        let chunk = (LOGITS / 4 / head.tiles[0].n).clamp(1, rows.max(1));
        let mut logits = Memory::new(&self.gpu, chunk * head.tiles[0].n)?;
        let mut state = Memory::new(&self.gpu, chunk * 3)?;
        for from in (0..rows).step_by(chunk) {
            let n = chunk.min(rows - from);
            let wanted = &targets[from..from + n];
            let on_gpu = Memory::of(&self.gpu, wanted)?;
            let factor = head.tiles[0].factor(self, x.input(from * k, n * k), n)?;
            for (i, tile) in head.tiles.iter().enumerate() {
                tile.apply(self, &factor, None, logits.output(n * tile.n), tile.n)?;
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
