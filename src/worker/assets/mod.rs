//! What a worker does with models and datasets, apart from training.

mod dataset;
mod model;

use crate::domain::{Code, Error, Result};
use crate::protocol::asset::{AssetFact, AssetTask, Outcome, WorkProgress, WorkStage};
use crate::system::memory;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Progress is told at most this often.
const TOLD_EVERY: Duration = Duration::from_millis(500);
/// Below this a pace is not measured, but guessed.
const MEASURED: Duration = Duration::from_millis(200);

/// What the worker and those who watch it share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Whether somebody wants the work to end.
    pub cancelled: AtomicBool,
    /// Grows whenever the work passes by.
    pub beats: AtomicU64,
}

/// Does `task` to its end and tells how it goes. The last fact says how it ended.
///
/// # Errors
/// Whatever ended the work; it was told too.
pub fn run(task: &AssetTask, shared: &Shared, tell: &mut dyn FnMut(AssetFact)) -> Result<()> {
    let result = {
        let mut desk = Desk {
            shared,
            tell: &mut *tell,
            stage: None,
        };
        catch_unwind(AssertUnwindSafe(|| work(task, &mut desk))).unwrap_or_else(|_| {
            let message = "the worker panicked";
            Err(Error::new(Code::Internal, "worker", message)
                .hint("this is a defect of backpropd; the log has its place"))
        })
    };
    let peak_memory = memory::peak();
    match result {
        Ok(outcome) => {
            tell(AssetFact::Done {
                outcome,
                peak_memory,
            });
            Ok(())
        }
        Err(error) => {
            tell(AssetFact::Failed {
                problem: (&error).into(),
                peak_memory,
            });
            Err(error)
        }
    }
}

fn work(task: &AssetTask, desk: &mut Desk<'_>) -> Result<Outcome> {
    Ok(match task {
        AssetTask::Describe { model } => Outcome::Described(Box::new(model::describe(model)?)),
        AssetTask::Verify { model } => Outcome::Verified(Box::new(model::verify(model, desk)?)),
        AssetTask::Validate { data, text_column } => {
            Outcome::Validated(Box::new(dataset::validate(data, text_column, desk)?))
        }
        AssetTask::Tokenize {
            name,
            model,
            settings,
            cache,
        } => Outcome::Tokenized(Box::new(dataset::tokenize(
            name.as_str(),
            model,
            settings,
            cache,
            desk,
        )?)),
    })
}

/// Where work reports how far it is, and hears whether to go on.
struct Desk<'a> {
    shared: &'a Shared,
    tell: &'a mut dyn FnMut(AssetFact),
    stage: Option<Stage>,
}

/// The stage under way.
struct Stage {
    stage: WorkStage,
    began: Instant,
    told: Instant,
    done: u64,
}

impl Desk<'_> {
    /// Says how far `stage` is; not more often than it is read, and never less than before.
    ///
    /// # Errors
    /// `cancelled`.
    fn progress(&mut self, stage: WorkStage, done: u64, total: Option<u64>) -> Result<()> {
        self.shared.beats.fetch_add(1, Ordering::Relaxed);
        if self.shared.cancelled.load(Ordering::Relaxed) {
            return Err(Error::new(Code::Cancelled, stage.as_str(), "was cancelled"));
        }
        let now = Instant::now();
        let (began, least) = match &self.stage {
            Some(last) if last.stage == stage => {
                if now - last.told < TOLD_EVERY {
                    return Ok(());
                }
                (last.began, last.done)
            }
            _ => (now, 0),
        };
        let done = total.map_or(done, |total| done.min(total)).max(least);
        self.stage = Some(Stage {
            stage,
            began,
            told: now,
            done,
        });
        let elapsed = now - began;
        let per_second = (elapsed >= MEASURED).then(|| done as f64 / elapsed.as_secs_f64());
        let left = total.map(|total| (total - done) as f64);
        let pace = per_second.filter(|pace| *pace > 0.0);
        (self.tell)(AssetFact::Progress(WorkProgress {
            stage,
            done,
            total,
            per_second,
            eta_seconds: left.zip(pace).map(|(left, pace)| left / pace),
        }));
        Ok(())
    }
}
