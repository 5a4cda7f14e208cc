//! The CUDA backend on an emulated GPU: the unmodified code, down to cudarc, over stand-ins for
//! the driver and for NVRTC (`tests/cuda_double`); or on the GPU that `BACKPROPD_TEST_GPU` names.

#[path = "../cuda_double/mod.rs"]
mod cuda_double;
#[path = "../device_suite/mod.rs"]
mod device_suite;

mod above;
mod amp;
mod arrival;
mod attention;
mod batch;
mod cache;
mod dense;
mod faults;
mod filter;
mod lm;
mod mutants;
mod operations;
mod planted;
mod planted_above;
mod planted_batch;
mod planted_codes;
mod planted_dense;
mod planted_filter;
mod planted_gather;
mod planted_halves;
mod profile;
mod sanitizers;
mod shadow;
mod start;
mod traffic;
mod traffic_model;
mod wrappers;
mod wrappers_tensor;
