//! Random faults of drivers and cards, and what must hold whatever they are.

use super::*;
use crate::domain::gpu::{Action, Condition, Health};

const SCRIPTS: u64 = 500;
const LOOKS: u64 = 60;
const GPUS: u32 = 3;
const LIMIT_C: f64 = 90.0;
const COOL_C: f64 = 85.0;

/// Numbers that a script's seed decides.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What listeners were told, and what it must not be.
#[derive(Default)]
struct Listener {
    statuses: [u64; GPUS as usize],
    wanted: [Action; GPUS as usize],
    driver: Option<Driver>,
    xids: u64,
}

impl Listener {
    fn hear(&mut self, notice: &Notice, unix_ms: u64, seed: u64) {
        if let GpuFact::GpuDriver { driver } = &notice.fact {
            assert_ne!(self.driver.as_ref(), Some(driver), "script {seed}");
            self.driver = Some(driver.clone());
        }
        self.xids += u64::from(notice.fact.kind() == "gpu_xid");
        let Some(status) = notice.fact.status() else {
            assert_eq!(notice.action, Action::None);
            return;
        };
        let gpu = status.reading.index as usize;
        let is_status = notice.fact.kind() == "gpu_status";
        self.statuses[gpu] += u64::from(is_status);
        assert_eq!(
            status.stale,
            status.reading.timestamp_ms < unix_ms,
            "script {seed}: what is old is called stale, and nothing else is"
        );
        if notice.action != Action::None {
            self.wanted[gpu] = notice.action;
        }
        let temperature = status
            .reading
            .temperature_c
            .filter(|_| !status.stale && status.available);
        if notice.action == Action::Resume {
            assert!(
                temperature.is_some_and(|t| t < COOL_C),
                "script {seed}: {status:?}"
            );
        }
        let recovered = notice.fact.kind() == "gpu_recovered";
        assert!(!recovered || temperature.is_some(), "script {seed}");
        if status.condition == Condition::Ok {
            assert!(temperature.is_some_and(|t| t < 80.0), "script {seed}");
        }
    }

    /// After a look: a hot GPU does not run on.
    fn is_safe(&self, gpu: usize, temperature: f64) -> bool {
        let held = matches!(
            self.wanted[gpu],
            Action::Pause | Action::AbortWithCheckpoint
        );
        temperature < LIMIT_C || held
    }
}

#[test]
fn five_hundred_scripts_of_faults_break_no_rule() {
    for seed in 0..SCRIPTS {
        play(seed);
    }
}

fn play(seed: u64) {
    let mut dice = Dice(seed);
    let settings = GpuSettings {
        interval_seconds: 1.0,
        timeout_seconds: 0.5,
        give_up_seconds: 5.0,
        ..GpuSettings::default()
    };
    let mut core = Core::new(settings, Duration::ZERO);
    let mut listener = Listener::default();
    // Threads that hang: the look, the generation and the question of each.
    let mut hung: VecDeque<(u64, u64, u64)> = VecDeque::new();
    let (mut generation, mut raised, mut ecc) = (0, 0, 0);
    // Every script begins with one good look, so that all GPUs are known.
    for look in 0..LOOKS {
        // The look, its time-out, and half-way between them whatever comes late.
        for step in [0, 250, 500] {
            let now = Duration::from_millis(look * 1000 + step);
            let unix_ms = 1 + look * 1000 + step;
            let mut inputs = VecDeque::from([Input::Time]);
            let comes_back = hung.front().is_some_and(|(since, ..)| *since < look);
            if step == 250 && comes_back && dice.roll(4) == 0 {
                let (_, generation, question) = hung.pop_front().unwrap();
                inputs.push_back(Input::Answer {
                    generation,
                    question,
                    // Cool, but from before.
                    answer: Ok(answer(&mut dice, &[Some(20.0); GPUS as usize], ecc)),
                });
            }
            if step == 250 && dice.roll(10) == 0 {
                raised += 1;
                inputs.push_back(Input::Xid {
                    generation,
                    gpu: GpuName {
                        index: 0,
                        uuid: None,
                    },
                    xid: Xid::new(Some(dice.roll(150))),
                });
            }
            while let Some(input) = inputs.pop_front() {
                let late = matches!(&input, Input::Answer { .. }) && step == 250;
                let before = listener.statuses;
                let effects = core.on(input, now, unix_ms);
                for effect in effects {
                    match effect {
                        Effect::Tell(notice) => listener.hear(&notice, unix_ms, seed),
                        Effect::Replace { generation: next } => generation = next,
                        Effect::Ask { question } => {
                            if look > 0 && dice.roll(8) == 0 {
                                hung.push_back((look, generation, question));
                                continue;
                            }
                            ecc += dice.roll(2);
                            let temperatures = std::array::from_fn(|_| {
                                let c = 60.0 + dice.roll(40) as f64;
                                (look == 0 || dice.roll(6) > 0).then_some(c)
                            });
                            let answer = match dice.roll(12) {
                                0 if look > 0 => Err(NoDriver("gone".into())),
                                _ => Ok(answer(&mut dice, &temperatures, ecc)),
                            };
                            inputs.push_back(Input::Answer {
                                generation,
                                question,
                                answer,
                            });
                        }
                    }
                }
                assert!(!late || before == listener.statuses, "script {seed}");
            }
            assert!(core.given_up() <= MAX_GIVEN_UP, "script {seed}");
            assert!(core.deadline() > now, "script {seed}: no busy loop");
        }
        for (gpu, history) in core.histories().enumerate() {
            let latest = history.back().unwrap();
            let known = latest.reading.temperature_c.filter(|_| !latest.stale);
            assert!(
                known.is_none_or(|t| listener.is_safe(gpu, t)),
                "script {seed}: {latest:?}"
            );
        }
        assert_eq!(
            listener.statuses,
            [look + 1; GPUS as usize],
            "script {seed}: one status a look"
        );
    }
    assert_eq!(listener.xids, raised, "script {seed}");
}

/// What the driver knows: temperatures where they can be read; the last GPU is lost now
/// and then.
fn answer(dice: &mut Dice, temperatures: &[Option<f64>; GPUS as usize], ecc: u64) -> Look {
    let gpus = (0..GPUS).zip(temperatures).map(|(index, temperature_c)| {
        if temperature_c.is_none() && dice.roll(2) == 0 {
            return GpuLook::Lost {
                index,
                reason: "fell off the bus".into(),
            };
        }
        let reading = Reading {
            index,
            uuid: Some(format!("GPU-{index}")),
            temperature_c: *temperature_c,
            ..Reading::default()
        };
        let health = Health {
            ecc_corrected: Some(ecc),
            ..Health::default()
        };
        GpuLook::Read(Box::new(reading), health)
    });
    Look {
        version: None,
        gpus: gpus.collect(),
    }
}
