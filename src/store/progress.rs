//! How far a run is.

use super::sql::not_found;
use super::{Millis, Tx};
use crate::domain::run_state::{Answer, Report};
use crate::domain::{Result, RunId};
use crate::protocol::Step;

/// How far a run is. What is not known yet is none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: Option<u64>,
    /// 1 for the first pass over the text.
    pub epoch: Option<u64>,
    /// Tokens trained on.
    pub tokens: Option<u64>,
    /// Mean of the sites' losses.
    pub loss: Option<f64>,
    /// Mean of the sites' active latents a token.
    pub l0: Option<f64>,
    /// Tokens a second.
    pub tokens_per_second: Option<f64>,
}

impl Progress {
    /// 0 … 100.
    pub fn percent(&self) -> Option<f64> {
        let steps = self.steps.filter(|&steps| steps > 0)?;
        Some((self.step as f64 * 100.0 / steps as f64).min(100.0))
    }
}

impl From<&Step> for Progress {
    fn from(step: &Step) -> Self {
        let l0: f64 = step.sites.iter().map(|site| site.l0).sum();
        Self {
            step: step.step,
            steps: Some(step.steps),
            epoch: Some(step.epoch),
            tokens: Some(step.tokens),
            loss: finite(step.loss),
            l0: finite(l0 / step.sites.len() as f64),
            tokens_per_second: finite(step.tokens_per_second),
        }
    }
}

/// What can be stored and written as JSON.
pub(super) fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

impl Tx<'_> {
    /// Notes how far a run is, unless it has no worker. The state becomes `running` only
    /// where a step says so: a paused run stays paused.
    ///
    /// # Errors
    /// `not-found`: no run is made from the word of a worker.
    pub fn progress(&self, run: RunId, progress: &Progress, now: Millis) -> Result<Answer> {
        let answer = self.apply(run, Report::Stepped, now)?;
        if !matches!(answer, Answer::NotPossible(_)) {
            self.set_progress(run, progress, now)?;
        }
        Ok(answer)
    }

    /// Steps may go back: a run that resumes repeats those after its checkpoint.
    pub(super) fn set_progress(&self, run: RunId, progress: &Progress, now: Millis) -> Result<()> {
        let changed = self.execute(
            "UPDATE runs SET step = ?2, steps = coalesce(?3, steps), epoch = coalesce(?4, epoch),
                 tokens = coalesce(?5, tokens), loss = coalesce(?6, loss), l0 = coalesce(?7, l0),
                 tokens_s = coalesce(?8, tokens_s), updated_at = ?9
             WHERE id = ?1",
            (
                run,
                progress.step,
                progress.steps,
                progress.epoch,
                progress.tokens,
                progress.loss,
                progress.l0,
                progress.tokens_per_second,
                now,
            ),
        )?;
        if changed == 0 {
            return Err(not_found("run", run));
        }
        Ok(())
    }
}
