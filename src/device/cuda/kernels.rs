//! The kernels, as `kernels/*.cu` have them.

use super::cache::Cache;
use super::compile::{Source, Target};
use super::launch::{Argument, Kernel, Shape, kernels, load};
use super::memory::{Gpu, In, Out};
use crate::domain::Result;

/// A file that kernels include.
pub const HEADERS: &[Source] = &[
    Source {
        name: "coded.cuh",
        text: include_str!("../../../kernels/coded.cuh"),
    },
    Source {
        name: "common.cuh",
        text: include_str!("../../../kernels/common.cuh"),
    },
    Source {
        name: "halves.cuh",
        text: include_str!("../../../kernels/halves.cuh"),
    },
    Source {
        name: "product.cuh",
        text: include_str!("../../../kernels/product.cuh"),
    },
    Source {
        name: "rank.cuh",
        text: include_str!("../../../kernels/rank.cuh"),
    },
    Source {
        name: "tensor.cuh",
        text: include_str!("../../../kernels/tensor.cuh"),
    },
];

type Floats<'a> = In<'a, f32>;
type Ints<'a> = In<'a, u32>;
type Doubles<'a> = In<'a, f64>;
type Halves<'a> = In<'a, u16>;

kernels! {
    "product.cu" {
        product_nt(
            a: Floats<'_>, center: Option<Floats<'_>>, b: Floats<'_>, pick: Option<Ints<'_>>,
            bias: Option<Floats<'_>>, c: Out<'_, f32>, m: u32, n: u32, k: u32, columns: u32,
        );
        product_wide(
            a: Floats<'_>, center: Option<Floats<'_>>, b: Floats<'_>, pick: Option<Ints<'_>>,
            bias: Option<Floats<'_>>, c: Out<'_, f32>, m: u32, n: u32, k: u32, columns: u32,
        );
        product_tn(
            a: Floats<'_>, b: Floats<'_>, c: Out<'_, f32>, m: u32, n: u32, k: u32,
            accumulate: u32,
        );
    }
    "tensor.cu" {
        round_to_rows(
            input: Floats<'_>, center: Option<Floats<'_>>, out: Out<'_, u16>, rows: u32, d: u32,
            padded: u32, factor: f32, f16: u32,
        );
        round_to_panels(
            input: Floats<'_>, center: Option<Floats<'_>>, pick: Option<Ints<'_>>,
            out: Out<'_, u16>, rows: u32, d: u32, padded: u32, f16: u32,
        );
        largest_f16(
            input: Floats<'_>, center: Option<Floats<'_>>, largest: Out<'_, u32>, rows: u32,
            d: u32,
        );
        product_bf16(
            a: In<'_, u16>, b: In<'_, u16>, pick: Option<Ints<'_>>, bias: Option<Floats<'_>>,
            c: Out<'_, f32>, m: u32, n: u32, k: u32, columns: u32,
        );
        product_f16(
            a: In<'_, u16>, b: In<'_, u16>, pick: Option<Ints<'_>>, bias: Option<Floats<'_>>,
            c: Out<'_, f32>, m: u32, n: u32, k: u32, columns: u32,
        );
        append_bf16(
            a: In<'_, u16>, b: In<'_, u16>, bias: Floats<'_>, scale: Option<Floats<'_>>,
            bounds: Option<Floats<'_>>, counts: Out<'_, u32>, keys: Out<'_, u64>, pres: Out<'_, f32>,
            m: u32, n: u32, k: u32, first: u32, capacity: u32,
        );
        above_bf16(
            a: In<'_, u16>, b: In<'_, u16>, bias: Floats<'_>, scale: Option<Floats<'_>>,
            bounds: Option<Floats<'_>>, counts: Out<'_, u32>, keys: Out<'_, u64>, pres: Out<'_, f32>,
            m: u32, n: u32, k: u32, first: u32, capacity: u32,
        );
        filter_bf16(
            a: In<'_, u16>, b: In<'_, u16>, bias: Floats<'_>, scale: Option<Floats<'_>>,
            bounds: Floats<'_>, of_rows: Floats<'_>, of_columns: Floats<'_>,
            counts: Out<'_, u32>, keys: Out<'_, u64>, uppers: Out<'_, f32>, m: u32, n: u32,
            k: u32, first: u32, capacity: u32,
        );
        append_f16(
            a: In<'_, u16>, b: In<'_, u16>, bias: Floats<'_>, scale: Option<Floats<'_>>,
            bounds: Option<Floats<'_>>, counts: Out<'_, u32>, keys: Out<'_, u64>, pres: Out<'_, f32>,
            m: u32, n: u32, k: u32, first: u32, capacity: u32,
        );
        above_f16(
            a: In<'_, u16>, b: In<'_, u16>, bias: Floats<'_>, scale: Option<Floats<'_>>,
            bounds: Option<Floats<'_>>, counts: Out<'_, u32>, keys: Out<'_, u64>, pres: Out<'_, f32>,
            m: u32, n: u32, k: u32, first: u32, capacity: u32,
        );
    }
    "hopper.cu" {
        product_hopper(
            a: In<'_, u16>, b: In<'_, u16>, pick: Option<Ints<'_>>, bias: Option<Floats<'_>>,
            c: Out<'_, f32>, m: u32, n: u32, depths: u32, columns: u32,
        );
        product_hopper_f16(
            a: In<'_, u16>, b: In<'_, u16>, pick: Option<Ints<'_>>, bias: Option<Floats<'_>>,
            c: Out<'_, f32>, m: u32, n: u32, depths: u32, columns: u32,
        );
        append_hopper(
            a: In<'_, u16>, b: In<'_, u16>, bias: Floats<'_>, scale: Option<Floats<'_>>,
            bounds: Option<Floats<'_>>, counts: Out<'_, u32>, keys: Out<'_, u64>, pres: Out<'_, f32>,
            m: u32, n: u32, depths: u32, first: u32, capacity: u32,
        );
        above_hopper(
            a: In<'_, u16>, b: In<'_, u16>, bias: Floats<'_>, scale: Option<Floats<'_>>,
            bounds: Option<Floats<'_>>, counts: Out<'_, u32>, keys: Out<'_, u64>, pres: Out<'_, f32>,
            m: u32, n: u32, depths: u32, first: u32, capacity: u32,
        );
        filter_hopper(
            a: In<'_, u16>, b: In<'_, u16>, bias: Floats<'_>, scale: Option<Floats<'_>>,
            bounds: Floats<'_>, of_rows: Floats<'_>, of_columns: Floats<'_>,
            counts: Out<'_, u32>, keys: Out<'_, u64>, uppers: Out<'_, f32>, m: u32, n: u32,
            depths: u32, first: u32, capacity: u32,
        );
        append_hopper_f16(
            a: In<'_, u16>, b: In<'_, u16>, bias: Floats<'_>, scale: Option<Floats<'_>>,
            bounds: Option<Floats<'_>>, counts: Out<'_, u32>, keys: Out<'_, u64>, pres: Out<'_, f32>,
            m: u32, n: u32, depths: u32, first: u32, capacity: u32,
        );
        above_hopper_f16(
            a: In<'_, u16>, b: In<'_, u16>, bias: Floats<'_>, scale: Option<Floats<'_>>,
            bounds: Option<Floats<'_>>, counts: Out<'_, u32>, keys: Out<'_, u64>, pres: Out<'_, f32>,
            m: u32, n: u32, depths: u32, first: u32, capacity: u32,
        );
    }
    "stream.cu" {
        topk_first(
            p: Floats<'_>, scale: Option<Floats<'_>>, keys: Out<'_, u64>, pres: Out<'_, f32>,
            bounds: Out<'_, f32>, tokens: u32, columns: u32, k: u32,
        );
        topk_fold(
            counts: Out<'_, u32>, from_keys: In<'_, u64>, from_pres: Floats<'_>,
            keys: Out<'_, u64>, pres: Out<'_, f32>, bounds: Out<'_, f32>,
            overflow: Out<'_, u32>, tokens: u32, length: u32, k: u32,
        );
        list_emit(
            keys: In<'_, u64>, pres: Floats<'_>, row_ptr: Ints<'_>, latents: Out<'_, u32>,
            edges: Out<'_, f32>, tokens: u32, length: u32,
        );
        topk_order(
            keys: In<'_, u64>, pres: Floats<'_>, row_ptr: Out<'_, u32>, latents: Out<'_, u32>,
            edges: Out<'_, f32>, tokens: u32, k: u32,
        );
    }
    "filter.cu" {
        margins(
            input: Floats<'_>, center: Option<Floats<'_>>, rounded: In<'_, u16>,
            out: Out<'_, f32>, rows: u32, d: u32, padded: u32, panels: u32, gamma: f64,
        );
        filter_bounds(
            p: Floats<'_>, scale: Option<Floats<'_>>, of_rows: Floats<'_>,
            of_columns: Floats<'_>, bounds: Out<'_, f32>, tokens: u32, columns: u32, k: u32,
        );
        filter_fold(
            counts: Out<'_, u32>, keys: Out<'_, u64>, uppers: Out<'_, f32>,
            bounds: Out<'_, f32>, overflow: Out<'_, u32>, tokens: u32, length: u32, k: u32,
        );
        filter_exact(
            x: Floats<'_>, center: Option<Floats<'_>>, w: Floats<'_>, bias: Floats<'_>,
            scale: Option<Floats<'_>>, counts: Ints<'_>, lists: Out<'_, u64>,
            exacts: Out<'_, f32>, keys: Out<'_, u64>, pres: Out<'_, f32>, tokens: u32, d: u32,
            length: u32, k: u32,
        );
    }
    "topk.cu" {
        topk_merge(
            p: Floats<'_>, pick: Option<Ints<'_>>, scale: Option<Floats<'_>>, keys: Out<'_, u64>,
            pres: Out<'_, f32>, columns: u32, count: u32, first: u32, k: u32, seen: u32,
            capacity: u32,
        );
        topk_emit(
            keys: In<'_, u64>, pres: Floats<'_>, row_ptr: Out<'_, u32>, latents: Out<'_, u32>,
            edges: Out<'_, f32>, k: u32, capacity: u32,
        );
    }
    "compact.cu" {
        compact_count(
            p: Floats<'_>, lower: Option<Floats<'_>>, scale: Option<Floats<'_>>,
            least: Option<Ints<'_>>, row_ptr: Ints<'_>, lengths: Out<'_, u32>, tokens: u32,
            columns: u32, count: u32, first: u32,
        );
        compact_append(
            p: Floats<'_>, lower: Option<Floats<'_>>, scale: Option<Floats<'_>>,
            least: Option<Ints<'_>>, row_ptr: Ints<'_>, latents: Ints<'_>, edges: Floats<'_>,
            to_ptr: Ints<'_>, to_latents: Out<'_, u32>, to_edges: Out<'_, f32>, tokens: u32,
            columns: u32, count: u32, first: u32,
        );
        rank_histogram(
            latents: Ints<'_>, edges: Floats<'_>, scale: Option<Floats<'_>>, state: Ints<'_>,
            histogram: Out<'_, u32>, n: u32, shift: u32,
        );
        rank_digit(
            state: Out<'_, u32>, histogram: Out<'_, u32>, total: u32, shift: u32,
        );
        rank_count(
            row_ptr: Ints<'_>, latents: Ints<'_>, edges: Floats<'_>, scale: Option<Floats<'_>>,
            state: Ints<'_>, above: Out<'_, u32>, equal: Out<'_, u32>, tokens: u32,
        );
        rank_ties(state: Ints<'_>, ties: Ints<'_>, above: Out<'_, u32>, tokens: u32);
        rank_keep(
            row_ptr: Ints<'_>, latents: Ints<'_>, edges: Floats<'_>, scale: Option<Floats<'_>>,
            state: Ints<'_>, ties: Ints<'_>, to_ptr: Ints<'_>, to_latents: Out<'_, u32>,
            to_edges: Out<'_, f32>, tokens: u32,
        );
    }
    "order.cu" {
        scan(input: Ints<'_>, out: Out<'_, u32>, n: u32);
        edge_tokens(row_ptr: Ints<'_>, token: Out<'_, u32>, tokens: u32);
        radix_count(
            keys: Ints<'_>, counts: Out<'_, u32>, n: u32, rounds: u32, shift: u32, digits: u32,
        );
        radix_scatter(
            keys: Ints<'_>, values: Option<Ints<'_>>, counts: Ints<'_>, to_keys: Out<'_, u32>,
            to_values: Out<'_, u32>, n: u32, rounds: u32, shift: u32, digits: u32,
        );
        segment_starts(sorted: Ints<'_>, starts: Out<'_, u32>, n: u32, latents: u32);
        slice_rows(row_ptr: Ints<'_>, out: Out<'_, u32>, first: u32, count: u32);
    }
    "edges.cu" {
        activate(
            latents: Ints<'_>, pre: Floats<'_>, values: Out<'_, f32>, active: Out<'_, f64>,
            threshold: Option<Floats<'_>>, b_gate: Option<Floats<'_>>, r_mag: Option<Floats<'_>>,
            b_mag: Option<Floats<'_>>, n: u32, kind: u32,
        );
        activate_backward(
            row_ptr: Ints<'_>, latents: Ints<'_>, pre: Floats<'_>, da: Floats<'_>,
            dp: Out<'_, f32>, d_norm: Option<Out<'_, f32>>, d_threshold: Option<Out<'_, f32>>,
            d_r_mag: Option<Out<'_, f32>>, d_b_mag: Option<Out<'_, f32>>, losses: Out<'_, f64>,
            threshold: Option<Floats<'_>>, b_gate: Option<Floats<'_>>, r_mag: Option<Floats<'_>>,
            b_mag: Option<Floats<'_>>, norms: Option<Floats<'_>>, pre_norms: Option<Floats<'_>>,
            dead: Option<Ints<'_>>, weight: f64, curve: f64, bandwidth: f64, pre_weight: f64,
            kind: u32, loss: u32, ste_to_input: u32, add_to_pre: u32, tokens: u32,
        );
        least_positive(
            latents: Ints<'_>, pre: Floats<'_>, scale: Option<Floats<'_>>, least: Out<'_, u32>,
            n: u32,
        );
    }
    "decode.cu" {
        decode(
            row_ptr: Ints<'_>, latents: Ints<'_>, values: Floats<'_>, w: Floats<'_>,
            base: Option<Floats<'_>>, out: Out<'_, f32>, base_stride: u64, d: u32,
        );
        reconstruct(
            row_ptr: Ints<'_>, latents: Ints<'_>, values: Floats<'_>, w: Floats<'_>,
            base: Option<Floats<'_>>, y: Floats<'_>, less: Option<Floats<'_>>, widths: Ints<'_>,
            scales: Floats<'_>, out: Option<Out<'_, f32>>, grad: Out<'_, f32>,
            dots: Out<'_, f32>, errors: Out<'_, f64>, base_stride: u64, d: u32, prefixes: u32,
        );
    }
    "reconstruct.cu" {
        reconstruct_tiles(
            row_ptr: Ints<'_>, latents: Ints<'_>, values: Floats<'_>, w: Floats<'_>,
            base: Option<Floats<'_>>, y: Floats<'_>, less: Option<Floats<'_>>, widths: Ints<'_>,
            scales: Floats<'_>, out: Option<Out<'_, f32>>, grad: Out<'_, f32>,
            dots: Out<'_, f32>, errors: Out<'_, f64>, base_stride: u64, d: u32, prefixes: u32,
            slots: u32,
        );
    }
    "dense.cu" {
        edges_to_rows(
            row_ptr: Ints<'_>, latents: Ints<'_>, values: Floats<'_>, list: Option<Ints<'_>>,
            out: Out<'_, f32>, listed: u32, token: u32, column: u32, columns: u32,
        );
        rows_to_edges(
            row_ptr: Ints<'_>, latents: Ints<'_>, input: Floats<'_>, list: Option<Ints<'_>>,
            values: Out<'_, f32>, listed: u32, token: u32, columns: u32,
        );
        take_rows(from: Floats<'_>, list: Ints<'_>, out: Out<'_, f32>, d: u32);
        put_rows(
            from: Floats<'_>, list: Option<Ints<'_>>, out: Out<'_, f32>, first: u32, d: u32,
            accumulate: u32,
        );
        turn(input: Floats<'_>, center: Option<Floats<'_>>, out: Out<'_, f32>, rows: u32, d: u32);
        turn_to_bf16(
            input: Floats<'_>, center: Option<Floats<'_>>, out: Out<'_, u16>, rows: u32, d: u32,
            wide: u32, padded: u32, panels: u32,
        );
        count_edges(latents: Ints<'_>, values: Floats<'_>, found: Out<'_, u32>, n: u32);
        add_counts(found: Ints<'_>, counts: Out<'_, u32>, n: u32);
        compare(
            base: Option<Floats<'_>>, y: Floats<'_>, less: Option<Floats<'_>>,
            out: Option<Out<'_, f32>>, sums: Out<'_, f32>, errors: Out<'_, f64>,
            base_stride: u64, scale: f32, token: u32, d: u32,
        );
    }
    "latents.cu" {
        outer_grad(
            starts: Ints<'_>, latents: Ints<'_>, order: Ints<'_>, token: Ints<'_>,
            values: Floats<'_>, rows: Floats<'_>, center: Option<Floats<'_>>,
            widths: Option<Ints<'_>>, out: Out<'_, f32>, partials: Out<'_, f32>, block: u64,
            n: u32, d: u32, prefixes: u32, accumulate: u32, piece: u32, pieces: u32, factor: f32,
        );
        outer_grad_bf16(
            starts: Ints<'_>, latents: Ints<'_>, order: Ints<'_>, token: Ints<'_>,
            values: Floats<'_>, rows: Halves<'_>, center: Option<Floats<'_>>,
            widths: Option<Ints<'_>>, out: Out<'_, f32>, partials: Out<'_, f32>, block: u64,
            n: u32, d: u32, prefixes: u32, accumulate: u32, piece: u32, pieces: u32, factor: f32,
        );
        outer_grad_f16(
            starts: Ints<'_>, latents: Ints<'_>, order: Ints<'_>, token: Ints<'_>,
            values: Floats<'_>, rows: Halves<'_>, center: Option<Floats<'_>>,
            widths: Option<Ints<'_>>, out: Out<'_, f32>, partials: Out<'_, f32>, block: u64,
            n: u32, d: u32, prefixes: u32, accumulate: u32, piece: u32, pieces: u32, factor: f32,
        );
        outer_finish(
            starts: Ints<'_>, latents: Ints<'_>, partials: Floats<'_>, out: Out<'_, f32>, n: u32,
            d: u32, accumulate: u32, piece: u32,
        );
        latent_sums(
            starts: Ints<'_>, order: Ints<'_>, values: Floats<'_>, out: Out<'_, f32>,
            latents: u32, accumulate: u32,
        );
        count_fired(
            starts: Ints<'_>, order: Ints<'_>, values: Floats<'_>, counts: Out<'_, u32>,
            latents: u32,
        );
    }
    "batch.cu" {
        batch_histogram(
            counts: Ints<'_>, keys: In<'_, u64>, state: Ints<'_>, histogram: Out<'_, u32>,
            tokens: u32, length: u32, shift: u32,
        );
        batch_prune(
            counts: Out<'_, u32>, keys: Out<'_, u64>, pres: Out<'_, f32>, bounds: Out<'_, f32>,
            state: Ints<'_>, overflow: Out<'_, u32>, tokens: u32, length: u32,
        );
        batch_count(
            counts: Ints<'_>, keys: In<'_, u64>, state: Ints<'_>, above: Out<'_, u32>,
            equal: Out<'_, u32>, tokens: u32, length: u32,
        );
        batch_emit(
            counts: Ints<'_>, keys: In<'_, u64>, pres: Floats<'_>, state: Ints<'_>,
            ties: Ints<'_>, row_ptr: Out<'_, u32>, latents: Out<'_, u32>, edges: Out<'_, f32>,
            overflow: Out<'_, u32>, tokens: u32, length: u32, total: u32,
        );
    }
    "gather.cu" {
        gather_rows(
            from: Floats<'_>, pick: Ints<'_>, to: Out<'_, f32>, rows: u32, d: u32,
        );
        first_not_finite(rows: Floats<'_>, least: Out<'_, u32>, count: u32, d: u32);
    }
    "rows.cu" {
        row_norms(w: Floats<'_>, out: Out<'_, f32>, rows: u32, d: u32);
        add_norm_grad(w: Floats<'_>, v: Floats<'_>, grad: Out<'_, f32>, rows: u32, d: u32);
        normalize_rows(w: Out<'_, f32>, rows: u32, d: u32);
        project_rows(w: Floats<'_>, grad: Out<'_, f32>, rows: u32, d: u32);
    }
    "sums.cu" {
        square_partials(
            input: Floats<'_>, partials: Out<'_, f64>, len: u64, stretch: u64, first: u32,
        );
        sum_rows(input: Doubles<'_>, out: Out<'_, f64>, n: u32, first: u32);
        column_partials(
            input: Floats<'_>, weights: Option<Floats<'_>>, means: Option<Doubles<'_>>,
            partials: Out<'_, f64>, rows: u32, d: u32, chunk: u32,
        );
        column_finish(
            partials: Doubles<'_>, out: Option<Out<'_, f32>>, wide: Option<Out<'_, f64>>,
            factor: f64, chunks: u32, d: u32, accumulate: u32,
        );
    }
    "elements.cu" {
        adam(
            param: Out<'_, f32>, grad: Floats<'_>, mean: Out<'_, f32>, square: Out<'_, f32>,
            n: u64, scale: f32, beta1: f32, rest1: f32, beta2: f32, rest2: f32, eps: f32,
            kept: f32, rate: f32, root: f32,
        );
        adam_rounded(
            param: Out<'_, f32>, grad: Floats<'_>, mean: Out<'_, f32>, square: Out<'_, f32>,
            rounded: Out<'_, u16>, rows: u32, d: u32, padded: u32, panels: u32, f16: u32,
            scale: f32, beta1: f32, rest1: f32, beta2: f32, rest2: f32, eps: f32, kept: f32,
            rate: f32, root: f32,
        );
        scaled(input: Floats<'_>, out: Out<'_, f32>, n: u64, factor: f32);
        clamp_below(buf: Out<'_, f32>, n: u64, least: f32);
    }
    "peak.cu" {
        peak_bf16(out: Out<'_, f32>, rounds: u32);
        peak_f32(out: Out<'_, f32>, rounds: u32);
        peak_hopper(out: Out<'_, f32>, rounds: u32);
    }
    "attention.cu" {
        attention_64(
            qkv: Floats<'_>, tiles: Ints<'_>, out: Out<'_, f32>, scale: f32, cap: f32, heads: u32,
            kv_heads: u32, d: u32, window: u32,
        );
        attention_128(
            qkv: Floats<'_>, tiles: Ints<'_>, out: Out<'_, f32>, scale: f32, cap: f32, heads: u32,
            kv_heads: u32, d: u32, window: u32,
        );
        attention_256(
            qkv: Floats<'_>, tiles: Ints<'_>, out: Out<'_, f32>, scale: f32, cap: f32, heads: u32,
            kv_heads: u32, d: u32, window: u32,
        );
        attention_bf16_64(
            qkv: Halves<'_>, tiles: Ints<'_>, out: Out<'_, f32>, scale: f32, cap: f32, heads: u32,
            kv_heads: u32, d: u32, window: u32,
        );
        attention_bf16_128(
            qkv: Halves<'_>, tiles: Ints<'_>, out: Out<'_, f32>, scale: f32, cap: f32, heads: u32,
            kv_heads: u32, d: u32, window: u32,
        );
        attention_bf16_256(
            qkv: Halves<'_>, tiles: Ints<'_>, out: Out<'_, f32>, scale: f32, cap: f32, heads: u32,
            kv_heads: u32, d: u32, window: u32,
        );
    }
    "weights.cu" {
        decode_to_bf16(
            codes: In<'_, u8>, scales: Floats<'_>, out: Out<'_, u16>, rows: u32, k: u32,
            whole: u32, padded: u32, panels: u32, kind: u32, group: u32,
        );
        widen_f16(codes: Halves<'_>, out: Out<'_, f32>, n: u64);
    }
    "lm.cu" {
        embed(
            table: Option<Floats<'_>>, codes: Option<In<'_, u8>>, scales: Option<Floats<'_>>,
            positions: Option<Floats<'_>>, ids: Ints<'_>, at: Ints<'_>, out: Out<'_, f32>,
            scale: f32, d: u32, kind: u32, group: u32,
        );
        norm_rows(
            x: Floats<'_>, weight: Floats<'_>, bias: Option<Floats<'_>>, out: Out<'_, f32>,
            eps: f64, rows: u32, each: u32, stride: u32, offset: u32, d: u32, centred: u32,
        );
        norm_to_bf16(
            x: Floats<'_>, weight: Floats<'_>, bias: Option<Floats<'_>>, out: Out<'_, u16>,
            eps: f64, rows: u32, d: u32, padded: u32, panels: u32, centred: u32,
        );
        add_to(delta: Floats<'_>, to: Out<'_, f32>, n: u64);
        rotate(
            qkv: Out<'_, f32>, cosines: Floats<'_>, sines: Floats<'_>, start: Ints<'_>,
            n: u64, heads: u32, head_dim: u32, width: u32, half: u32,
        );
        attention(
            qkv: Floats<'_>, start: Ints<'_>, out: Out<'_, f32>, scale: f32, cap: f32,
            heads: u32, kv_heads: u32, head_dim: u32, window: u32,
        );
        mlp_activate(
            inner: Floats<'_>, out: Out<'_, f32>, n: u64, d: u32, kind: u32, gated: u32,
        );
        mlp_activate_bf16(
            inner: Floats<'_>, out: Out<'_, u16>, n: u64, d: u32, padded: u32, panels: u32,
            kind: u32, gated: u32,
        );
        softcap(logits: Out<'_, f32>, n: u64, cap: f32);
        loss_tile(
            logits: Floats<'_>, targets: Ints<'_>, state: Out<'_, f64>, cap: f32, rows: u32,
            columns: u32, first: u32,
        );
    }
}
