//! Events: everything that happened, in one order, for whoever asks what came after N.

use super::sql::{not_found, value};
use super::{Millis, Tx, View};
use crate::domain::{Result, RunId, SweepId};
use crate::protocol::api;
use rusqlite::Row;
use serde::Serialize;
use serde_json::Value;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// 1, 2, 3, … over all runs. Never given twice.
    pub id: u64,
    /// The run that it is about.
    pub run: Option<RunId>,
    /// 1, 2, 3, … within that run, whatever number of workers it has had.
    pub seq: Option<u64>,
    /// What kind of thing.
    pub kind: String,
    /// When it was stored.
    pub at: Millis,
    /// The rest, as JSON.
    pub payload: String,
}

impl From<Event> for api::Event {
    fn from(event: Event) -> Self {
        // What the store holds was written as an object.
        let fields: Value = serde_json::from_str(&event.payload).unwrap_or_default();
        let Event {
            id, run, seq, at, ..
        } = event;
        Self::new(id, run, seq, at, &event.kind, fields)
    }
}

/// Where an event has its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its number over all runs.
    pub id: u64,
    /// Its number within its run.
    pub seq: Option<u64>,
}

/// Events after some number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// What is missing before the first of them. To be told to whoever asked.
    pub gap: Option<Gap>,
    /// By number.
    pub events: Vec<Event>,
    /// Ask after this one for the next page. It can be past the last event here, where
    /// the later ones are about other runs.
    pub next: u64,
    /// Whether there are none after these for now.
    pub end: bool,
}

/// Events that cannot be given any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Gap {
    /// They were pruned.
    Pruned {
        /// The first one that is missing.
        first: u64,
        /// The last one that is missing.
        last: u64,
    },
    /// The number asked for was never given, so nobody can say what came after it. The
    /// page begins with the oldest event there is.
    Unknown {
        /// The newest one there is.
        newest: u64,
    },
}

/// How many events are kept, and how long. What is over either is pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Events that are kept at most.
    pub count: u64,
    /// Milliseconds that they are kept at most.
    pub age: Millis,
}

/// Events that are pruned in one go, so that nobody waits long for the store: some
/// milliseconds.
const PRUNED_AT_ONCE: u64 = 5_000;

impl View<'_> {
    /// At most `limit` events after number `after`, 0 for all of them; of one run, where
    /// one is named.
    ///
    /// # Errors
    /// `not-found`.
    pub fn events(&self, after: u64, run: Option<RunId>, limit: u32) -> Result<Page> {
        let Some(run) = run else {
            return self.page(after, limit, "true", None);
        };
        self.known(run)?;
        self.page(after, limit, "run = ?3", Some(run.0))
    }

    /// As [`View::events`], of one sweep and its runs.
    ///
    /// # Errors
    /// `not-found`.
    pub fn sweep_events(&self, after: u64, sweep: SweepId, limit: u32) -> Result<Page> {
        let sql = "SELECT 1 FROM sweeps WHERE id = ?1";
        self.first(sql, [sweep], |_| Ok(()))?
            .ok_or_else(|| not_found("sweep", sweep))?;
        self.page(after, limit, "sweep = ?3", Some(sweep.0))
    }

    fn page(&self, after: u64, limit: u32, which: &str, id: Option<i64>) -> Result<Page> {
        let limit = limit.max(1);
        let (oldest, newest) = self.event_range()?;
        let gap = if after > newest {
            Some(Gap::Unknown { newest })
        } else if after + 1 < oldest {
            Some(Gap::Pruned {
                first: after + 1,
                last: oldest - 1,
            })
        } else {
            None
        };
        let from = match gap {
            Some(Gap::Unknown { .. }) => 0,
            _ => after,
        };
        let sql = format!(
            "SELECT id, run, seq, kind, at, payload FROM events
             WHERE {which} AND id > ?1 ORDER BY id LIMIT ?2"
        );
        let events = match id {
            None => self.all(&sql, (from, limit), read)?,
            Some(id) => self.all(&sql, (from, limit, id), read)?,
        };
        let full = events.len() as u64 == u64::from(limit);
        let last = events.last().map(|event| event.id);
        Ok(Page {
            gap,
            events,
            next: if full { last.unwrap_or(from) } else { newest },
            end: !full || last == Some(newest),
        })
    }

    /// The number of the newest event, 0 before the first. Everything after it is news.
    pub fn newest_event(&self) -> Result<u64> {
        Ok(self.event_range()?.1)
    }

    /// The number of the first event that was stored at `then` or later.
    pub fn first_event_since(&self, then: Millis) -> Result<Option<u64>> {
        let sql = "SELECT id FROM events WHERE at >= ?1 ORDER BY id LIMIT 1";
        self.first(sql, [then], |row| row.get(0))
    }

    /// The oldest number that is stored, or would be next, and the newest that was given.
    fn event_range(&self) -> Result<(u64, u64)> {
        let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'events'";
        let newest: u64 = self.first(sql, [], |row| row.get(0))?.unwrap_or(0);
        let sql = "SELECT id FROM events ORDER BY id LIMIT 1";
        let oldest = self.first(sql, [], |row| row.get(0))?;
        Ok((oldest.unwrap_or(newest + 1), newest))
    }
}

impl Tx<'_> {
    /// Stores an event of the daemon itself, about a run or about none. What a worker says
    /// goes through [`Tx::record`].
    ///
    /// # Errors
    /// `not-found`.
    pub fn append(
        &self,
        run: Option<RunId>,
        kind: &str,
        payload: &impl Serialize,
        now: Millis,
    ) -> Result<Appended> {
        self.append_value(run, None, kind, value(payload)?, now)
    }

    /// An event about a run, or else about a sweep, or about neither. What is about a run
    /// of a sweep names both, and the run's index.
    pub(super) fn append_value(
        &self,
        run: Option<RunId>,
        sweep: Option<SweepId>,
        kind: &str,
        mut payload: Value,
        now: Millis,
    ) -> Result<Appended> {
        let mut note = |name: &str, value: Value| {
            if let Value::Object(fields) = &mut payload {
                fields.insert(name.to_owned(), value);
            }
        };
        let (mut sweep, mut seq) = (sweep, None);
        if let Some(run) = run {
            let sql = "UPDATE runs SET last_seq = last_seq + 1 WHERE id = ?1
                       RETURNING last_seq, sweep, sweep_index";
            let (of_run, in_sweep, index): (u64, Option<SweepId>, Option<u64>) = self
                .first(sql, [run], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?
                .ok_or_else(|| not_found("run", run))?;
            (sweep, seq) = (in_sweep, Some(of_run));
            if let Some(index) = index {
                note("run_idx", index.into());
            }
        }
        if let Some(sweep) = sweep {
            note("sweep", sweep.0.into());
        }
        let id = self.insert(
            "INSERT INTO events (run, seq, kind, at, payload, sweep)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            (run, seq, kind, now, payload.to_string(), sweep),
        )?;
        // AUTOINCREMENT counts up from 1.
        let id = id.unsigned_abs();
        let event = api::Event::new(id, run, seq, now, kind, payload);
        self.events.borrow_mut().push(event);
        Ok(Appended { id, seq })
    }

    /// Removes some of the events that `retention` no longer keeps, the oldest first, and
    /// says how many: ask again until that is 0. Only the oldest go, so that what is left
    /// has no holes, even where the clock was set back.
    pub fn prune_events(&self, retention: Retention, now: Millis) -> Result<usize> {
        let (oldest, newest) = self.event_range()?;
        let by_count = (newest + 1).saturating_sub(retention.count);
        let end = oldest.saturating_add(PRUNED_AT_ONCE).min(newest + 1);
        let sql = "SELECT id FROM events WHERE id < ?1 AND at >= ?2 ORDER BY id LIMIT 1";
        let cutoff = now.saturating_sub(retention.age);
        let by_age = self.first(sql, (end, cutoff), |row| row.get(0))?;
        let keep_from = by_count.max(by_age.unwrap_or(end)).min(end);
        self.execute("DELETE FROM events WHERE id < ?1", [keep_from])
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        id: row.get(0)?,
        run: row.get(1)?,
        seq: row.get(2)?,
        kind: row.get(3)?,
        at: row.get(4)?,
        payload: row.get(5)?,
    })
}
