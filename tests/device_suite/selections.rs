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

/// Every choice on every shape: all at once, then each by itself.
pub fn agree_with_a_sort<D: SaeOps>(devices: &[D]) {
    let oracle = Reference::<f64>::new();
    for shape in SHAPES {
        for scaled in [false, true] {
            let choices = choices(shape);
            let expected: Vec<_> = pick(&oracle, shape, &choices, scaled, coarse)
                .iter()
                .map(|codes| oracle.download_codes(codes).unwrap())
                .collect();
            for device in devices {
                let check = |codes: &D::Codes, of: usize| {
                    let got = device.download_codes(codes).unwrap();
                    let what =
                        format!("{} {shape:?} {:?} {scaled}", device.describe(), choices[of]);
                    assert_eq!(got.row_ptr, expected[of].row_ptr, "{what}");
                    assert_eq!(got.latent, expected[of].latent, "{what}");
                    let pre: Vec<f64> = got.pre.iter().map(|p| p.to_f64()).collect();
                    assert_eq!(pre, expected[of].pre, "{what}");
                };
                let all = pick(device, shape, &choices, scaled, coarse);
                for (of, codes) in all.iter().enumerate() {
                    check(codes, of);
                }
                for (of, choice) in choices.iter().enumerate() {
                    let codes = pick(device, shape, std::slice::from_ref(choice), scaled, coarse);
                    check(&codes[0], of);
                }
            }
        }
    }
}

/// The codes of three tokens of which each is the number 1, of one column.
fn of_ones<D: SaeOps>(device: &D, w_enc: &[f64], selects: &[Choice]) -> Vec<HostCodes<D::Real>> {
    let latents = w_enc.len();
    let x = up(device, &[1.0; 3]);
    let w_enc = up(device, w_enc);
    let b_enc = up(device, &vec![0.0; latents]);
    let lower = up(device, &vec![f64::NEG_INFINITY; latents]);
    let mut codes: Vec<D::Codes> = selects.iter().map(|_| device.new_codes()).collect();
    let mut picks: Vec<Pick<'_, D>> = Vec::new();
    for (choice, codes) in selects.iter().zip(&mut codes) {
        let select = match choice {
            Choice::TopK(k, _) => Select::TopK {
                k: *k,
                scale: None,
                among: None,
            },
            Choice::Batch(total) => Select::BatchTopK {
                total: *total,
                scale: None,
            },
            Choice::Above => Select::Above { lower: &lower },
        };
        picks.push(Pick { select, codes });
    }
    let product = Encode {
        x: Rows::of(&x, 3),
        center: None,
        w_enc: &w_enc,
        b_enc: &b_enc,
        d_in: 1,
        d_sae: latents,
        rounded: true,
    };
    device.encode(&product, &mut picks).unwrap();
    let host = codes.iter().map(|codes| device.download_codes(codes));
    host.collect::<Result<_, _>>().unwrap()
}

/// NaN is less than any number.
pub fn nan_is_the_last_choice<D: SaeOps>(device: &D) {
    let w_enc = [f64::NAN, -2.0, f64::NAN, f64::NEG_INFINITY, -1.0];
    let selects = [
        Choice::TopK(2, None),
        Choice::TopK(4, None),
        Choice::Batch(9),
        Choice::Above,
    ];
    let codes = of_ones(device, &w_enc, &selects);
    let row = |codes: &HostCodes<D::Real>| {
        codes.latent[codes.row_ptr[1] as usize..codes.row_ptr[2] as usize].to_vec()
    };
    assert_eq!(row(&codes[0]), [1, 4]);
    assert_eq!(row(&codes[1]), [0, 1, 3, 4]);
    assert!(row(&codes[2]).is_empty());
    assert_eq!(row(&codes[3]), [1, 4]);
}

/// More latents than BatchTopK takes at first, and all keys equal.
pub fn the_earlier_token_wins_a_tie<D: SaeOps>(device: &D) {
    const LATENTS: usize = 600;
    let codes = of_ones(device, &[1.0; LATENTS], &[Choice::Batch(LATENTS + 100)]);
    assert_eq!(codes[0].row_ptr, [0, 600, 700, 700]);
    assert!(codes[0].latent[600..].iter().copied().eq(0..100));
}
