//! Contexts that overlap.

use super::*;

/// behaviour: data-07
#[test]
fn a_stride_repeats_the_end_of_a_context_and_trains_on_it_once() {
    let mut bench = Bench::new(&TEXTS);
    let positions = |set: &TokenSet| -> Vec<u32> {
        let of = |context: Context| {
            let valid = context.valid_positions();
            valid.map(|at| context.ids[at]).collect::<Vec<_>>()
        };
        contexts(set).into_iter().flat_map(of).collect()
    };
    let (plain, _) = bench.build();
    bench.settings.stride = 3;
    let (set, _) = bench.build();
    assert_ne!(set.key(), plain.key());
    let all = contexts(&set);
    for pair in all.windows(2) {
        assert_eq!(pair[1].ids[0], 0, "the BOS stays in front");
        assert_eq!(pair[1].ids[1..4], pair[0].ids[5..8]);
        assert!((1..4).all(|at| !pair[1].valid(at)));
    }
    // 7 new tokens in the first context, 4 in each further one; a separator is never
    // at a beginning that needs none.
    let tokens: usize = TEXTS
        .map(|t| tokenizer().encode(t).unwrap().len())
        .iter()
        .sum();
    let stream = tokens + TEXTS.len() - 1;
    assert_eq!(all.len(), 1 + (stream - 7).div_ceil(4));
    // Every token of the text is trained on as often as without: once.
    let (with, without) = (positions(&set), positions(&plain));
    assert_eq!(with, without);
    assert_eq!(set.training_tokens(), plain.training_tokens());
    for (stride, packing, part) in [
        (7, Packing::Concat, "it may be 6"),
        (1, Packing::OnePerContext, "needs packing"),
    ] {
        let settings = TokenSettings {
            stride,
            packing,
            ..bench.settings.clone()
        };
        let error = settings.validate().unwrap_err();
        assert_eq!(
            (error.code, &error.about[..]),
            (Code::ConfigInvalid, "data.stride")
        );
        assert!(error.message.contains(part), "{error}");
    }
}
