//! backpropd trains sparse autoencoders (SAEs) on the activations of language models.
//!
//! The binary is the product; this library exists so that the binary, its tests and its
//! benchmarks share one code.

// Unit tests include files that tests of the whole include too, and those say `backpropd::`.
#[cfg(test)]
extern crate self as backpropd;

pub mod activations;
pub mod actors;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod control;
pub mod ctl;
pub mod data;
pub mod device;
pub mod domain;
pub mod eval;
pub mod gpu;
pub mod handlers;
pub mod lm;
pub mod protocol;
pub mod report;
pub mod sae;
pub mod service;
pub mod store;
pub mod supervise;
pub mod system;
pub mod tensorfile;
pub mod worker;
