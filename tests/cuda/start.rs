//! What a start says where there is nothing to start on. The driver is asked once in a process,
//! so each case is a process of its own: this test program again, with only `child` to run.

use super::cuda_double::{self, double};
use backpropd::device::cuda::{Cuda, probe};
use backpropd::domain::Code;
use std::process::Command;

/// Not a test by itself: opens a device and prints what comes of it.
#[test]
#[ignore = "runs in a process that the other tests start"]
fn child() {
    let ordinal: usize = std::env::var("ORDINAL").unwrap().parse().unwrap();
    if std::env::var_os("UUID").is_some() {
        let found = probe::find(ordinal).unwrap();
        println!("OUTCOME uuid {}", found.uuid.unwrap());
        return;
    }
    match Cuda::open(ordinal, None) {
        Ok(_) => println!("OUTCOME opened"),
        Err(error) => println!("OUTCOME {error}"),
    }
}

/// What `Cuda::open(ordinal)` comes to, in a process with these variables.
fn outcome(ordinal: usize, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "start::child", "--ignored", "--nocapture"]);
    command.env("ORDINAL", ordinal.to_string());
    command.envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.split("OUTCOME ").nth(1));
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    line.unwrap_or_else(|| panic!("{text}\n{}", said()))
        .to_owned()
}

/// … with the stand-ins, and the driver's in this state.
fn emulated(ordinal: usize, state: &str, more: &[(&str, &str)]) -> Option<String> {
    let folder = double()?.folder().to_str().unwrap();
    let mut variables = vec![("LD_LIBRARY_PATH", folder), ("CUDA_DOUBLE", state)];
    variables.extend(more);
    Some(outcome(ordinal, &variables))
}

#[test]
fn without_a_driver_the_device_is_not_available() {
    let empty = tempfile::tempdir().unwrap();
    // Nothing that the machine itself may have: the loader looks here first.
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::write(empty.path().join(name), "").unwrap();
    }
    let text = outcome(0, &[("LD_LIBRARY_PATH", empty.path().to_str().unwrap())]);
    if !text.starts_with("opened") {
        assert!(
            text.starts_with("device-unavailable: cuda: no NVIDIA driver"),
            "{text}"
        );
        assert!(text.contains("--device cpu"), "{text}");
    }
}

/// behaviour: engine-09
#[test]
fn a_start_that_fails_says_why() {
    for (ordinal, state, variables, said) in [
        (0, "", vec![], "opened"),
        (
            0,
            "init=100",
            vec![],
            "device-unavailable: cuda: the driver does not start: CUDA_ERROR_NO_DEVICE (error 100",
        ),
        (
            0,
            "init=803",
            vec![],
            "device-unavailable: cuda: the driver does not start",
        ),
        (
            0,
            "init=999",
            vec![],
            "device-lost: cuda: the driver does not start",
        ),
        (
            0,
            "driver=11080",
            vec![],
            "device-unavailable: cuda: the driver speaks CUDA 11.8, and 12.0",
        ),
        (
            0,
            "driver=12040",
            vec![],
            "device-unavailable: nvrtc: NVRTC 13.0 is newer than the driver, which speaks CUDA 12.4",
        ),
        (0, "devices=0", vec![], "device-unavailable: cuda"),
        (
            0,
            "",
            vec![("CUDA_VISIBLE_DEVICES", "")],
            "device-unavailable: cuda: CUDA_VISIBLE_DEVICES is empty, which hides every GPU (unset",
        ),
        (
            0,
            "devices=2",
            vec![("CUDA_VISIBLE_DEVICES", "2,0")],
            "device-unavailable: cuda: CUDA_VISIBLE_DEVICES=2,0 leaves no GPU (unset",
        ),
        (
            0,
            "",
            vec![("CUDA_VISIBLE_DEVICES", "all")],
            "device-unavailable: cuda: CUDA_VISIBLE_DEVICES=all leaves no GPU",
        ),
        (
            1,
            "devices=3",
            vec![("CUDA_VISIBLE_DEVICES", "2")],
            "device-unavailable: cuda:1: CUDA_VISIBLE_DEVICES=2 leaves one GPU, cuda:0",
        ),
        (
            2,
            "devices=3",
            vec![("CUDA_VISIBLE_DEVICES", "2,1")],
            "device-unavailable: cuda:2: CUDA_VISIBLE_DEVICES=2,1 leaves 2 GPUs, cuda:0 to cuda:1",
        ),
        // Numbers are those that the variable gives: this is the one that can compute.
        (
            1,
            "devices=2 1.major=7",
            vec![("CUDA_VISIBLE_DEVICES", "1,0")],
            "opened",
        ),
        (
            2,
            "devices=2",
            vec![],
            "device-unavailable: cuda:2: there are 2 GPUs, cuda:0 to cuda:1",
        ),
        (
            1,
            "devices=1",
            vec![],
            "device-unavailable: cuda:1: there is one GPU, cuda:0",
        ),
        (
            1,
            "1.major=7 1.minor=5",
            vec![],
            "device-unavailable: cuda:1: has compute capability 7.5",
        ),
        (
            0,
            "0.major=14 0.minor=2",
            vec![],
            "device-unavailable: nvrtc: this NVRTC makes no code for sm_142",
        ),
        (
            0,
            "0.fail_call_at=1 0.fail_call_code=46",
            vec![],
            "device-unavailable: cuda:0: its context",
        ),
        (
            0,
            "0.mode=2",
            vec![],
            "device-unavailable: cuda:0: its compute mode is prohibited (`nvidia-smi -c DEFAULT`",
        ),
        (
            0,
            "0.mode=3",
            vec![],
            "device-unavailable: cuda:0: its compute mode lets one process in, and another one has",
        ),
        (0, "0.pools=0", vec![], "opened"),
        (
            0,
            "",
            vec![("NVRTC_DOUBLE", "fail")],
            "internal: product.cu: does not compile for sm_90a",
        ),
    ] {
        let Some(text) = emulated(ordinal, state, &variables) else {
            return;
        };
        assert!(text.starts_with(said), "{state}: {text}\nexpected {said}");
        assert!(
            text == "opened" || text.starts_with("internal") || text.ends_with(')'),
            "no hint: {text}"
        );
    }
}

#[test]
fn without_a_compiler_the_line_says_what_to_install() {
    let Some(double) = double() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let driver = folder.path().join("libcuda.so");
    std::fs::copy(double.folder().join("libcuda.so"), driver).unwrap();
    // Nothing that the machine itself may have.
    std::fs::write(folder.path().join("libnvrtc.so"), "").unwrap();
    let text = outcome(0, &[("LD_LIBRARY_PATH", folder.path().to_str().unwrap())]);
    if text != "opened" {
        let said =
            "device-unavailable: nvrtc: libnvrtc, which compiles the kernels for the GPU, was";
        assert!(text.starts_with(said), "{text}");
        assert!(text.contains("pip install nvidia-cuda-nvrtc"), "{text}");
    }
}

#[test]
fn a_device_has_one_uuid_however_it_is_counted() {
    let uuid = |ordinal, visible: Option<&str>| {
        let visible = visible.map(|v| ("CUDA_VISIBLE_DEVICES", v));
        let variables: Vec<_> = [("UUID", "")].into_iter().chain(visible).collect();
        emulated(ordinal, "0.uuid=10 1.uuid=171", &variables)
    };
    let Some(first) = uuid(0, None) else {
        return;
    };
    assert_eq!(first, "uuid 0a000000-0000-0000-0000-000000000000");
    let second = "uuid ab000000-0000-0000-0000-000000000001";
    for (ordinal, visible) in [(1, None), (0, Some("1,0")), (0, Some("1"))] {
        assert_eq!(uuid(ordinal, visible).unwrap(), second);
    }
    assert_eq!(uuid(1, Some("1,0")), Some(first));
}

#[test]
fn code_is_made_for_the_device_that_is_there() {
    for (major, minor, arch) in [
        (8, 0, "sm_80"),
        (8, 9, "sm_89"),
        (9, 0, "sm_90a"),
        (12, 0, "sm_120"),
    ] {
        let Some(gpu) = cuda_double::emulated() else {
            return;
        };
        gpu.set("major", major);
        gpu.set("minor", minor);
        let device = gpu.open();
        let text = backpropd::device::Device::describe(&device);
        assert_eq!(text, format!("cuda:{} (emulated GPU, {arch})", gpu.ordinal));
    }
}

#[test]
fn a_device_that_does_not_exist_keeps_its_code() {
    let Some(_) = double() else {
        return;
    };
    assert_eq!(
        Cuda::open(100_000, None).err().unwrap().code,
        Code::DeviceUnavailable
    );
}
