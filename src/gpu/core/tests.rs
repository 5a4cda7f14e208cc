use super::*;
use crate::domain::gpu::{Action, Condition, Health};

/// A core with a driver that the test plays, at one look a second.
struct Play {
    core: Core,
    now: Duration,
}

const SECOND: Duration = Duration::from_secs(1);

impl Play {
    fn new() -> Self {
        Self::with(GpuSettings {
            interval_seconds: 1.0,
            timeout_seconds: 0.5,
            give_up_seconds: 10.0,
            history: 5,
            ..GpuSettings::default()
        })
    }

    fn with(settings: GpuSettings) -> Self {
        Self {
            core: Core::new(settings, Duration::ZERO),
            now: Duration::ZERO,
        }
    }

    fn on(&mut self, input: Input) -> Vec<Effect> {
        let unix_ms = u64::try_from(self.now.as_millis()).unwrap();
        self.core.on(input, self.now, unix_ms)
    }

    fn after(&mut self, by: Duration) -> Vec<Effect> {
        self.now += by;
        self.on(Input::Time)
    }

    fn answer(&mut self, generation: u64, question: u64, temperature: f64) -> Vec<Effect> {
        self.on(Input::Answer {
            generation,
            question,
            answer: Ok(look(&[(0, temperature)])),
        })
    }

    /// The next question at its time, answered at once.
    fn tick(&mut self, answer: Result<Look, NoDriver>) -> Vec<Effect> {
        let wait = self.core.next_tick.saturating_sub(self.now);
        let effects = self.after(wait);
        let [Effect::Ask { question }] = effects[..] else {
            panic!("one question: {effects:?}")
        };
        self.on(Input::Answer {
            generation: self.core.generation,
            question,
            answer,
        })
    }

    fn latest(&self) -> Vec<GpuStatus> {
        let latest = |h: &VecDeque<GpuStatus>| h.back().cloned();
        self.core.histories().filter_map(latest).collect()
    }
}

fn look(gpus: &[(u32, f64)]) -> Look {
    let read = |&(id, temperature): &(u32, f64)| {
        let reading = Reading {
            index: id,
            uuid: Some(format!("GPU-{id}")),
            temperature_c: Some(temperature),
            ..Reading::default()
        };
        GpuLook::Read(Box::new(reading), Health::default())
    };
    Look {
        version: Some("570.1".into()),
        gpus: gpus.iter().map(read).collect(),
    }
}

/// What is told, in words.
fn told(effects: &[Effect]) -> Vec<String> {
    let words = |effect: &Effect| match effect {
        Effect::Tell(notice) => {
            let stale = notice.fact.status().is_some_and(|s| s.stale);
            let mut text = notice.fact.kind().to_owned();
            if stale {
                text.push_str(" stale");
            }
            if notice.action != Action::None {
                text.push_str(&format!(" {:?}", notice.action));
            }
            text
        }
        Effect::Ask { question } => format!("ask {question}"),
        Effect::Replace { generation } => format!("replace {generation}"),
    };
    effects.iter().map(words).collect()
}

/// behaviour: gpu-04
#[test]
fn looks_lie_on_a_grid_whatever_delays_them() {
    let mut play = Play::new();
    let mut asked = Vec::new();
    // Woken 0 … 300 ms late, answered a little later still.
    for late in [0, 300, 120, 7, 299, 0] {
        let wait = play.core.deadline() - play.now + Duration::from_millis(late);
        let effects = play.after(wait);
        assert_eq!(effects.len(), 1);
        asked.push(play.now.as_millis() - u128::from(late));
        play.now += Duration::from_millis(20);
        let question = play.core.questions;
        let effects = play.answer(0, question, 50.0);
        assert!(told(&effects).contains(&"gpu_status".to_owned()));
    }
    assert_eq!(asked, [0, 1000, 2000, 3000, 4000, 5000]);
    // Ten looks slept through are one look, and the grid stays.
    play.now = Duration::from_millis(16_400);
    assert_eq!(told(&play.on(Input::Time)), ["ask 7"]);
    assert_eq!(play.core.next_tick, Duration::from_secs(17));
    assert!(play.on(Input::Time).is_empty(), "once");
}

/// behaviour: gpu-02, gpu-21
#[test]
fn the_history_is_bounded_and_keeps_the_newest() {
    let mut play = Play::new();
    for degrees in 1..=12 {
        play.tick(Ok(look(&[(0, f64::from(degrees))])));
    }
    let history = play.core.histories().next().unwrap();
    let degrees: Vec<f64> = history
        .iter()
        .filter_map(|s| s.reading.temperature_c)
        .collect();
    assert_eq!(degrees, [8.0, 9.0, 10.0, 11.0, 12.0]);
    let at: Vec<u64> = history.iter().map(|s| s.reading.timestamp_ms).collect();
    assert_eq!(at, [7000, 8000, 9000, 10_000, 11_000]);
    let shorter = GpuSettings {
        history: 2,
        ..play.core.settings().clone()
    };
    play.core.set_settings(shorter, play.now);
    assert_eq!(play.core.histories().next().unwrap().len(), 2);
}

/// behaviour: gpu-14
#[test]
fn what_changed_during_a_pause_is_told_after_it() {
    let mut play = Play::new();
    assert_eq!(
        told(&play.tick(Ok(look(&[(0, 50.0)])))),
        ["gpu_driver", "gpu_status"]
    );
    play.core.set_paused(true);
    for degrees in [81.0, 91.0, 85.0] {
        assert!(told(&play.tick(Ok(look(&[(0, degrees)])))).is_empty());
    }
    assert_eq!(play.latest()[0].condition, Condition::Critical);
    let xid = Input::Xid {
        generation: 0,
        gpu: GpuName {
            index: 0,
            uuid: None,
        },
        xid: Xid::new(Some(13)),
    };
    assert!(play.on(xid).is_empty());
    play.core.set_paused(false);
    assert_eq!(
        told(&play.tick(Ok(look(&[(0, 92.0)])))),
        ["gpu_status", "gpu_critical Pause"]
    );
    // What came and went is not told at all.
    play.core.set_paused(true);
    play.tick(Ok(look(&[(0, 96.0)])));
    play.core.set_paused(false);
    assert_eq!(
        told(&play.tick(Ok(look(&[(0, 91.0)])))),
        ["gpu_status"],
        "critical, as before"
    );
    play.core.set_paused(true);
    let gone = || Err(NoDriver("gone".into()));
    assert!(play.tick(gone()).is_empty());
    play.core.set_paused(false);
    assert_eq!(told(&play.tick(gone())), ["gpu_driver", "gpu_status"]);
}

#[test]
fn a_driver_that_hangs_is_told_once_and_its_late_answer_counts_for_nothing() {
    let mut play = Play::new();
    play.tick(Ok(look(&[(0, 91.0)])));
    assert_eq!(told(&play.after(SECOND)), ["ask 2"]);
    assert_eq!(play.core.deadline(), Duration::from_millis(1500));
    assert_eq!(
        told(&play.after(Duration::from_millis(500))),
        ["gpu_driver", "gpu_status stale"]
    );
    assert_eq!(
        told(&play.after(Duration::from_millis(500))),
        ["gpu_status stale"]
    );
    assert_eq!(
        told(&play.after(SECOND)),
        ["gpu_status stale", "monitoring_blind stale"]
    );
    assert_eq!(told(&play.after(SECOND)), ["gpu_status stale"]);
    assert_eq!(play.latest()[0].condition, Condition::Critical);
    assert_eq!(
        play.latest()[0].reasons[1],
        "the NVIDIA driver has not answered for 3 s"
    );
    // A cool reading, but from before.
    assert!(play.answer(0, 2, 20.0).is_empty());
    assert_eq!(play.core.late_answers(), 1);
    assert_eq!(play.latest()[0].condition, Condition::Critical);
    // The thread is free again.
    assert_eq!(
        told(&play.tick(Ok(look(&[(0, 50.0)])))),
        [
            "gpu_driver",
            "gpu_status",
            "gpu_recovered Resume",
            "monitoring_restored"
        ]
    );
}

#[test]
fn a_hung_thread_is_replaced_within_a_bound() {
    let mut play = Play::new();
    play.tick(Ok(look(&[(0, 50.0)])));
    let mut replaced = Vec::new();
    for _ in 0..60 {
        let effects = told(&play.after(SECOND));
        replaced.extend(
            effects
                .into_iter()
                .filter(|e| e.starts_with("ask") || e.starts_with("replace")),
        );
    }
    assert_eq!(
        replaced,
        ["ask 2", "replace 1", "ask 3", "replace 2", "ask 4"]
    );
    assert_eq!(play.core.given_up(), MAX_GIVEN_UP);
    // One of the lost threads comes back: it ends, and its place can be used again.
    assert!(play.answer(0, 2, 20.0).is_empty());
    assert_eq!(play.core.given_up(), 1);
    assert_eq!(told(&play.after(SECOND)), ["replace 3", "ask 5"]);
    assert_eq!(
        told(&play.answer(3, 5, 51.0)),
        ["gpu_driver", "gpu_status", "monitoring_restored"]
    );
    assert_eq!(play.core.late_answers(), 1);
    // The others still hang, and still hear the driver's errors: each is told once.
    let mut xid = |generation| {
        let gpu = GpuName {
            index: 0,
            uuid: None,
        };
        let xid = Xid::new(Some(13));
        play.on(Input::Xid {
            generation,
            gpu,
            xid,
        })
    };
    assert!(xid(1).is_empty());
    assert_eq!(told(&xid(3)), ["gpu_xid"]);
}

#[test]
fn every_look_has_one_status_even_where_the_time_out_is_the_interval() {
    let mut play = Play::with(GpuSettings {
        interval_seconds: 1.0,
        timeout_seconds: 9.0,
        ..GpuSettings::default()
    });
    play.tick(Ok(look(&[(0, 50.0)])));
    let mut statuses = 0;
    for _ in 0..8 {
        let effects = told(&play.after(SECOND));
        statuses += effects
            .iter()
            .filter(|e| e.starts_with("gpu_status"))
            .count();
    }
    // The look at 1 s is silent at 2 s, with that of 2 s; then one each second.
    assert_eq!(statuses, 8);
}

#[test]
fn no_driver_is_told_once_and_looked_for_now_and_then() {
    let mut play = Play::new();
    let none = || Err(NoDriver("no NVIDIA driver: libnvidia-ml.so.1".into()));
    let effects = play.tick(none());
    let [Effect::Tell(notice)] = &effects[..] else {
        panic!("{effects:?}")
    };
    let json = serde_json::to_value(notice).unwrap();
    assert_eq!(json["kind"], "gpu_driver");
    assert_eq!(json["driver"]["state"], "none");
    assert_eq!(
        json["driver"]["reason"],
        "no NVIDIA driver: libnvidia-ml.so.1"
    );
    let mut asked = 0;
    for second in 1..=300 {
        for effect in play.after(SECOND) {
            let Effect::Ask { question } = effect else {
                panic!("at {second} s: {effect:?}")
            };
            asked += 1;
            let answer = none();
            let more = play.on(Input::Answer {
                generation: 0,
                question,
                answer,
            });
            assert!(more.is_empty(), "said before: {more:?}");
        }
    }
    assert_eq!(asked, 5);
    play.now += LOOK_AGAIN;
    let effects = play.on(Input::Time);
    assert_eq!(told(&effects), ["ask 7"]);
    assert_eq!(told(&play.answer(0, 7, 50.0)), ["gpu_driver", "gpu_status"]);
}

#[test]
fn a_driver_that_goes_takes_no_gpu_with_it() {
    let mut play = Play::new();
    play.tick(Ok(look(&[(0, 91.0), (1, 50.0)])));
    assert_eq!(
        told(&play.tick(Err(NoDriver("unloaded".into())))),
        ["gpu_driver", "gpu_status", "gpu_status"]
    );
    let latest = play.latest();
    assert!(latest.iter().all(|s| !s.available && !s.stale));
    assert_eq!(latest[0].condition, Condition::Critical);
    assert_eq!(latest[1].condition, Condition::Unknown);
    assert_eq!(latest[1].reasons, ["unloaded"]);
    assert_eq!(
        told(&play.tick(Ok(look(&[(0, 50.0), (1, 50.0)])))),
        [
            "gpu_driver",
            "gpu_status",
            "gpu_recovered Resume",
            "gpu_status"
        ]
    );
}

#[test]
fn a_lost_gpu_stays_itself_when_the_others_move_up() {
    let mut play = Play::new();
    play.tick(Ok(look(&[(0, 91.0), (1, 50.0)])));
    // The driver now calls the second one 0.
    let mut moved = look(&[(1, 51.0)]);
    if let Some(GpuLook::Read(reading, _)) = moved.gpus.first_mut() {
        reading.index = 0;
    }
    let effects = play.tick(Ok(moved));
    assert_eq!(told(&effects), ["gpu_driver", "gpu_status", "gpu_status"]);
    let latest = play.latest();
    assert_eq!(latest.len(), 2);
    assert_eq!(latest[0].reading.uuid.as_deref(), Some("GPU-0"));
    assert_eq!(latest[0].condition, Condition::Critical);
    assert!(!latest[0].available);
    assert_eq!(latest[1].reading.temperature_c, Some(51.0));
}

/// behaviour: gpu-22
#[test]
fn a_run_may_be_more_careful_than_the_host() {
    let mut play = Play::new();
    play.core.set_cap(1, Some(85.0));
    assert_eq!(
        told(&play.tick(Ok(look(&[(0, 86.0), (1, 86.0)])))),
        [
            "gpu_driver",
            "gpu_status",
            "gpu_warning",
            "gpu_status",
            "gpu_critical Pause"
        ]
    );
    play.core.set_cap(1, None);
    assert_eq!(
        told(&play.tick(Ok(look(&[(0, 84.0), (1, 84.0)])))),
        ["gpu_status", "gpu_status", "gpu_recovered Resume"]
    );
}

#[test]
fn other_settings_hold_from_the_next_look_which_is_now() {
    let mut play = Play::new();
    play.tick(Ok(look(&[(0, 70.0)])));
    play.now += Duration::from_millis(300);
    let mut settings = play.core.settings().clone();
    settings.interval_seconds = 2.0;
    settings.limits.temperature_warning = 70.0;
    play.core.set_settings(settings, play.now);
    assert_eq!(told(&play.on(Input::Time)), ["ask 2"]);
    // Once more, while the driver still thinks.
    play.core
        .set_settings(play.core.settings().clone(), play.now);
    assert!(play.on(Input::Time).is_empty());
    assert_eq!(
        told(&play.answer(0, 2, 70.0)),
        ["gpu_status", "gpu_warning"]
    );
    assert_eq!(play.core.deadline(), Duration::from_millis(2300));
}
