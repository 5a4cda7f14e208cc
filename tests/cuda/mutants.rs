//! Whether the tests see bugs: each of these changes to a kernel must make them fail. Takes
//! minutes, so it waits for `BACKPROPD_FULL=1`.

use super::cuda_double::build::{Sanitizer, Variant, build};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What is wrong, the file, what it says, and what it then says instead.
type Mutant = (&'static str, &'static str, &'static str, &'static str);

const MUTANTS: &[Mutant] = &[
    (
        "a barrier is missing in a sum over a block",
        "common.cuh",
        "scratch[warp_id()] = v;\n  __syncthreads();",
        "scratch[warp_id()] = v;",
    ),
    (
        "a sum forgets half of a warp",
        "common.cuh",
        "for (int o = 16; o; o >>= 1) v +=",
        "for (int o = 8; o; o >>= 1) v +=",
    ),
    (
        "NaN is the largest key",
        "common.cuh",
        "if (key != key) return 0;",
        "",
    ),
    (
        "negative keys in the wrong order",
        "common.cuh",
        "? ~bits :",
        "? bits ^ 0x80000000u :",
    ),
    (
        "a group takes one latent too many",
        "common.cuh",
        "widths[m] <= latent",
        "widths[m] < latent",
    ),
    (
        "the product reads a tile before it is whole",
        "product.cu",
        "    __syncthreads();\n#pragma unroll\n    for (u32 kk",
        "#pragma unroll\n    for (u32 kk",
    ),
    (
        "the product overwrites a tile in use",
        "product.cu",
        "    }\n    __syncthreads();\n    if ((k0",
        "    }\n    if ((k0",
    ),
    (
        "the product reads behind its last column",
        "product.cu",
        "const bool deep = k0 + kk < k;",
        "const bool deep = true;",
    ),
    (
        "the product writes behind its last row",
        "product.cu",
        "if (i < m && j < n) store",
        "if (j < n) store",
    ),
    (
        "the bias of another latent",
        "product.cu",
        "bias ? bias[pick ? pick[j] : j]",
        "bias ? bias[j]",
    ),
    (
        "the centre is not taken off",
        "product.cu",
        "(center ? center[d] : 0.0f)",
        "0.0f",
    ),
    (
        "the ring overwrites the stage in use",
        "tensor.cu",
        "load(t + STAGES - 1);",
        "load(t + STAGES);",
    ),
    (
        "a wait for one group too few",
        "tensor.cu",
        "copy_async_wait<STAGES - 2>",
        "copy_async_wait<STAGES - 1>",
    ),
    (
        "the second half of a fragment first",
        "tensor.cu",
        "fb[j >> 1][(j & 1) * 2], fb[j >> 1][(j & 1) * 2 + 1]",
        "fb[j >> 1][(j & 1) * 2 + 1], fb[j >> 1][(j & 1) * 2]",
    ),
    (
        "no barrier before a stage is overwritten",
        "tensor.cu",
        "    __syncthreads();\n    if (t + STAGES",
        "    if (t + STAGES",
    ),
    (
        "bf16 by cutting",
        "tensor.cu",
        "(bits + 0x7fff + (bits >> 16 & 1)) >> 16",
        "bits >> 16",
    ),
    (
        "of equal keys the higher latent wins",
        "topk.cu",
        "(u32)~latent; }",
        "latent; }",
    ),
    (
        "candidates overflow the list",
        "topk.cu",
        "fill + THREADS > capacity",
        "fill > capacity",
    ),
    (
        "a bound that lets nothing equal in",
        "topk.cu",
        "bound = fill == k ? key[k - 1] : 0;\n      __syncthreads();",
        "bound = key[0];\n      __syncthreads();",
    ),
    (
        "the sort lacks a barrier",
        "topk.cu",
        "      __syncthreads();\n      for (u32 i = threadIdx.x; i < n / 2",
        "      for (u32 i = threadIdx.x; i < n / 2",
    ),
    (
        "an edge is in two places",
        "compact.cu",
        "to += __popc(mask);\n  }\n}\nEXPORT(compact_append)",
        "to += 32;\n  }\n}\nEXPORT(compact_append)",
    ),
    (
        "ties of earlier tokens are forgotten",
        "compact.cu",
        "tied = ties[b];",
        "tied = 0;",
    ),
    (
        "a bound is not strict",
        "compact.cu",
        "return p > lower[latent];",
        "return p >= lower[latent];",
    ),
    (
        "the histogram is not cleared",
        "compact.cu",
        "for (u32 i = 0; i < 256; ++i) histogram[i] = 0;",
        "",
    ),
    (
        "the sort is not stable",
        "order.cu",
        "const u32 earlier = peers & lanes_below();",
        "const u32 earlier = peers & ~lanes_below() & ~(1u << lane_id());",
    ),
    (
        "a rank forgets what the warp had before",
        "order.cu",
        "rank[s] = own[digit] + __popc(earlier);",
        "rank[s] = __popc(earlier);",
    ),
    (
        "a block of the sort forgets those before it",
        "order.cu",
        "before += t < blockIdx.x ? count : 0;",
        "",
    ),
    (
        "a round of the sort begins where the last one did",
        "order.cu",
        "      next += count;",
        "      if (w < 7) next += count;",
    ),
    (
        "a warp counts before all have read",
        "order.cu",
        "__popc(earlier);\n      __syncwarp();",
        "__popc(earlier);",
    ),
    (
        "a prefix sum forgets the stretch before",
        "order.cu",
        "before += all;\n  }\n  if (threadIdx.x == 0)",
        "}\n  if (threadIdx.x == 0)",
    ),
    (
        "a latent starts behind its first edge",
        "order.cu",
        "if (sorted[middle] < j)",
        "if (sorted[middle] <= j)",
    ),
    (
        "G is not summed over the prefixes",
        "decode.cu",
        "sum += scales[m] * mine[m * block + c];",
        "sum = scales[m] * mine[m * block + c];",
    ),
    (
        "edges read G before it is there",
        "decode.cu",
        "  __syncthreads();\n  for (u32 e = from + warp_id()",
        "  for (u32 e = from + warp_id()",
    ),
    (
        "a gradient is added where it should replace",
        "latents.cu",
        "s.accumulate = accumulate;",
        "s.accumulate = true;",
    ),
    (
        "a sum in pieces replaces where it should add",
        "latents.cu",
        "accumulate);\n  else add_partials<4>(first, others, count, d, out + (u64)j * d, accumulate);",
        "accumulate);\n  else add_partials<4>(first, others, count, d, out + (u64)j * d, false);",
    ),
    (
        "a latent in pieces loses the last one",
        "latents.cu",
        "(to - 1) / piece - blockIdx.x",
        "(to - 1) / piece - blockIdx.x - 1",
    ),
    (
        "a piece takes edges of the latent before",
        "latents.cu",
        "s.from < begin ? begin : s.from",
        "begin",
    ),
    (
        "edges are overwritten while others read them",
        "latents.cu",
        "      __syncthreads();\n      for (u32 i = threadIdx.x; i < count",
        "      for (u32 i = threadIdx.x; i < count",
    ),
    (
        "rows behind the last edge",
        "latents.cu",
        "if (i + u >= count) continue;",
        "",
    ),
    (
        "counters wrap",
        "latents.cu",
        "counts[j] > ~fired ? ~0u : counts[j] + fired",
        "counts[j] + fired",
    ),
    (
        "Adam forgets the root's correction",
        "elements.cu",
        "sqrtf(v) * root + eps",
        "sqrtf(v) + eps",
    ),
    (
        "a thread behind the last element",
        "elements.cu",
        "if (i < n) out[i] = factor",
        "out[i] = factor",
    ),
    (
        "a projection along the gradient",
        "rows.cu",
        "along / square * row[c]",
        "along / square * g[c]",
    ),
    (
        "a row of zeros becomes NaN",
        "rows.cu",
        "if (!(norm > 0.0)) return;",
        "",
    ),
    (
        "the penalty's slope is left out",
        "edges.cu",
        "      g += slope * n;",
        "",
    ),
    (
        "the last chunk of rows is lost",
        "sums.cu",
        "from + chunk < rows ? from + chunk : rows",
        "from + chunk < rows ? from + chunk : from",
    ),
];

fn full() -> bool {
    std::env::var_os("BACKPROPD_FULL").is_some_and(|v| v == "1")
}

/// The tests of operations, the quickest first.
const TESTS: [&str; 9] = [
    "factors_are",
    "nan_is",
    "a_later_latent",
    "bits_do_not",
    "latents_of",
    "a_sort_of",
    "every_operation",
    "selections_agree",
    "the_encoder",
];

/// Tests in a process with other stand-ins, up to the first that fails, of which the output is.
fn failing(
    tests: &[&str],
    folder: &Path,
    before: &[&str],
    variables: &[(&str, &str)],
) -> Option<Output> {
    let own = std::env::current_exe().unwrap();
    tests.iter().find_map(|test| {
        let mut command = match before {
            [] => Command::new(&own),
            [first, others @ ..] => {
                let mut command = Command::new(first);
                command.args(others).arg(&own);
                command
            }
        };
        command.arg(format!("operations::{test}"));
        command
            .env("CUDA_DOUBLE_FOLDER", folder)
            .env_remove("BACKPROPD_FULL");
        let output = command.envs(variables.iter().copied()).output().unwrap();
        (!output.status.success()).then_some(output)
    })
}

fn copy_kernels(to: &Path) {
    for entry in std::fs::read_dir(Variant::default().kernels).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn every_planted_bug_is_seen() {
    if !full() {
        return;
    }
    let Some(whole) = build(&Variant::default()) else {
        return;
    };
    assert!(failing(&TESTS, &whole, &[], &[]).is_none());
    let mut missed = Vec::new();
    for (what, file, old, new) in MUTANTS {
        let folder = tempfile::tempdir().unwrap();
        copy_kernels(folder.path());
        let path = folder.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{file} no longer says {old:?}");
        std::fs::write(&path, text.replacen(old, new, 1)).unwrap();
        let variant = Variant {
            kernels: folder.path().to_owned(),
            ..Variant::default()
        };
        if failing(&TESTS, &build(&variant).unwrap(), &[], &[]).is_none() {
            println!("{what}: not seen");
            missed.push(what);
        }
    }
    assert!(missed.is_empty(), "not seen: {missed:#?}");
}

/// The library that a sanitizer wants in front of all others.
fn runtime(name: &str) -> Option<PathBuf> {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let output = Command::new(compiler)
        .arg(format!("-print-file-name={name}"))
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_absolute().then_some(path)
}

/// The stand-ins with a sanitizer, and the library it wants; `None` where the compiler has none.
fn sanitized(
    sanitizer: Sanitizer,
    library: &str,
    kernels: Option<&Path>,
) -> Option<(PathBuf, PathBuf)> {
    let runtime = runtime(library)?;
    let mut variant = Variant {
        sanitizer,
        ..Variant::default()
    };
    if let Some(kernels) = kernels {
        kernels.clone_into(&mut variant.kernels);
    }
    Some((build(&variant)?, runtime))
}

#[test]
fn no_kernel_leaves_its_memory() {
    if !full() {
        return;
    }
    let Some((folder, runtime)) = sanitized(Sanitizer::Address, "libasan.so", None) else {
        return;
    };
    let variables = [
        ("LD_PRELOAD", runtime.to_str().unwrap()),
        ("ASAN_OPTIONS", "detect_leaks=0"),
    ];
    let output = failing(&TESTS[..7], &folder, &[], &variables);
    assert!(output.is_none(), "{}", said(&output.unwrap()));
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What the race detector says about the quick tests of these kernels; "" where nothing.
fn races(kernels: Option<&Path>) -> Option<String> {
    let (folder, runtime) = sanitized(Sanitizer::Thread, "libtsan.so", kernels)?;
    let scratch = tempfile::tempdir().unwrap();
    // This program itself is not built for the detector.
    let own = std::env::current_exe().unwrap();
    let ignored = scratch.path().join("ignored");
    let name = own.file_name().unwrap().to_string_lossy();
    std::fs::write(&ignored, format!("race:/{name}\n")).unwrap();
    let options = format!("suppressions={} exitcode=66", ignored.display());
    let variables = [
        ("LD_PRELOAD", runtime.to_str().unwrap()),
        ("TSAN_OPTIONS", options.as_str()),
    ];
    // It wants its addresses where they always are.
    let output = failing(&TESTS[..4], &folder, &["setarch", "-R"], &variables);
    Some(output.as_ref().map_or_else(String::new, said))
}

#[test]
fn no_two_threads_race() {
    if !full() {
        return;
    }
    let Some(found) = races(None) else {
        return;
    };
    assert_eq!(found, "");
    // … and it would be seen.
    let folder = tempfile::tempdir().unwrap();
    copy_kernels(folder.path());
    let file = folder.path().join("tensor.cu");
    let text = std::fs::read_to_string(&file).unwrap();
    let barrier = "    __syncthreads();\n    if (t + STAGES";
    assert!(text.contains(barrier));
    std::fs::write(&file, text.replacen(barrier, "    if (t + STAGES", 1)).unwrap();
    let found = races(Some(folder.path())).unwrap();
    assert!(
        found.contains("data race") && found.contains("product_bf16"),
        "{found}"
    );
}
