//! In how many pieces a batch is computed, and what running out of memory does to that.

/// Failures at the smallest micro-batch after which a run gives up.
pub const FAILURES_AT_FLOOR: u32 = 3;

/// Tokens that are computed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MicroBatch {
    batch: usize,
    size: usize,
    failures_at_floor: u32,
}

/// What to do after memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterOom {
    /// Run the same step again, in the pieces that are now in force.
    Again,
    /// Fail the run.
    GiveUp,
}

impl MicroBatch {
    /// Pieces of `size` tokens of a batch of `batch`; 0 means the whole batch.
    pub fn new(batch: usize, size: usize) -> Self {
        let size = if size == 0 { batch } else { size.min(batch) };
        Self {
            batch,
            size,
            failures_at_floor: 0,
        }
    }

    /// Tokens in a piece.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Pieces in a batch.
    pub fn accumulation(&self) -> usize {
        self.batch.div_ceil(self.size)
    }

    /// Memory ran out: halves the piece, which doubles the accumulation.
    pub fn out_of_memory(&mut self) -> AfterOom {
        if self.size > 1 {
            self.size = self.size.div_ceil(2);
            return AfterOom::Again;
        }
        self.failures_at_floor += 1;
        if self.failures_at_floor < FAILURES_AT_FLOOR {
            AfterOom::Again
        } else {
            AfterOom::GiveUp
        }
    }

    /// A step went well.
    pub fn succeeded(&mut self) {
        self.failures_at_floor = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// behaviour: train-10
    #[test]
    fn pieces_halve_and_accumulation_doubles_until_three_failures_at_the_floor() {
        let mut micro = MicroBatch::new(8, 0);
        let mut seen = vec![(micro.size(), micro.accumulation())];
        for _ in 0..3 {
            assert_eq!(micro.out_of_memory(), AfterOom::Again);
            seen.push((micro.size(), micro.accumulation()));
        }
        assert_eq!(seen, [(8, 1), (4, 2), (2, 4), (1, 8)]);
        assert_eq!(micro.out_of_memory(), AfterOom::Again);
        assert_eq!(micro.out_of_memory(), AfterOom::Again);
        let mut recovered = micro;
        recovered.succeeded();
        assert_eq!(recovered.out_of_memory(), AfterOom::Again);
        assert_eq!(micro.out_of_memory(), AfterOom::GiveUp);
    }

    #[test]
    fn odd_batches_are_covered() {
        let mut micro = MicroBatch::new(7, 0);
        micro.out_of_memory();
        assert_eq!((micro.size(), micro.accumulation()), (4, 2));
        assert_eq!(MicroBatch::new(7, 100).size(), 7);
    }
}
