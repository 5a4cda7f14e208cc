//! The kinds of events, by name.

use super::api::Event;

/// Events of which only the newest matters: a reader that is slow may miss some of them,
/// and is told how many. All others reach whoever asked for them.
pub const LOSSY: &[&str] = &[
    "dataset_progress",
    "gpu_status",
    "model_progress",
    "progress",
    "step",
];

/// Every kind. A kind keeps the type of its payload within a [version](super::VERSION).
pub const ALL: &[&str] = &[
    // What a worker says: `protocol::Fact`.
    "progress",
    "warning",
    "estimate",
    "run_started",
    "step",
    "non_finite",
    "loss_scaled",
    "epoch",
    "validation",
    "checkpoint_saved",
    "oom",
    "paused",
    "resumed",
    "run_completed",
    "early_stopped",
    "stopped",
    "aborted",
    "run_failed",
    // What the GPU monitor says: `domain::gpu::GpuFact`.
    "gpu_status",
    "gpu_warning",
    "gpu_critical",
    "gpu_emergency",
    "gpu_recovered",
    "monitoring_blind",
    "monitoring_restored",
    "gpu_xid",
    "gpu_ecc",
    "gpu_throttle",
    "gpu_driver",
    // What is said of sweeps: `protocol::sweep::SweepFact`.
    "multi_run_started",
    "run_start",
    "run_complete",
    "rung_completed",
    "multi_run_early_stop",
    "multi_run_paused",
    "multi_run_resumed",
    "multi_run_completed",
    "multi_run_failed",
    "multi_run_stopped",
    "multi_run_aborted",
    // What the daemon says: `protocol::DaemonFact`.
    "run_queued",
    "suspended",
    "worker_lost",
    "gpu_action",
    "handler_failed",
    "handler_restarted",
    "handler_quarantined",
    "actor_restarted",
    // What happens to models and datasets: `protocol::AssetFact`.
    "model_registered",
    "model_verifying",
    "model_progress",
    "model_ready",
    "model_error",
    "model_given_up",
    "model_deleting",
    "model_deleted",
    "dataset_registered",
    "dataset_validating",
    "dataset_tokenizing",
    "dataset_progress",
    "dataset_ready",
    "dataset_error",
    "dataset_given_up",
    "dataset_deleting",
    "dataset_deleted",
    // That a reader missed some: `store::Gap`.
    "gap",
];

impl Event {
    /// Whether a newer event of this kind makes this one superfluous. What is kept nowhere
    /// cannot be read again by who is slow.
    pub fn is_lossy(&self) -> bool {
        self.is_passing() || LOSSY.contains(&self.kind.as_str())
    }
}

/// Whether `pattern` names `kind`: by its name, or by its beginning and a `*`.
pub fn matches(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => kind.starts_with(beginning),
        None => kind == pattern,
    }
}

/// Whether `pattern` can ever match.
pub fn is_known(pattern: &str) -> bool {
    ALL.iter().any(|kind| matches(pattern, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_kinds_and_beginnings_of_kinds() {
        for (pattern, kind, matched) in [
            ("step", "step", true),
            ("step", "stopped", false),
            ("gpu_*", "gpu_status", true),
            ("gpu_*", "step", false),
            ("*", "anything", true),
            ("", "step", false),
        ] {
            assert_eq!(matches(pattern, kind), matched, "{pattern} {kind}");
        }
        assert!(is_known("handler_*") && is_known("*") && is_known("epoch"));
        assert!(!is_known("run_comple") && !is_known("") && !is_known("x*"));
        let passing = Event::passing(0, "gpu_throttle", serde_json::json!({}));
        assert!(passing.is_lossy());
        assert!(LOSSY.iter().all(|kind| ALL.contains(kind)));
    }
}
