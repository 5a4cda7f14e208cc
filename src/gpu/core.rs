//! What the monitor decides: when to ask, what an answer means, whom to tell. Neither
//! threads nor a clock stand here: time comes in with every input.

use super::nvml::{GpuLook, Look, NoDriver};
use crate::domain::gpu::{
    Driver, GpuFact, GpuName, GpuSettings, GpuStatus, Notice, Observation, Reading, Thresholds,
    Watch, Xid,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Threads that hang in the driver and were given up, at most. A driver that swallowed
/// this many will swallow the next.
const MAX_GIVEN_UP: usize = 2;

/// Without a driver: when to look again whether one has come.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What happens to the monitor.
#[derive(Debug)]
pub(super) enum Input {
    /// Time went on, or an order was given.
    Time,
    /// The driver answered a question.
    Answer {
        generation: u64,
        question: u64,
        answer: Result<Look, NoDriver>,
    },
    /// The driver reported an error.
    Xid {
        generation: u64,
        gpu: GpuName,
        xid: Xid,
    },
}

/// What the monitor does about it.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Ask the driver.
    Ask { question: u64 },
    /// Leave the hung thread alone and start another one.
    Replace { generation: u64 },
    /// Tell who listens.
    Tell(Notice),
}

/// A question that is not answered yet.
#[derive(Clone, Copy)]
struct Pending {
    question: u64,
    since: Duration,
    /// The time-out has passed: its answer will be too old to count.
    late: bool,
}

/// One GPU.
struct Gpu {
    /// What listeners know of it.
    watch: Watch,
    /// While nothing is told, a copy goes on for the history, so that listeners later
    /// learn of the changes that they missed.
    unheard: Option<Watch>,
    history: VecDeque<GpuStatus>,
}

pub(super) struct Core {
    settings: GpuSettings,
    /// Limits of runs, by index: see [`Thresholds::capped`].
    caps: BTreeMap<u32, f64>,
    next_tick: Duration,
    generation: u64,
    /// The latest generation that answered.
    heard: u64,
    questions: u64,
    pending: Option<Pending>,
    given_up: usize,
    late_answers: u64,
    /// Without a driver, nothing is asked before.
    look_again: Duration,
    driver: Driver,
    /// What listeners know of it.
    told_driver: Driver,
    paused: bool,
    gpus: Vec<Gpu>,
}

impl Core {
    /// The first look is at `now`.
    pub fn new(settings: GpuSettings, now: Duration) -> Self {
        Self {
            settings,
            caps: BTreeMap::new(),
            next_tick: now,
            generation: 0,
            heard: 0,
            questions: 0,
            pending: None,
            given_up: 0,
            late_answers: 0,
            look_again: now,
            driver: Driver::Starting,
            told_driver: Driver::Starting,
            paused: false,
            gpus: Vec::new(),
        }
    }

    /// When time itself will be an input, at the latest.
    pub fn deadline(&self) -> Duration {
        match self.pending {
            Some(p) if !p.late => self.next_tick.min(p.since + self.settings.timeout()),
            _ => self.next_tick,
        }
    }

    /// The one transition.
    pub fn on(&mut self, input: Input, now: Duration, unix_ms: u64) -> Vec<Effect> {
        let mut effects = match input {
            Input::Time => Vec::new(),
            Input::Answer {
                generation,
                question,
                answer,
            } => self.answered(generation, question, answer, now, unix_ms),
            // A thread that was given up still hears what its successor hears.
            Input::Xid { generation, .. } if generation < self.heard => Vec::new(),
            Input::Xid { gpu, xid, .. } => {
                vec![Effect::Tell(Notice::only(GpuFact::GpuXid { gpu, xid }))]
            }
        };
        effects.extend(self.time_out(now));
        effects.extend(self.tick(now));
        if self.paused {
            effects.retain(|effect| !matches!(effect, Effect::Tell(_)));
        }
        effects
    }

    fn time_out(&mut self, now: Duration) -> Vec<Effect> {
        let timeout = self.settings.timeout();
        match &mut self.pending {
            Some(p) if !p.late && now >= p.since + timeout => {
                p.late = true;
                let reason = format!(
                    "the NVIDIA driver has not answered for {} s",
                    timeout.as_secs_f64()
                );
                self.driver = Driver::Hung {
                    reason: reason.clone(),
                };
                let mut effects = self.tell_driver();
                effects.extend(self.silence(&reason));
                effects
            }
            _ => Vec::new(),
        }
    }

    /// Ticks lie on a grid from the start on, so that no delay adds up; those that were
    /// slept through are left out.
    fn tick(&mut self, now: Duration) -> Vec<Effect> {
        if now < self.next_tick {
            return Vec::new();
        }
        let interval = self.settings.interval();
        let behind = (now - self.next_tick).as_nanos() / interval.as_nanos().max(1);
        self.next_tick += interval * u32::try_from(behind + 1).unwrap_or(u32::MAX);
        match self.pending {
            None if self.gpus.is_empty() && now < self.look_again => Vec::new(),
            None => vec![self.ask(now)],
            // Its answer, or its time-out, will be the word for this tick.
            Some(p) if !p.late => Vec::new(),
            Some(p) => {
                let waited = now - p.since;
                if waited >= self.settings.give_up() && self.given_up < MAX_GIVEN_UP {
                    self.given_up += 1;
                    self.generation += 1;
                    let generation = self.generation;
                    vec![Effect::Replace { generation }, self.ask(now)]
                } else {
                    let reason = format!(
                        "the NVIDIA driver has not answered for {} s",
                        waited.as_secs()
                    );
                    self.silence(&reason)
                }
            }
        }
    }

    fn ask(&mut self, now: Duration) -> Effect {
        self.questions += 1;
        self.pending = Some(Pending {
            question: self.questions,
            since: now,
            late: false,
        });
        Effect::Ask {
            question: self.questions,
        }
    }

    fn answered(
        &mut self,
        generation: u64,
        question: u64,
        answer: Result<Look, NoDriver>,
        now: Duration,
        unix_ms: u64,
    ) -> Vec<Effect> {
        if generation != self.generation {
            // Its thread was given up and ends now.
            self.given_up = self.given_up.saturating_sub(1);
            self.late_answers += 1;
            return Vec::new();
        }
        self.heard = generation;
        match self.pending.take_if(|p| p.question == question) {
            // Too old to count, but the thread can be asked again.
            Some(p) if p.late => {
                self.late_answers += 1;
                Vec::new()
            }
            Some(_) => self.learn(answer, now, unix_ms),
            None => Vec::new(),
        }
    }

    fn learn(
        &mut self,
        answer: Result<Look, NoDriver>,
        now: Duration,
        unix_ms: u64,
    ) -> Vec<Effect> {
        let (driver, looks, unseen) = match answer {
            Ok(look) if look.gpus.is_empty() => {
                let reason = "the NVIDIA driver is loaded but knows no GPU".to_owned();
                (
                    Driver::None {
                        reason: reason.clone(),
                    },
                    Vec::new(),
                    reason,
                )
            }
            Ok(look) => (
                Driver::Ready {
                    version: look.version,
                    gpus: look.gpus.len(),
                },
                look.gpus,
                "the NVIDIA driver no longer knows this GPU".to_owned(),
            ),
            Err(NoDriver(reason)) => (
                Driver::None {
                    reason: reason.clone(),
                },
                Vec::new(),
                reason,
            ),
        };
        self.look_again = now + LOOK_AGAIN;
        self.driver = driver;
        let mut effects = self.tell_driver();
        let mut seen = vec![false; self.gpus.len()];
        for look in looks {
            let (at, observation) = match look {
                GpuLook::Read(mut reading, health) => {
                    reading.timestamp_ms = unix_ms;
                    let at = self.place_of(&reading);
                    (at, Observation::Read(reading, health))
                }
                GpuLook::Lost { index, reason } => {
                    let identity = Reading {
                        index,
                        ..Reading::default()
                    };
                    let lost = Observation::Lost {
                        reason,
                        timestamp_ms: unix_ms,
                    };
                    (self.place_of(&identity), lost)
                }
            };
            // A new GPU stands behind those that were known.
            if let Some(seen) = seen.get_mut(at) {
                *seen = true;
            }
            effects.extend(self.observe(at, observation));
        }
        for (at, _) in seen.iter().enumerate().filter(|(_, seen)| !**seen) {
            let lost = Observation::Lost {
                reason: unseen.clone(),
                timestamp_ms: unix_ms,
            };
            effects.extend(self.observe(at, lost));
        }
        effects
    }

    /// Which of the known GPUs this is, by uuid, else by index; a new one where none is.
    fn place_of(&mut self, reading: &Reading) -> usize {
        let known = |gpu: &Gpu| {
            let known = &gpu.watch.latest().reading;
            match (&known.uuid, &reading.uuid) {
                (Some(known), Some(uuid)) => known == uuid,
                _ => known.index == reading.index,
            }
        };
        self.gpus.iter().position(known).unwrap_or_else(|| {
            let watch = Watch::new(reading.nothing(reading.timestamp_ms));
            self.gpus.push(Gpu {
                unheard: self.paused.then(|| watch.clone()),
                watch,
                history: VecDeque::new(),
            });
            self.gpus.len() - 1
        })
    }

    /// The driver said nothing of any GPU.
    fn silence(&mut self, reason: &str) -> Vec<Effect> {
        (0..self.gpus.len())
            .flat_map(|at| {
                let reason = reason.to_owned();
                self.observe(at, Observation::Silent { reason })
            })
            .collect()
    }

    fn observe(&mut self, at: usize, observation: Observation) -> Vec<Effect> {
        let identity = match &observation {
            Observation::Read(reading, _) => GpuName::from(&**reading),
            _ => GpuName::from(&self.gpus[at].watch.latest().reading),
        };
        let limits = self.limits_of(&identity);
        let gpu = &mut self.gpus[at];
        let watch = gpu.unheard.as_mut().unwrap_or(&mut gpu.watch);
        let notices = watch.step(observation, &limits, self.settings.blind_after);
        if gpu.history.len() == self.settings.history {
            gpu.history.pop_front();
        }
        gpu.history.push_back(watch.latest().clone());
        notices.into_iter().map(Effect::Tell).collect()
    }

    fn limits_of(&self, gpu: &GpuName) -> Thresholds {
        let limits = self.settings.limits_of(gpu.index, gpu.uuid.as_deref());
        match self.caps.get(&gpu.index) {
            Some(max_c) => limits.capped(*max_c),
            None => limits,
        }
    }

    fn tell_driver(&mut self) -> Vec<Effect> {
        if self.paused || self.driver == self.told_driver {
            return Vec::new();
        }
        // One silence is one fact, however its seconds go on.
        let both_hung = matches!(
            (&self.driver, &self.told_driver),
            (Driver::Hung { .. }, Driver::Hung { .. })
        );
        self.told_driver = self.driver.clone();
        if both_hung {
            return Vec::new();
        }
        let driver = self.driver.clone();
        vec![Effect::Tell(Notice::only(GpuFact::GpuDriver { driver }))]
    }

    /// Stops or resumes telling. Looking goes on.
    pub fn set_paused(&mut self, paused: bool) {
        if self.paused == paused {
            return;
        }
        self.paused = paused;
        for gpu in &mut self.gpus {
            gpu.unheard = paused.then(|| gpu.watch.clone());
        }
    }

    /// Puts other settings into force, with a look at once.
    pub fn set_settings(&mut self, settings: GpuSettings, now: Duration) {
        for gpu in &mut self.gpus {
            let surplus = gpu.history.len().saturating_sub(settings.history);
            gpu.history.drain(..surplus);
        }
        self.settings = settings;
        self.next_tick = now;
    }

    /// Sets or lifts the temperature at which the runs on a GPU pause.
    pub fn set_cap(&mut self, index: u32, max_c: Option<f64>) {
        match max_c {
            Some(max_c) => self.caps.insert(index, max_c),
            None => self.caps.remove(&index),
        };
    }

    pub fn settings(&self) -> &GpuSettings {
        &self.settings
    }

    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    pub fn given_up(&self) -> usize {
        self.given_up
    }

    pub fn late_answers(&self) -> u64 {
        self.late_answers
    }

    /// The statuses that are kept of each GPU, oldest first; never empty.
    pub fn histories(&self) -> impl Iterator<Item = &VecDeque<GpuStatus>> {
        self.gpus.iter().map(|gpu| &gpu.history)
    }
}

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;
