//! NVIDIA's numbered errors.

use serde::{Deserialize, Serialize};

/// What follows from an [`Xid`] for the run on its GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum XidAdvice {
    /// Good to know.
    Note,
    /// The process that caused it is lost; the GPU is sound. Try again on it.
    Retry,
    /// The GPU cannot be trusted until it is reset: nothing new on it.
    Drain,
}

/// An error that the driver reported for a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xid {
    /// The driver's number; null where it did not say one.
    pub number: Option<u64>,
    /// What the number means.
    pub meaning: String,
    /// What follows.
    pub advice: XidAdvice,
}

impl Xid {
    /// The error with this number.
    pub fn new(number: Option<u64>) -> Self {
        use XidAdvice::{Drain, Note, Retry};
        let (meaning, advice) = match number {
            Some(13) => ("a kernel caused an exception", Retry),
            Some(31) => ("a kernel used an address that is not mapped", Retry),
            Some(43) => ("a process's channel was stopped after its own error", Retry),
            Some(45) => ("channels of an ended process were cleaned up", Note),
            Some(48) => ("an uncorrectable memory error", Drain),
            Some(61 | 62) => ("the GPU's microcontroller failed", Drain),
            Some(63) => (
                "a faulty memory row will be replaced at the next reset",
                Note,
            ),
            Some(64) => ("a faulty memory row could not be replaced", Drain),
            Some(74) => ("an NVLink error", Drain),
            Some(79) => ("the GPU fell off the bus", Drain),
            Some(92) => ("many corrected memory errors", Note),
            Some(94) => ("a memory error that one process alone suffers from", Retry),
            Some(95) => ("a memory error that any process may suffer from", Drain),
            Some(109) => ("a context switch took too long", Retry),
            Some(119 | 120) => ("the GPU's system processor does not answer", Drain),
            Some(140) => ("an uncorrectable error in the GPU's caches", Drain),
            Some(_) => ("an error that this program does not know", Note),
            None => ("an error without a number", Note),
        };
        Self {
            number,
            meaning: meaning.to_owned(),
            advice,
        }
    }
}
