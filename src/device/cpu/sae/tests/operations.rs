//! Every operation against the f64 reference, and its bits against those of other threads and
//! instruction sets.

use super::suite::operations::{agree_with_the_reference, bits, dense, everything};
use super::suite::{Choice, Shape, rows};
use super::*;

#[test]
fn every_operation_agrees_with_the_f64_reference() {
    agree_with_the_reference(&devices(&[2]));
}

#[test]
fn rows_are_gathered_and_looked_through() {
    let devices = devices(&[1, 3]);
    rows::are_gathered(&devices);
    rows::are_looked_through(&devices);
}

#[test]
fn avx512_and_avx2_have_the_same_bits() {
    let isas = [Isa::Avx512, Isa::Avx2]
        .into_iter()
        .filter(|isa| isa.available());
    let shape = Shape {
        tokens: 70,
        d: 171,
        latents: 301,
    };
    let results: Vec<_> = isas
        .map(|isa| {
            let device = Cpu {
                pool: Pool::with_isa(2, isa),
            };
            let few = everything(&device, shape, &Choice::TopK(5, None), 100);
            let many = everything(&device, shape, &Choice::Above, 100);
            bits([few, many, dense(&device, 300, 171)].concat())
        })
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        let device = |threads| Cpu {
            pool: Pool::with_isa(threads, isa),
        };
        let shape = Shape {
            tokens: 530,
            d: 37,
            latents: 301,
        };
        for choice in [Choice::TopK(5, None), Choice::Above] {
            let run = |threads| bits(everything(&device(threads), shape, &choice, 100));
            let one = run(1);
            assert_eq!(one, run(2));
            assert_eq!(one, run(5));
        }
        let run = |threads| bits(dense(&device(threads), 4000, 65));
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(7));
    }
}
