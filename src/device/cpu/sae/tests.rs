//! What every backend must pass, on every instruction set that is there.

use super::super::isa::Isa;
use super::super::pool::Pool;
use super::*;

mod operations;
mod selections;
#[path = "../../../../tests/device_suite/mod.rs"]
mod suite;

fn devices(threads: &[usize]) -> Vec<Cpu> {
    let isas = Isa::ALL.into_iter().filter(|isa| isa.available());
    isas.flat_map(|isa| {
        threads.iter().map(move |&t| Cpu {
            pool: Pool::with_isa(t, isa),
        })
    })
    .collect()
}
