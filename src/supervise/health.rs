//! Health by progress: who has work and gets nowhere.

use super::Cause;
use super::cause::millis;
use super::life::Life;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::thread::ThreadId;
use std::time::Duration;

/// Reports an actor's progress, from any thread; see
/// [`Context::pulse`](super::Context::pulse).
///
/// Answered messages count by themselves. This is for work of another kind, such as
/// watching a process, and for answers that take longer than the limit.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Life>);

impl Pulse {
    pub(super) fn new(life: Arc<Life>) -> Self {
        Self(life)
    }

    /// Reports one step of progress.
    pub fn tick(&self) {
        self.0.made_progress();
    }

    /// Declares work: until the guard is dropped, progress is expected.
    pub fn work(&self) -> Work {
        self.0.work.fetch_add(1, Relaxed);
        Work(self.0.clone())
    }
}

/// Work under way; its end is progress.
#[derive(Debug)]
pub struct Work(Arc<Life>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.work.fetch_sub(1, Relaxed);
        self.0.made_progress();
    }
}

/// What a generation shows at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sign {
    pub generation: u64,
    pub progress: u64,
    /// Whether it has work.
    pub busy: bool,
    /// The number of its present turn on its thread, if it is on it.
    pub turn: Option<u64>,
    /// Unknown before its first turn.
    pub thread: Option<ThreadId>,
}

impl Sign {
    pub fn of(life: &Life) -> Self {
        let turn = life.polling.load(Acquire).then(|| life.polls.load(Relaxed));
        Self {
            generation: life.generation,
            progress: life.progress.load(Relaxed),
            busy: turn.is_some() || life.depth() > 0 || life.work.load(Relaxed) > 0,
            turn,
            thread: life.thread.get().copied(),
        }
    }
}

/// What was seen of a child so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    seen: Option<Sign>,
    /// Since when it has been busy without progress.
    stalled_since: Duration,
    /// Since when it has been in the same turn.
    turn_since: Duration,
    now: Duration,
}

impl Watch {
    /// Notes what the child shows at `now`; nothing when no generation is there.
    pub fn observe(&mut self, now: Duration, sign: Option<Sign>) {
        let before = std::mem::replace(&mut self.seen, sign);
        self.now = now;
        let same = |f: fn(&Sign) -> (u64, Option<u64>)| {
            before
                .as_ref()
                .map(f)
                .is_some_and(|b| sign.as_ref().map(f) == Some(b))
        };
        if !same(|s| (s.generation, Some(s.progress))) || !sign.is_some_and(|s| s.busy) {
            self.stalled_since = now;
        }
        if !same(|s| (s.generation, s.turn)) || sign.is_none_or(|s| s.turn.is_none()) {
            self.turn_since = now;
        }
    }

    /// The thread that it keeps from others.
    pub fn blocks(&self) -> Option<ThreadId> {
        let long = self.turn_since < self.now;
        self.seen.filter(|_| long).and_then(|sign| sign.thread)
    }

    /// For how long it has had work and made no progress.
    pub fn stalled(&self) -> Duration {
        self.now.saturating_sub(self.stalled_since)
    }

    /// Whether it is to be replaced: the generation and why. `blocked` are the threads
    /// that some child keeps.
    pub fn judge(&mut self, limit: Duration, blocked: &[ThreadId]) -> Option<(u64, Cause)> {
        let sign = self.seen?;
        let starved = match sign.thread {
            // It never had a turn: another instance would not get one earlier.
            None => true,
            Some(thread) => sign.turn.is_none() && blocked.contains(&thread),
        };
        if starved {
            self.stalled_since = self.now;
        }
        let cause = Cause::Hung {
            stalled_ms: millis(self.stalled()),
            blocking: self.blocks().is_some(),
        };
        (self.stalled() >= limit).then_some((sign.generation, cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn sign(generation: u64, progress: u64, busy: bool, turn: Option<u64>) -> Option<Sign> {
        Some(Sign {
            generation,
            progress,
            busy,
            turn,
            thread: Some(std::thread::current().id()),
        })
    }

    fn hung(watch: &mut Watch, blocked: &[ThreadId]) -> Option<(u64, bool)> {
        match watch.judge(LIMIT, blocked)? {
            (generation, Cause::Hung { blocking, .. }) => Some((generation, blocking)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn work_without_progress_for_the_limit_is_a_hang_and_idleness_is_not() {
        let mut watch = Watch::default();
        // At, what it shows, the verdict.
        let table = [
            (0, sign(1, 0, true, None), None),
            (99, sign(1, 0, true, None), None),
            (100, sign(1, 0, true, None), Some((1, false))),
            (101, sign(1, 1, true, None), None),  // progress
            (190, sign(1, 1, false, None), None), // idle
            (500, sign(1, 1, false, None), None),
            (599, sign(1, 1, true, None), None),
            (600, sign(1, 1, true, None), Some((1, false))),
            (601, sign(2, 1, true, None), None), // another generation
            (700, sign(2, 1, true, Some(7)), None),
            (701, sign(2, 1, true, Some(7)), Some((2, true))),
            (900, None, None),
        ];
        for (at, sign, verdict) in table {
            watch.observe(ms(at), sign);
            assert_eq!(hung(&mut watch, &[]), verdict, "at {at}");
        }
    }

    #[test]
    fn the_one_that_blocks_a_thread_is_blamed_and_those_behind_it_are_not() {
        let (mut culprit, mut victim) = (Watch::default(), Watch::default());
        for at in [0, 50, 100] {
            culprit.observe(ms(at), sign(1, 0, true, Some(3)));
            victim.observe(ms(at), sign(1, 0, true, None));
            let blocked: Vec<_> = culprit.blocks().into_iter().collect();
            assert_eq!(blocked.is_empty(), at == 0);
            assert_eq!(hung(&mut victim, &blocked), None);
            assert_eq!(
                hung(&mut culprit, &blocked),
                (at == 100).then_some((1, true))
            );
        }
        // Its clock begins when the thread is free.
        victim.observe(ms(199), sign(1, 0, true, None));
        assert_eq!(hung(&mut victim, &[]), None);
        victim.observe(ms(200), sign(1, 0, true, None));
        assert_eq!(hung(&mut victim, &[]), Some((1, false)));
    }

    #[test]
    fn many_short_turns_block_nothing_and_a_start_without_a_turn_is_no_hang() {
        let mut watch = Watch::default();
        for turn in 0..10 {
            watch.observe(ms(turn * 10), sign(1, turn, true, Some(turn)));
            assert_eq!(watch.blocks(), None);
        }
        let unborn = sign(1, 0, true, None).map(|sign| Sign {
            thread: None,
            ..sign
        });
        let mut watch = Watch::default();
        for at in [0, 1000, 2000] {
            watch.observe(ms(at), unborn);
            assert_eq!(hung(&mut watch, &[]), None);
        }
    }
}
