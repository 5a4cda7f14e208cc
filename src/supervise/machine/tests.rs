use super::super::Panicked;
use super::super::{Backoff, Intensity};
use super::*;

const A: ChildId = 1;
const B: ChildId = 2;
const C: ChildId = 3;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn policy() -> Policy {
    Policy {
        restart: Restart::Permanent,
        intensity: Intensity {
            restarts: 2,
            period: ms(1000),
        },
        backoff: Backoff {
            first: ms(100),
            max: ms(400),
            jitter: 0.0,
        },
        grace: ms(50),
    }
}

fn boom(n: u32) -> Cause {
    Cause::Panicked(Panicked {
        message: format!("boom {n}"),
        location: None,
    })
}

/// A machine with a log of what it asks for, in words.
struct Bench {
    machine: Machine,
    now: Duration,
}

impl Bench {
    /// Three children, all up.
    fn new(strategy: Strategy, spent: Spent, policy: Policy) -> Self {
        let machine = Machine::new(strategy, spent, 1);
        let mut bench = Self {
            machine,
            now: ms(0),
        };
        for (id, name) in [(A, "a"), (B, "b"), (C, "c")] {
            bench.at(0, add(id, name, policy));
        }
        for id in [A, B, C] {
            bench.up(id);
        }
        bench
    }

    /// Takes one input `after` milliseconds and tells the effects that act on children.
    fn at(&mut self, after: u64, input: Input) -> String {
        self.now += ms(after);
        let effects = self.machine.step(self.now, input);
        let words: Vec<_> = effects.iter().filter_map(word).collect();
        words.join(" ")
    }

    fn generation(&self, id: ChildId) -> u64 {
        self.member(id).generation
    }

    fn member(&self, id: ChildId) -> &Member {
        self.machine.members().iter().find(|m| m.id == id).unwrap()
    }

    fn up(&mut self, id: ChildId) -> String {
        let generation = self.generation(id);
        self.at(0, Input::Started { id, generation })
    }

    fn end(&mut self, after: u64, id: ChildId, cause: Cause) -> String {
        let generation = self.generation(id);
        self.at(
            after,
            Input::Ended {
                id,
                generation,
                cause,
            },
        )
    }

    fn hang(&mut self, after: u64, id: ChildId) -> String {
        let generation = self.generation(id);
        let cause = Cause::Hung {
            stalled_ms: 9,
            blocking: false,
        };
        self.at(
            after,
            Input::Hung {
                id,
                generation,
                cause,
            },
        )
    }

    fn phases(&self) -> String {
        let letter = |m: &Member| match m.phase {
            Phase::Waiting => 'w',
            Phase::Starting => 's',
            Phase::Running => 'R',
            Phase::Stopping { .. } => 'd',
            Phase::BackingOff { .. } => 'b',
            Phase::Quarantined => 'Q',
            Phase::Stopped => '-',
        };
        self.machine.members().iter().map(letter).collect()
    }
}

fn add(id: ChildId, name: &str, policy: Policy) -> Input {
    Input::Add {
        id,
        name: name.into(),
        policy,
        generation: 0,
    }
}

/// `+a2`: start generation 2 of a; `-`: stop; `!`: abandon; `x`: forget; `Qa`: quarantine.
fn word(effect: &Effect) -> Option<String> {
    let letter = |id: &ChildId| char::from(b'a' - 1 + *id as u8);
    Some(match effect {
        Effect::Start { id, generation } => format!("+{}{generation}", letter(id)),
        Effect::Stop { id } => format!("-{}", letter(id)),
        Effect::Abandon { id, .. } => format!("!{}", letter(id)),
        Effect::Forget { id } => format!("x{}", letter(id)),
        Effect::Notify(Notice::Quarantined { child, .. }) => format!("Q{child}"),
        Effect::Closed { escalated: None } => "closed".to_owned(),
        Effect::Closed { .. } => "failed".to_owned(),
        Effect::Vacate { .. } | Effect::Notify(_) => return None,
    })
}

#[test]
fn each_end_is_judged_by_the_kind_of_child() {
    use Restart::{Never, Permanent, Transient};
    let table = [
        (Permanent, Cause::Stopped, "+b2", "RsR"),
        (Permanent, boom(1), "+b2", "RsR"),
        (Transient, Cause::Stopped, "", "R-R"),
        (Transient, boom(1), "+b2", "RsR"),
        (Transient, Cause::Lost, "+b2", "RsR"),
        (Never, Cause::Stopped, "", "R-R"),
        (Never, boom(1), "", "R-R"),
    ];
    for (restart, cause, effects, phases) in table {
        let rules = Policy {
            restart,
            ..policy()
        };
        let mut bench = Bench::new(Strategy::OneForOne, Spent::Quarantine, rules);
        assert_eq!(
            bench.end(1, B, cause.clone()),
            effects,
            "{restart:?} {cause}"
        );
        assert_eq!(bench.phases(), phases, "{restart:?} {cause}");
    }
}

#[test]
fn restarts_back_off_and_the_intensity_ends_them_at_its_exact_count() {
    let mut bench = Bench::new(Strategy::OneForOne, Spent::Quarantine, policy());
    assert_eq!(bench.end(5000, B, boom(1)), "+b2", "the first is immediate");
    assert_eq!(bench.end(10, B, boom(2)), "", "the second waits");
    assert_eq!(bench.machine.next_deadline(), Some(bench.now + ms(100)));
    assert_eq!(bench.at(99, Input::Tick), "");
    assert_eq!(bench.at(1, Input::Tick), "+b3");
    assert_eq!(bench.end(889, B, boom(3)), "Qb", "999 ms after the first");
    assert_eq!(bench.phases(), "RQR");
    assert_eq!(
        bench.member(B).first,
        Some(boom(1)),
        "the first cause is kept"
    );
    assert_eq!(bench.member(B).last, Some(boom(3)));
    assert_eq!(bench.machine.next_deadline(), None);
    assert_eq!(bench.at(1, Input::Tick), "", "nothing brings it back");

    assert_eq!(bench.at(0, Input::Release { id: B }), "+b4");
    assert_eq!(bench.member(B).first, None);
    assert_eq!(bench.at(0, Input::Release { id: B }), "", "idempotent");
    assert_eq!(bench.end(0, B, boom(4)), "+b5", "and counts afresh:");
    assert_eq!(bench.end(0, B, boom(5)), "", "this is the second");
    assert_eq!(bench.phases(), "RbR");
}

#[test]
fn one_millisecond_later_the_first_restart_no_longer_counts() {
    let mut bench = Bench::new(Strategy::OneForOne, Spent::Quarantine, policy());
    bench.end(0, B, boom(1));
    bench.end(10, B, boom(2));
    assert_eq!(bench.at(100, Input::Tick), "+b3");
    assert_eq!(bench.end(890, B, boom(3)), "", "backs off");
    assert_eq!(bench.machine.next_deadline(), Some(bench.now + ms(200)));
}

#[test]
fn a_good_run_begins_a_new_series() {
    let mut bench = Bench::new(Strategy::OneForOne, Spent::Quarantine, policy());
    bench.end(0, B, boom(1));
    bench.up(B);
    assert_eq!(bench.end(999, B, boom(2)), "", "still the same series");
    bench.at(100, Input::Tick);
    bench.up(B);
    assert_eq!(bench.member(B).first, Some(boom(1)));
    assert_eq!(bench.end(1000, B, boom(3)), "+b4", "immediate again");
    assert_eq!(bench.member(B).first, Some(boom(3)));
}

#[test]
fn what_a_former_generation_says_changes_nothing() {
    let mut bench = Bench::new(Strategy::OneForOne, Spent::Quarantine, policy());
    assert_eq!(bench.hang(0, B), "!b +b2");
    let stale = |cause| Input::Ended {
        id: B,
        generation: 1,
        cause,
    };
    assert_eq!(bench.at(0, stale(Cause::Lost)), "");
    let started = Input::Started {
        id: B,
        generation: 1,
    };
    assert_eq!(bench.at(0, started), "");
    assert_eq!(bench.phases(), "RsR");
    bench.up(B);
    let unknown = Input::Remove { id: 99 };
    assert_eq!(bench.at(0, unknown), "");
    assert_eq!(bench.phases(), "RRR");
    assert_eq!(bench.member(B).restarts(), 1);
}

#[test]
fn rest_for_one_takes_along_what_was_built_on_it_in_order() {
    let mut bench = Bench::new(Strategy::RestForOne, Spent::Quarantine, policy());
    assert_eq!(bench.end(0, A, boom(1)), "-c", "the last first, one by one");
    assert_eq!(bench.end(1, C, Cause::Stopped), "-b");
    assert_eq!(bench.end(1, B, Cause::Stopped), "+a2", "then forward");
    assert_eq!(bench.up(A), "+b2");
    assert_eq!(bench.up(B), "+c2");
    assert_eq!(bench.up(C), "");
    assert_eq!(bench.end(0, B, boom(2)), "-c", "a was before it");
    assert_eq!(bench.phases(), "Rwd");
    assert_eq!(bench.at(49, Input::Tick), "");
    assert_eq!(bench.at(1, Input::Tick), "!c +b3", "its grace is over");
    assert_eq!(bench.phases(), "Rsw");
    assert_eq!(bench.member(A).last, Some(boom(1)));
    assert_eq!(
        bench.member(C).first,
        None,
        "a casualty has no cause of its own"
    );
    // Their failures count together: this is the third.
    bench.up(B);
    bench.up(C);
    assert_eq!(bench.end(0, C, boom(3)), "Qc");
    assert_eq!(bench.phases(), "RRQ");
}

#[test]
fn one_for_all_takes_all_along_and_waits_for_the_one_that_failed() {
    let mut bench = Bench::new(Strategy::OneForAll, Spent::Quarantine, policy());
    assert_eq!(bench.end(0, B, boom(1)), "-c");
    assert_eq!(bench.end(0, C, Cause::Stopped), "-a");
    assert_eq!(bench.end(0, A, Cause::Stopped), "+a2");
    assert_eq!(bench.up(A), "+b2");
    assert_eq!(
        bench.end(0, B, boom(2)),
        "-a",
        "it backs off, c was not up yet"
    );
    assert_eq!(bench.end(0, A, Cause::Stopped), "");
    assert_eq!(bench.phases(), "wbw");
    assert_eq!(bench.at(100, Input::Tick), "+a3");
    bench.up(A);
    assert_eq!(bench.end(0, B, boom(3)), "Qb -a");
    bench.end(0, A, Cause::Stopped);
    assert_eq!(bench.phases(), "wQw");
    assert_eq!(bench.at(0, Input::Release { id: B }), "+a4");
}

#[test]
fn a_child_that_is_never_restarted_is_not_when_a_sibling_takes_it_along() {
    let never = Policy {
        restart: Restart::Never,
        ..policy()
    };
    let mut bench = Bench::new(Strategy::RestForOne, Spent::Quarantine, policy());
    bench.at(0, add(4, "d", never));
    bench.up(4);
    assert_eq!(bench.end(0, C, boom(1)), "-d");
    assert_eq!(bench.end(0, 4, Cause::Stopped), "+c2");
    assert_eq!(bench.phases(), "RRs-");
}

#[test]
fn an_escalation_stops_all_and_names_the_first_cause() {
    let hopeless = Policy {
        intensity: Intensity {
            restarts: 0,
            period: ms(1),
        },
        ..policy()
    };
    let mut bench = Bench::new(Strategy::OneForOne, Spent::Escalate, hopeless);
    assert_eq!(bench.end(0, B, boom(1)), "Qb -c");
    assert_eq!(bench.end(0, C, Cause::Stopped), "-a");
    let generation = 1;
    let effects = bench.machine.step(
        bench.now,
        Input::Ended {
            id: A,
            generation,
            cause: Cause::Stopped,
        },
    );
    let escalated = Some(Cause::Escalated {
        child: "b".to_owned(),
        first: Box::new(boom(1)),
    });
    assert_eq!(effects.last(), Some(&Effect::Closed { escalated }));
    assert_eq!(bench.at(0, Input::Release { id: B }), "", "too late");
}

#[test]
fn a_close_goes_backwards_within_each_grace_and_happens_once() {
    let mut bench = Bench::new(Strategy::OneForOne, Spent::Quarantine, policy());
    bench.end(0, B, boom(1));
    bench.end(0, B, boom(2));
    assert_eq!(bench.phases(), "RbR");
    assert_eq!(bench.at(0, Input::Close), "-c");
    assert_eq!(bench.at(0, Input::Close), "");
    assert_eq!(bench.at(49, Input::Tick), "");
    assert_eq!(bench.at(1, Input::Tick), "!c -a");
    assert_eq!(bench.end(0, A, Cause::Stopped), "closed");
    assert_eq!(bench.at(0, Input::Tick), "");
    assert_eq!(bench.phases(), "---");
    let mut empty = Machine::new(Strategy::OneForAll, Spent::Escalate, 0);
    let effects = empty.step(ms(0), Input::Close);
    assert_eq!(effects, [Effect::Closed { escalated: None }]);
}

#[test]
fn a_removal_is_final_and_touches_nobody_else() {
    let mut bench = Bench::new(Strategy::RestForOne, Spent::Quarantine, policy());
    assert_eq!(bench.at(0, Input::Remove { id: A }), "-a");
    assert_eq!(
        bench.end(0, A, boom(1)),
        "xa",
        "even when it fails on the way"
    );
    assert_eq!(bench.phases(), "RR");
    bench.end(0, B, boom(2));
    bench.end(0, C, Cause::Stopped);
    bench.up(B);
    bench.up(C);
    bench.end(0, B, boom(3));
    bench.end(0, C, Cause::Stopped);
    assert_eq!(bench.phases(), "bw");
    assert_eq!(
        bench.at(0, Input::Remove { id: B }),
        "xb +c3",
        "while it backs off"
    );
}

/// Whatever comes in whatever order, what must never happen does not.
/// `BACKPROPD_TEST_SEEDS` sets another number of seeds.
#[test]
fn random_inputs_break_no_invariant() {
    let seeds = match std::env::var("BACKPROPD_TEST_SEEDS") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => 10_000,
    };
    for seed in 0..seeds {
        let strategy = [
            Strategy::OneForOne,
            Strategy::OneForAll,
            Strategy::RestForOne,
        ][seed as usize % 3];
        let spent = [Spent::Quarantine, Spent::Escalate][seed as usize / 3 % 2];
        let mut bench = Bench::new(strategy, spent, policy());
        // The generation that acts, by child.
        let mut alive = [Some(1), Some(1), Some(1)];
        for turn in 0..60 {
            let draw = |what: &str, n: u64| chance(seed, what, turn) % n;
            let id = 1 + draw("child", 3);
            let generation = bench.generation(id).saturating_sub(draw("stale", 2));
            let cause = if draw("cause", 3) == 0 {
                Cause::Stopped
            } else {
                boom(1)
            };
            let input = match draw("input", 8) {
                0 | 1 => Input::Started { id, generation },
                2 | 3 => Input::Ended {
                    id,
                    generation,
                    cause,
                },
                4 => Input::Hung {
                    id,
                    generation,
                    cause,
                },
                5 => Input::Release { id },
                6 if turn == 50 => Input::Close,
                _ => Input::Tick,
            };
            bench.now += ms(draw("time", 80));
            if let Input::Ended { id, generation, .. } = input
                && alive[id as usize - 1] == Some(generation)
            {
                alive[id as usize - 1] = None;
            }
            let ticked = input == Input::Tick;
            for effect in bench.machine.step(bench.now, input) {
                match effect {
                    Effect::Start { id, generation } => {
                        let seat = &mut alive[id as usize - 1];
                        assert_eq!(*seat, None, "seed {seed}: two generations of {id}");
                        assert!(
                            !bench.machine.closing(),
                            "seed {seed}: a start after the close"
                        );
                        *seat = Some(generation);
                    }
                    Effect::Abandon { id, .. } => alive[id as usize - 1] = None,
                    Effect::Stop { id } => assert!(alive[id as usize - 1].is_some()),
                    Effect::Closed { .. } => assert_eq!(alive, [None; 3], "seed {seed}"),
                    _ => {}
                }
            }
            // A deadline that a tick leaves behind would be due again at once, for ever.
            let next = bench.machine.next_deadline();
            assert!(
                !ticked || next.is_none_or(|at| at > bench.now),
                "seed {seed}"
            );
            for member in bench.machine.members() {
                assert_eq!(
                    member.alive(),
                    alive[member.id as usize - 1].is_some(),
                    "seed {seed}"
                );
            }
        }
    }
}
