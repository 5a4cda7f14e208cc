//! Copies of rows, and the look for what is not finite.

use super::{down, fine, ints, up};
use backpropd::device::rows::{Picked, RowOps};
use backpropd::device::sae::Rows;

/// Widths that move as one, and widths that do not.
const WIDTHS: [usize; 5] = [1, 4, 5, 132, 257];
const ROWS: usize = 21;

/// Picked rows stand in their order behind those before, and nothing else is written.
pub fn are_gathered<D: RowOps>(devices: &[D]) {
    let pick = [20, 3, 3, 0, 7, 19, 1, 2, 11, 5];
    for device in devices {
        let numbers = ints(device, &pick);
        for d in WIDTHS {
            let from = fine(ROWS * d, 1);
            let mut expected = fine(12 * d, 2);
            let mut to = up(device, &expected);
            let picked = Picked {
                pick: &numbers,
                at: 1,
                count: 9,
            };
            device
                .gather_rows(&up(device, &from), picked, d, &mut to, 2)
                .unwrap();
            for (row, to) in pick[1..].iter().zip(expected[2 * d..].chunks_mut(d)) {
                to.copy_from_slice(&from[*row as usize * d..][..d]);
            }
            assert_eq!(down(device, &to), expected, "width {d}");
        }
    }
}

/// The first of several bad rows is found, in any of its columns, and those around are not looked
/// at.
pub fn are_looked_through<D: RowOps>(devices: &[D]) {
    for device in devices {
        for d in WIDTHS {
            let mut values = fine(ROWS * d, 3);
            values[0] = f64::NAN;
            values[ROWS * d - 1] = f64::INFINITY;
            let look = |values: &[f64]| {
                let rows = Rows {
                    buf: &up(device, values),
                    first: 1,
                    count: ROWS - 2,
                };
                device.first_not_finite(rows, d).unwrap()
            };
            // The largest number there is counts as one.
            values[2 * d] = f64::from(f32::MAX);
            assert_eq!(look(&values), None, "width {d}");
            let kinds = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
            for (bad, column) in kinds.into_iter().zip([0, d / 2, d - 1]) {
                let mut values = values.clone();
                values[12 * d] = f64::NAN;
                values[9 * d + column] = bad;
                assert_eq!(look(&values), Some(8), "{bad} in column {column} of {d}");
            }
        }
    }
}
