//! The states of a model or dataset, and the one function that moves between them.
//!
//! ```text
//! model      registered ─▶ verifying ─▶ ready | error
//! dataset    registered ─▶ validating ─▶ ready | error
//!            ready ─▶ tokenizing ─▶ ready | error
//! both       registered, ready, error ─▶ deleting ─▶ gone | error
//! ```
//!
//! Work that was given up leads back to where it can begin again. What a worker says after
//! its work has ended moves nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// Where a model or dataset stands.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum AssetState { $($(#[$doc])* $name,)* }

        impl AssetState {
            /// Every state.
            pub const ALL: &'static [AssetState] = &[$(AssetState::$name,)*];

            /// The state as users, scripts and the store see it.
            pub const fn as_str(self) -> &'static str {
                match self { $(AssetState::$name => $text,)* }
            }
        }
    };
}

states! {
    /// Known, and not looked through.
    Registered = "registered";
    /// A worker reads the model's weights and tokenizer.
    Verifying = "verifying";
    /// A worker reads the dataset.
    Validating = "validating";
    /// A worker tokenises the dataset for a model.
    Tokenizing = "tokenizing";
    /// Its files are being removed.
    Deleting = "deleting";
    /// Sound: runs may use it.
    Ready = "ready";
    /// Not usable; its record says why.
    Error = "error";
}

/// What a worker does for a model or dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Reads every weight of a model, and its tokenizer.
    Verify,
    /// Reads every row of a dataset.
    Validate,
    /// Tokenises a dataset for a model.
    Tokenize,
}

impl Work {
    /// The state meanwhile.
    pub const fn state(self) -> AssetState {
        match self {
            Self::Verify => AssetState::Verifying,
            Self::Validate => AssetState::Validating,
            Self::Tokenize => AssetState::Tokenizing,
        }
    }
}

/// What happens to a model or dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Somebody asks for work.
    Begin(Work),
    /// The worker says how far it is.
    Progress,
    /// The work is done, and all is well.
    Passed,
    /// The work found that it is not usable.
    Faulty,
    /// The work was given up, which says nothing about it.
    GivenUp,
    /// Somebody deletes it.
    Delete,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Moved {
    /// This is the state now.
    To(AssetState),
    /// It was so before.
    Stays,
    /// The state does not allow it; nothing changed.
    Refused,
}

impl AssetState {
    /// The transition function.
    pub fn on(self, step: Step) -> Moved {
        use AssetState::*;
        let next = match (step, self) {
            (Step::Begin(work), _) if work.state() == self => self,
            (Step::Begin(Work::Tokenize), Ready) => Tokenizing,
            (Step::Begin(Work::Verify), Registered | Ready | Error) => Verifying,
            (Step::Begin(Work::Validate), Registered | Ready | Error) => Validating,

            (Step::Progress, Verifying | Validating | Tokenizing) => self,
            (Step::Passed, Verifying | Validating | Tokenizing) => Ready,
            (Step::Faulty, Verifying | Validating | Tokenizing) => Error,
            (Step::GivenUp, Verifying | Validating) => Registered,
            (Step::GivenUp, Tokenizing) => Ready,

            (Step::Delete, Registered | Ready | Error | Deleting) => Deleting,
            // Some of its files may be gone.
            (Step::Faulty | Step::GivenUp, Deleting) => Error,

            _ => return Moved::Refused,
        };
        match next == self {
            true => Moved::Stays,
            false => Moved::To(next),
        }
    }

    /// Whether a worker is at work, or waits for its turn.
    pub const fn is_at_work(self) -> bool {
        matches!(self, Self::Verifying | Self::Validating | Self::Tokenizing)
    }
}

impl fmt::Display for AssetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for AssetState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|state| state.as_str() == text);
        known
            .copied()
            .ok_or_else(|| format!("`{text}` is no state of a model or dataset"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [Step; 8] = [
        Step::Begin(Work::Verify),
        Step::Begin(Work::Validate),
        Step::Begin(Work::Tokenize),
        Step::Progress,
        Step::Passed,
        Step::Faulty,
        Step::GivenUp,
        Step::Delete,
    ];

    /// A row for each state, a column for each step in the order above: the next state, `=`
    /// for nothing to do, `-` for a refusal.
    const TABLE: &str = "
registered verifying validating -          - -     -     -          deleting
verifying  =         -          -          = ready error registered -
validating -         =          -          = ready error registered -
tokenizing -         -          =          = ready error ready      -
deleting   -         -          -          - -     error error      =
ready      verifying validating tokenizing - -     -     -          deleting
error      verifying validating -          - -     -     -          deleting
";

    /// behaviour: data-10
    #[test]
    fn every_state_answers_every_step() {
        let rows: Vec<Vec<&str>> = TABLE
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows.len(), AssetState::ALL.len());
        for row in rows {
            let state: AssetState = row[0].parse().unwrap();
            assert_eq!(row.len(), 1 + STEPS.len());
            for (step, cell) in STEPS.into_iter().zip(&row[1..]) {
                let expected = match *cell {
                    "=" => Moved::Stays,
                    "-" => Moved::Refused,
                    next => Moved::To(next.parse().unwrap()),
                };
                assert_eq!(state.on(step), expected, "{state} on {step:?}");
            }
        }
    }
}
