//! Every kernel, compiled by the real NVRTC for the architectures that are served, against the
//! budget in `kernels/budget.toml`: registers, no spills, and the instructions that a kernel is
//! written for.
//!
//! `BACKPROPD_CUDA_WHEELS` names the folder (`…/site-packages/nvidia/cu13`) of the wheels that
//! `.ci/run` installs. Without it nothing is compiled, which is said.

use backpropd::device::cuda::compile::compile;
use backpropd::device::cuda::kernels::SOURCES;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_89", "sm_90a"];

/// What a kernel may use, and must.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    registers: u32,
    #[serde(default)]
    opcodes: Vec<String>,
    /// … on sm_90a.
    #[serde(default)]
    hopper: Vec<String>,
}

/// What the compiler says of a kernel.
#[derive(Debug, Default)]
struct Usage {
    registers: u32,
    spilled: u32,
    stack: u32,
}

fn budget() -> BTreeMap<String, Budget> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/budget.toml");
    toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The folder of the wheels, with NVRTC loaded out of it.
fn wheels() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("BACKPROPD_CUDA_WHEELS").map(PathBuf::from) else {
        // Past the capture of tests: it is to be seen.
        let why = b"SKIPPED: no kernel was compiled for a GPU: BACKPROPD_CUDA_WHEELS is not set\n";
        std::io::stderr().write_all(why).unwrap();
        return None;
    };
    // cudarc finds what is loaded by the name that a library gives itself.
    for name in ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"] {
        // SAFETY: NVIDIA's libraries; loading them runs their constructors.
        let library = unsafe { libloading::Library::new(folder.join("lib").join(name)) };
        std::mem::forget(library.unwrap());
    }
    Some(folder)
}

/// The number in front of `what`.
fn number_before(line: &str, what: &str) -> u32 {
    let before = line.split(what).next().unwrap();
    let digits = before.trim_end().rsplit(|c: char| !c.is_ascii_digit());
    digits.into_iter().next().unwrap().parse().unwrap()
}

fn usages(log: &str) -> BTreeMap<String, Usage> {
    let mut all: BTreeMap<String, Usage> = BTreeMap::new();
    let mut name = String::new();
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            rest.split('\'').next().unwrap().clone_into(&mut name);
        }
        let usage = all.entry(name.clone()).or_default();
        if line.contains("bytes spill stores") {
            usage.stack = number_before(line, " bytes stack frame");
            usage.spilled = number_before(line, " bytes spill stores");
            usage.spilled += number_before(line, " bytes spill loads");
        }
        if line.contains(" registers") {
            usage.registers = number_before(line, " registers");
        }
    }
    all.remove("");
    all
}

/// Names of the instructions of each kernel.
fn opcodes(wheels: &Path, code: &[u8]) -> BTreeMap<String, BTreeSet<String>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), code).unwrap();
    let bin = wheels.join("bin");
    let output = Command::new(bin.join("cuobjdump"))
        .arg("-sass")
        .arg(file.path())
        .env("PATH", &bin)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(rest) = line.split("Function : ").nth(1) {
            rest.trim().clone_into(&mut name);
        } else if let Some(rest) = line.split("*/").nth(1) {
            // `/*0010*/ @!P0 IMAD.MOV.U32 R1, …`
            let words = rest
                .split_whitespace()
                .filter(|word| !word.starts_with('@'));
            if let Some(opcode) = words.into_iter().next() {
                let opcode = opcode.split(['.', ';']).next().unwrap();
                all.entry(name.clone())
                    .or_default()
                    .insert(opcode.to_owned());
            }
        }
    }
    all
}

/// What every kernel uses on this architecture, and its instructions.
fn compiled(
    wheels: &Path,
    arch: &str,
) -> (BTreeMap<String, Usage>, BTreeMap<String, BTreeSet<String>>) {
    let (mut used, mut instructions) = (BTreeMap::new(), BTreeMap::new());
    for source in SOURCES {
        let (code, log) = compile(source, arch, &["--ptxas-options=-v"]).unwrap();
        instructions.extend(opcodes(wheels, &code));
        used.extend(usages(&log));
    }
    (used, instructions)
}

#[test]
fn every_kernel_compiles_within_its_budget() {
    let Some(wheels) = wheels() else {
        return;
    };
    let budget = budget();
    let mut wrong = Vec::new();
    let mut found: BTreeMap<String, u32> = BTreeMap::new();
    // The compiler takes its time, and one core.
    let all = std::thread::scope(|scope| {
        let compiling = ARCHITECTURES.map(|arch| scope.spawn(|| compiled(&wheels, arch)));
        compiling.map(|thread| thread.join().unwrap())
    });
    for (arch, (usages, instructions)) in ARCHITECTURES.iter().zip(all) {
        for (name, usage) in usages {
            let most = found.entry(name.clone()).or_default();
            *most = usage.registers.max(*most);
            let Some(budget) = budget.get(&name) else {
                wrong.push(format!("{name} ({arch}) is not in the budget: {usage:?}"));
                continue;
            };
            if usage.registers > budget.registers || usage.spilled > 0 || usage.stack > 0 {
                wrong.push(format!(
                    "{name} ({arch}): {usage:?}, may have {}",
                    budget.registers
                ));
            }
            let hopper = budget.hopper.iter().filter(|_| *arch == "sm_90a");
            for opcode in budget.opcodes.iter().chain(hopper) {
                if !instructions[&name].contains(opcode) {
                    wrong.push(format!("{name} ({arch}) has no {opcode}"));
                }
            }
        }
    }
    for (name, budget) in &budget {
        match found.get(name) {
            None => wrong.push(format!("{name} is in the budget and in no source")),
            // A budget that is far above what is used guards nothing.
            Some(used) if used + 8 < budget.registers => {
                wrong.push(format!(
                    "{name} may have {}, and uses {used}",
                    budget.registers
                ));
            }
            Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The kernels of the tests of wrappers, with the instructions that each wrapper stands for.
#[test]
fn every_wrapper_compiles_to_its_instruction() {
    let Some(wheels) = wheels() else {
        return;
    };
    let source = backpropd::device::cuda::compile::Source {
        name: "wrappers.cu",
        text: include_str!("cuda_double/wrappers.cu"),
    };
    let expected: [(&str, &[&str]); 12] = [
        ("wrap_shuffles", &["SHFL"]),
        ("wrap_votes", &["VOTE", "MATCH"]),
        ("wrap_barriers", &["BAR"]),
        ("wrap_numbers", &["F2F", "F2FP", "MUFU"]),
        ("wrap_copies", &["LDGSTS", "LDGDEPBAR", "DEPBAR"]),
        ("wrap_matrices", &["LDSM"]),
        ("wrap_mma_bf16", &["HMMA"]),
        ("wrap_mma_f16", &["HMMA"]),
        ("wrap_wgmma_bf16", &["HGMMA"]),
        ("wrap_wgmma_f16", &["HGMMA"]),
        ("wrap_registers", &["USETMAXREG"]),
        ("wrap_transactions", &["SYNCS", "UBLKCP"]),
    ];
    let mut wrong = Vec::new();
    for arch in ARCHITECTURES {
        let (code, log) = compile(&source, arch, &["--ptxas-options=-v"]).unwrap();
        let instructions = opcodes(&wheels, &code);
        for (name, usage) in usages(&log) {
            if usage.spilled > 0 {
                wrong.push(format!("{name} ({arch}): {usage:?}"));
            }
        }
        // The last four are of sm_90a.
        let there = if arch == "sm_90a" { 12 } else { 8 };
        for (name, wanted) in &expected[..there] {
            for opcode in wanted.iter().filter(|o| !instructions[*name].contains(**o)) {
                let has = &instructions[*name];
                wrong.push(format!("{name} ({arch}) has no {opcode}: {has:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_no_kernel_is_an_error_with_the_compilers_words() {
    if wheels().is_none() {
        return;
    }
    let wrong = backpropd::device::cuda::compile::Source {
        name: "wrong.cu",
        text: "extern \"C\" __global__ void f() { nonsense; }",
    };
    let error = compile(&wrong, "sm_80", &[]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("identifier \"nonsense\" is undefined"),
        "{error}"
    );
    let error = compile(&SOURCES[0], "sm_20", &[]).unwrap_err();
    assert!(error.to_string().contains("sm_20"), "{error}");
    assert_eq!(error.code, backpropd::domain::Code::DeviceUnavailable);
}
