//! Selections against a sort.

use super::*;

fn choices(shape: Shape) -> Vec<Choice> {
    let Shape {
        tokens, latents, ..
    } = shape;
    let third: Vec<u32> = (0..latents as u32).filter(|j| j % 3 == 1).collect();
    let most = third.len();
    vec![
        Choice::TopK(1, None),
        Choice::TopK(latents.min(7), None),
        Choice::TopK(latents, None),
        Choice::TopK(most.min(5), Some(third.clone())),
        Choice::TopK(most, Some(third)),
        Choice::TopK(0, Some(vec![])),
        Choice::Batch(0),
        Choice::Batch(tokens * 2 + 1),
        Choice::Batch(tokens * latents),
        Choice::Above,
    ]
}

const SHAPES: [Shape; 5] = [
    Shape {
        tokens: 1,
        d: 1,
        latents: 1,
    },
    Shape {
        tokens: 0,
        d: 3,
        latents: 5,
    },
    Shape {
        tokens: 13,
        d: 5,
        latents: 33,
    },
    Shape {
        tokens: 70,
        d: 19,
        latents: 600,
    },
    Shape {
        tokens: 30,
        d: 300,
        latents: 1111,
    },
];

#[test]
fn selections_agree_with_a_sort_on_keys_that_are_often_equal() {
    let oracle = Reference::<f64>::new();
    for shape in SHAPES {
        for scaled in [false, true] {
            let choices = choices(shape);
            let expected: Vec<_> = pick(&oracle, shape, &choices, scaled, coarse)
                .iter()
                .map(|codes| oracle.download_codes(codes).unwrap())
                .collect();
            for device in devices(&[1, 3]) {
                let check = |codes: &Codes, of: usize| {
                    let got = device.download_codes(codes).unwrap();
                    let what =
                        format!("{} {shape:?} {:?} {scaled}", device.describe(), choices[of]);
                    assert_eq!(got.row_ptr, expected[of].row_ptr, "{what}");
                    assert_eq!(got.latent, expected[of].latent, "{what}");
                    let pre: Vec<f64> = got.pre.iter().map(|p| f64::from(*p)).collect();
                    assert_eq!(pre, expected[of].pre, "{what}");
                };
                // All at once, then each by itself.
                for (of, codes) in pick(&device, shape, &choices, scaled, coarse)
                    .iter()
                    .enumerate()
                {
                    check(codes, of);
                }
                for (of, choice) in choices.iter().enumerate() {
                    let codes = pick(&device, shape, std::slice::from_ref(choice), scaled, coarse);
                    check(&codes[0], of);
                }
            }
        }
    }
}

#[test]
fn nan_is_the_last_choice_of_topk_and_none_of_the_others() {
    for device in devices(&[2]) {
        let x = vec![1.0f32; 3];
        let w_enc = vec![f32::NAN, -2.0, f32::NAN, f32::NEG_INFINITY, -1.0];
        let (b_enc, lower) = (vec![0.0; 5], vec![f32::NEG_INFINITY; 5]);
        let mut codes = [(); 4].map(|()| device.new_codes());
        let [a, b, c, d] = &mut codes;
        let top = |k| Select::TopK {
            k,
            scale: None,
            among: None,
        };
        let mut picks = [
            Pick {
                select: top(2),
                codes: a,
            },
            Pick {
                select: top(4),
                codes: b,
            },
            Pick {
                select: Select::BatchTopK {
                    total: 9,
                    scale: None,
                },
                codes: c,
            },
            Pick {
                select: Select::Above { lower: &lower },
                codes: d,
            },
        ];
        let product = Encode {
            x: Rows::of(&x, 3),
            center: None,
            w_enc: &w_enc,
            b_enc: &b_enc,
            d_in: 1,
            d_sae: 5,
        };
        device.encode(&product, &mut picks).unwrap();
        let row = |codes: &Codes| codes.latent[codes.row(1)].to_vec();
        assert_eq!(row(&codes[0]), [1, 4]);
        assert_eq!(row(&codes[1]), [0, 1, 3, 4]);
        assert!(row(&codes[2]).is_empty());
        assert_eq!(row(&codes[3]), [1, 4]);
    }
}

#[test]
fn a_later_latent_of_an_earlier_token_wins_a_tie_of_the_whole_batch() {
    // More latents than BatchTopK takes at first, and all keys equal.
    const LATENTS: usize = 600;
    for device in devices(&[2]) {
        let (x, ones, zeros) = (vec![1.0; 3], vec![1.0; LATENTS], vec![0.0; LATENTS]);
        let mut codes = device.new_codes();
        let total = LATENTS + 100;
        let select = Select::BatchTopK { total, scale: None };
        let pick = Pick {
            select,
            codes: &mut codes,
        };
        let product = Encode {
            x: Rows::of(&x, 3),
            center: None,
            w_enc: &ones,
            b_enc: &zeros,
            d_in: 1,
            d_sae: LATENTS,
        };
        device.encode(&product, &mut [pick]).unwrap();
        assert_eq!(codes.row_ptr, [0, 600, 700, 700]);
        assert!(codes.latent[600..].iter().copied().eq(0..100));
    }
}
