//! What is said about GPUs.

use super::{Action, Condition, GpuStatus, Reading, Throttle, Xid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which GPU a fact is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct GpuName {
    /// The driver's index.
    pub index: u32,
    /// The identity that survives reboots.
    pub uuid: Option<String>,
}

impl From<&Reading> for GpuName {
    fn from(reading: &Reading) -> Self {
        Self {
            index: reading.index,
            uuid: reading.uuid.clone(),
        }
    }
}

/// Where the driver stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Driver {
    /// It was not asked yet.
    Starting,
    /// There is none, or no GPU behind it; everything else works.
    None {
        /// Why, in one line.
        reason: String,
    },
    /// It answers.
    Ready {
        /// Its version.
        version: Option<String>,
        /// How many GPUs it knows.
        gpus: usize,
    },
    /// It was asked and does not answer.
    Hung {
        /// What was waited for, in one line.
        reason: String,
    },
}

/// What happened. Each kind about a condition carries the whole status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum GpuFact {
    /// One look, every interval.
    GpuStatus {
        /// What was seen.
        status: Box<GpuStatus>,
    },
    /// The condition rose to warning.
    GpuWarning {
        /// What was seen.
        status: Box<GpuStatus>,
    },
    /// The condition rose to critical.
    GpuCritical {
        /// What was seen.
        status: Box<GpuStatus>,
    },
    /// The condition rose to emergency.
    GpuEmergency {
        /// What was seen.
        status: Box<GpuStatus>,
    },
    /// The condition fell.
    GpuRecovered {
        /// The condition that ended.
        from: Condition,
        /// What was seen.
        status: Box<GpuStatus>,
    },
    /// The temperature could not be read several times in a row.
    MonitoringBlind {
        /// Why, in one line.
        reason: String,
        /// What was seen.
        status: Box<GpuStatus>,
    },
    /// … and can be read again.
    MonitoringRestored {
        /// What was seen.
        status: Box<GpuStatus>,
    },
    /// The driver reported an error of a GPU.
    GpuXid {
        /// Whose.
        gpu: GpuName,
        /// Which.
        xid: Xid,
    },
    /// Memory errors since the last look.
    GpuEcc {
        /// Whose.
        gpu: GpuName,
        /// New corrected errors.
        corrected: u64,
        /// New uncorrected errors.
        uncorrected: u64,
    },
    /// The reasons for which a GPU is slow have changed.
    GpuThrottle {
        /// Whose.
        gpu: GpuName,
        /// Reasons that hold now and did not at the last look.
        started: Vec<Throttle>,
        /// Reasons that held at the last look and no longer do.
        ended: Vec<Throttle>,
    },
    /// The driver came, went, or stopped answering.
    GpuDriver {
        /// Where it stands now.
        driver: Driver,
    },
}

impl GpuFact {
    /// The name of the kind, as in JSON.
    pub const fn kind(&self) -> &'static str {
        match self {
            GpuFact::GpuStatus { .. } => "gpu_status",
            GpuFact::GpuWarning { .. } => "gpu_warning",
            GpuFact::GpuCritical { .. } => "gpu_critical",
            GpuFact::GpuEmergency { .. } => "gpu_emergency",
            GpuFact::GpuRecovered { .. } => "gpu_recovered",
            GpuFact::MonitoringBlind { .. } => "monitoring_blind",
            GpuFact::MonitoringRestored { .. } => "monitoring_restored",
            GpuFact::GpuXid { .. } => "gpu_xid",
            GpuFact::GpuEcc { .. } => "gpu_ecc",
            GpuFact::GpuThrottle { .. } => "gpu_throttle",
            GpuFact::GpuDriver { .. } => "gpu_driver",
        }
    }

    /// Whether it is told to those who listen and kept nowhere else: it comes with every
    /// look, or as often, and the next one says the same anew.
    pub fn is_passing(&self) -> bool {
        match self {
            GpuFact::GpuStatus { .. } => true,
            // A card at work touches its power limit all the time.
            GpuFact::GpuThrottle { started, ended, .. } => started
                .iter()
                .chain(ended)
                .all(|reason| matches!(reason, Throttle::PowerCap | Throttle::SyncBoost)),
            _ => false,
        }
    }

    /// The status that the fact carries, if its kind does.
    pub fn status(&self) -> Option<&GpuStatus> {
        match self {
            GpuFact::GpuStatus { status }
            | GpuFact::GpuWarning { status }
            | GpuFact::GpuCritical { status }
            | GpuFact::GpuEmergency { status }
            | GpuFact::GpuRecovered { status, .. }
            | GpuFact::MonitoringBlind { status, .. }
            | GpuFact::MonitoringRestored { status } => Some(status),
            GpuFact::GpuXid { .. }
            | GpuFact::GpuEcc { .. }
            | GpuFact::GpuThrottle { .. }
            | GpuFact::GpuDriver { .. } => None,
        }
    }
}

/// A fact, and what is to be done with the runs on its GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// What happened.
    #[serde(flatten)]
    pub fact: GpuFact,
    /// What follows.
    pub action: Action,
    /// Whether this look has more to say about the same GPU: who acts waits for that, so
    /// that nothing happens before its reason is told.
    #[serde(skip)]
    pub more: bool,
}

impl Notice {
    /// A fact from which nothing follows.
    pub fn only(fact: GpuFact) -> Self {
        Self {
            fact,
            action: Action::None,
            more: false,
        }
    }

    /// Whether a newer notice of this kind makes this one superfluous.
    pub fn is_lossy(&self) -> bool {
        self.action == Action::None && matches!(self.fact, GpuFact::GpuStatus { .. })
    }
}
