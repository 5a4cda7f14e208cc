//! What a person or a script sees of a run while it works.

use super::{duration, thousands};
use crate::protocol::{Fact, Frame, Stage, Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Without a terminal, a line about the steps is printed this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How facts are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A progress bar, or a line now and then where standard error is no terminal.
    Person,
    /// Nothing but warnings and errors.
    Quiet,
    /// Every fact as one line of JSON on standard output.
    Json,
}

/// The screen of one run.
pub struct Screen {
    mode: Mode,
    bar: Option<ProgressBar>,
    terminal: bool,
    started: Option<(Instant, u64)>,
    last_line: Instant,
    stage: Option<Stage>,
}

impl Screen {
    /// A screen in `mode`.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            bar: None,
            terminal: std::io::stderr().is_terminal(),
            started: None,
            last_line: Instant::now(),
            stage: None,
        }
    }

    /// Shows one fact.
    pub fn show(&mut self, frame: &Frame) {
        match self.mode {
            Mode::Json => json(frame),
            Mode::Quiet => {
                if let Some(text) = warning(&frame.fact) {
                    self.line(&text);
                }
            }
            Mode::Person => self.person(&frame.fact),
        }
    }

    /// A line that stays, above the bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) if self.terminal => bar.println(text),
            // A closed standard error must not end the run.
            _ => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// Takes the bar away.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn person(&mut self, fact: &Fact) {
        if let Some(text) = warning(fact) {
            self.line(&text);
            return;
        }
        match fact {
            Fact::Progress { stage, done, total } => self.stage(*stage, *done, *total),
            Fact::RunStarted {
                step,
                steps,
                epoch_tokens,
                device,
                resumed_from,
                ..
            } => {
                self.clear();
                self.stage = None;
                self.started = Some((Instant::now(), *step));
                let how = match resumed_from {
                    Some(path) => format!("resuming from {} at step {step}", path.display()),
                    None => format!("training for {} steps", thousands(*steps)),
                };
                let tokens = thousands(*epoch_tokens);
                self.line(&format!("{how} on {device}; an epoch has {tokens} tokens"));
            }
            Fact::Step(step) => self.step(step),
            Fact::Validation(v) => {
                self.clear_stage();
                for s in &v.sites {
                    let recovered = s
                        .ce_recovered
                        .map_or("–".into(), |r| format!("{:.1} %", r * 100.0));
                    self.line(&format!(
                        "step {}: held-out {}: CE recovered {recovered}, explained variance \
                         {:.3}, L0 {:.1}",
                        v.step, s.hook, s.explained_variance, s.l0
                    ));
                }
            }
            Fact::Paused { step } => self.line(&format!("paused after step {step}")),
            Fact::Resumed { step } => self.line(&format!("going on after step {step}")),
            _ => {}
        }
    }

    fn stage(&mut self, stage: Stage, done: u64, total: Option<u64>) {
        let name = match stage {
            Stage::LoadingModel => "loading the model",
            Stage::Tokenizing => "tokenizing",
            Stage::Initializing => "initializing",
            Stage::CachingActivations => "caching activations",
            Stage::Evaluating => "measuring on held-out text",
            Stage::Exporting => "writing exports and report",
        };
        if !self.terminal {
            if self.stage != Some(stage) && stage != Stage::Evaluating {
                self.line(name);
            }
            self.stage = Some(stage);
            return;
        }
        if self.started.is_some() && stage == Stage::Evaluating {
            if let Some(bar) = &self.bar {
                bar.set_message(name);
            }
            return;
        }
        if self.stage != Some(stage) {
            self.clear();
            self.stage = Some(stage);
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = "{spinner} {msg} {wide_bar:.cyan/black} {percent}%  ETA {eta}";
            bar(total.unwrap_or(0), style)
        });
        bar.set_message(name);
        bar.set_length(total.unwrap_or(0));
        bar.set_position(done);
        bar.tick();
    }

    fn clear_stage(&mut self) {
        if self.started.is_none() {
            self.clear();
        }
        self.stage = None;
    }

    fn step(&mut self, step: &Step) {
        let eta = self.eta(step);
        let text = numbers(step);
        if self.terminal {
            let bar = self.bar.get_or_insert_with(|| {
                bar(step.steps, "{wide_bar:.cyan/black} {pos}/{len}  {msg}")
            });
            bar.set_position(step.step);
            bar.set_message(format!("{text}  ETA {eta}"));
        } else if self.last_line.elapsed() >= LINE_EVERY || step.step == step.steps {
            self.last_line = Instant::now();
            self.line(&format!(
                "step {}/{}  {text}  ETA {eta}",
                step.step, step.steps
            ));
        }
    }

    /// Time left at the mean pace of this process so far, everything between the steps
    /// (capture, measures, checkpoints) included.
    fn eta(&self, step: &Step) -> String {
        let Some((since, first)) = self.started else {
            return "–".into();
        };
        let done = step.step.saturating_sub(first);
        if done == 0 {
            return "–".into();
        }
        let pace = since.elapsed().as_secs_f64() / done as f64;
        duration(pace * step.steps.saturating_sub(step.step) as f64)
    }
}

/// The numbers that matter, of all hook points together.
fn numbers(step: &Step) -> String {
    let mean = |value: fn(&crate::protocol::SiteStep) -> f64| {
        step.sites.iter().map(value).sum::<f64>() / step.sites.len().max(1) as f64
    };
    format!(
        "loss {}  L0 {:.1}  EV {:.3}  dead {:.1} %  {} tok/s",
        short(step.loss),
        mean(|s| s.l0),
        mean(|s| s.explained_variance),
        mean(|s| s.dead) * 100.0,
        thousands(step.tokens_per_second.round() as u64),
    )
}

fn short(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e5).contains(&value.abs()) {
        format!("{value:.2e}")
    } else {
        format!("{value:.4}")
    }
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(8));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━━─"));
    }
    bar
}

fn json(frame: &Frame) {
    if let Ok(text) = serde_json::to_string(frame) {
        // A closed standard output must not end the run.
        drop(writeln!(std::io::stdout().lock(), "{text}"));
    }
}

/// What is said even when quiet.
fn warning(fact: &Fact) -> Option<String> {
    match fact {
        Fact::Warning { message } => Some(format!("warning: {message}")),
        Fact::NonFinite {
            step,
            hook,
            what,
            skipped,
        } => Some(format!(
            "warning: step {step}: {hook}: {what} is not finite; the step changed nothing \
             ({skipped} skipped so far)"
        )),
        Fact::LossScaled {
            step,
            hook,
            loss_scale,
        } => Some(format!(
            "warning: step {step}: {hook}: the gradient is too large for fp16; the step changed \
             nothing, and the loss scale is {loss_scale} now"
        )),
        Fact::Oom(oom) => Some(format!(
            "warning: step {}: {}; running it again with {} micro-batches of {} tokens",
            oom.step, oom.message, oom.accumulation, oom.micro_batch
        )),
        _ => None,
    }
}
