//! GPUs under the real daemon: the monitor, the runs that it holds, the devices that they
//! are given. The driver is a stand-in that does what the test says.

#[path = "../common/mod.rs"]
mod common;
mod full_disk;
mod heat;
mod host;
mod leases;
#[path = "../stub_nvml/mod.rs"]
mod stub_nvml;
mod telling;
