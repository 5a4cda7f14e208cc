//! Metric points: the measures of one hook point at one step.

use super::progress::finite;
use super::sql::not_found;
use super::{Tx, View};
use crate::domain::{Result, RunId};
use crate::protocol::Step;
use crate::protocol::service::Point;
use rusqlite::Row;

/// The points of one step, one for each hook point. What is not known or not finite is none.
pub(super) fn points(step: &Step) -> impl Iterator<Item = Point> + '_ {
    step.sites.iter().map(|site| Point {
        step: step.step,
        site: site.hook.clone(),
        loss: finite(site.loss),
        l0: finite(site.l0),
        l1: site.parts.get("l1_loss").copied().and_then(finite),
        dead: finite(site.dead),
        fvu: finite(site.fvu),
        lr: finite(step.lr),
        grad_norm: finite(site.grad_norm),
        gpu_mem: None,
        tokens_per_second: finite(step.tokens_per_second),
    })
}

/// Which points of a run to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricQuery<'a> {
    /// Only those of this hook point.
    pub site: Option<&'a str>,
    /// Only those after this step and hook point: the last ones of the page before. From
    /// step n on is after `(n, "")`.
    pub after: (u64, &'a str),
    /// Only those of every so many steps; 0 and 1 for all.
    pub every: u64,
}

impl View<'_> {
    /// At most `limit` points of a run, by step and then by hook point.
    ///
    /// # Errors
    /// `not-found`.
    pub fn metrics(&self, run: RunId, query: &MetricQuery<'_>, limit: u32) -> Result<Vec<Point>> {
        self.known(run)?;
        self.all(
            "SELECT step, site, loss, l0, l1, dead, fvu, lr, grad_norm, gpu_mem, tokens_s
             FROM metrics
             WHERE run = ?1 AND (step, site) > (?2, ?3) AND (?4 IS NULL OR site = ?4)
                   AND step % ?5 = 0
             ORDER BY step, site LIMIT ?6",
            (
                run,
                query.after.0,
                query.after.1,
                query.site,
                query.every.max(1),
                limit,
            ),
            read,
        )
    }

    /// That there is such a run.
    pub(super) fn known(&self, run: RunId) -> Result<()> {
        self.first("SELECT 1 FROM runs WHERE id = ?1", [run], |_| Ok(()))?
            .ok_or_else(|| not_found("run", run))
    }
}

impl Tx<'_> {
    /// Stores points. One for the same step and hook point takes the place of the earlier
    /// one: after a resume, the weights that live on are those of the later one.
    ///
    /// # Errors
    /// `not-found`.
    pub fn log<'p>(&self, run: RunId, points: impl IntoIterator<Item = &'p Point>) -> Result<()> {
        self.known(run)?;
        self.whole(|| {
            let sql = "INSERT OR REPLACE INTO metrics (run, step, site, loss, l0, l1, dead, fvu,
                                                       lr, grad_norm, gpu_mem, tokens_s)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
            self.each(sql, points, |statement, point| {
                statement.execute((
                    run,
                    point.step,
                    &point.site,
                    point.loss,
                    point.l0,
                    point.l1,
                    point.dead,
                    point.fvu,
                    point.lr,
                    point.grad_norm,
                    point.gpu_mem,
                    point.tokens_per_second,
                ))
            })
        })
    }

    /// Forgets the points after `step`: a run that goes on from there takes them back.
    pub fn rewind_metrics(&self, run: RunId, step: u64) -> Result<usize> {
        self.execute(
            "DELETE FROM metrics WHERE run = ?1 AND step > ?2",
            (run, step),
        )
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Point> {
    Ok(Point {
        step: row.get(0)?,
        site: row.get(1)?,
        loss: row.get(2)?,
        l0: row.get(3)?,
        l1: row.get(4)?,
        dead: row.get(5)?,
        fvu: row.get(6)?,
        lr: row.get(7)?,
        grad_norm: row.get(8)?,
        gpu_mem: row.get(9)?,
        tokens_per_second: row.get(10)?,
    })
}
