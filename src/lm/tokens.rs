//! A batch of token ids.

use crate::device::lm::{NO_TARGET, Span};
use crate::domain::{Code, Error, Result};

/// `batch` contexts of `context` tokens each. Padding stands before or behind the real
/// tokens of a context; it is not attended to and does not count in positions.
#[derive(Clone, Debug)]
pub struct Tokens {
    ids: Vec<u32>,
    spans: Vec<Span>,
    context: usize,
}

impl Tokens {
    /// `batch · context` ids, all of them real.
    ///
    /// # Errors
    /// `usage` where the number of ids is not `batch · context`, or zero.
    pub fn new(ids: &[u32], batch: usize, context: usize) -> Result<Self> {
        Self::masked(ids, &vec![true; ids.len()], batch, context)
    }

    /// `batch · context` ids, of which those under `mask` are real.
    ///
    /// # Errors
    /// `usage` where a length is not `batch · context`, or zero, or where padding stands
    /// between the real tokens of a context.
    pub fn masked(ids: &[u32], mask: &[bool], batch: usize, context: usize) -> Result<Self> {
        let wrong = |message: String| Error::new(Code::Usage, "tokens", message);
        let rows = batch.checked_mul(context).filter(|&n| n > 0);
        if rows != Some(ids.len()) || ids.len() != mask.len() {
            return Err(wrong(format!(
                "{} ids and {} mask values are not {batch} contexts of {context} tokens",
                ids.len(),
                mask.len()
            )));
        }
        let spans = mask.chunks(context).enumerate().map(|(index, mask)| {
            let first = mask.iter().position(|&real| real).unwrap_or(0);
            let len = mask[first..].iter().take_while(|&&real| real).count();
            if mask[first + len..].iter().any(|&real| real) {
                return Err(wrong(format!(
                    "context {index} has padding between its tokens; it may stand before or behind them"
                )));
            }
            Ok(Span {
                start: index * context + first,
                len,
            })
        });
        Ok(Self {
            ids: ids.to_vec(),
            spans: spans.collect::<Result<_>>()?,
            context,
        })
    }

    /// All ids, context after context.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The real tokens of each context.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Number of rows, padding included: `batch · context`.
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// Rows of a context.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The token that follows each real token in its context; [`NO_TARGET`] elsewhere.
    pub fn next(&self) -> Vec<u32> {
        let mut next = vec![NO_TARGET; self.rows()];
        for span in &self.spans {
            if let Some(followers) = self.ids[span.start..][..span.len].get(1..) {
                next[span.start..][..followers.len()].copy_from_slice(followers);
            }
        }
        next
    }

    /// Position of each row within its span; zero on padding.
    pub(super) fn positions(&self) -> Vec<u32> {
        let mut positions = vec![0; self.rows()];
        for span in &self.spans {
            for (position, at) in positions[span.start..][..span.len].iter_mut().enumerate() {
                *at = position as u32;
            }
        }
        positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_on_either_side_is_left_out_of_spans_positions_and_targets() {
        let mask = [false, true, true, true, true, false, false, false];
        let tokens = Tokens::masked(&[9, 1, 2, 3, 4, 9, 9, 9], &mask, 2, 4).unwrap();
        assert_eq!(
            tokens.spans(),
            [Span { start: 1, len: 3 }, Span { start: 4, len: 1 }]
        );
        assert_eq!(tokens.positions(), [0, 0, 1, 2, 0, 0, 0, 0]);
        let none = NO_TARGET;
        assert_eq!(tokens.next(), [none, 2, 3, none, none, none, none, none]);
    }

    #[test]
    fn a_hole_and_a_wrong_length_are_refused() {
        let hole = Tokens::masked(&[1, 2, 3], &[true, false, true], 1, 3).unwrap_err();
        assert_eq!(hole.code, Code::Usage);
        assert!(hole.message.contains("context 0"), "{hole}");
        assert!(Tokens::new(&[1, 2, 3], 2, 2).is_err());
        assert!(Tokens::new(&[], 0, 4).is_err());
        assert!(Tokens::masked(&[1, 2], &[true], 1, 2).is_err());
    }

    #[test]
    fn a_context_of_padding_alone_is_an_empty_span() {
        let tokens = Tokens::masked(&[5, 5], &[false, false], 1, 2).unwrap();
        assert_eq!(tokens.spans(), [Span { start: 0, len: 0 }]);
        assert_eq!(tokens.next(), [NO_TARGET; 2]);
    }
}
