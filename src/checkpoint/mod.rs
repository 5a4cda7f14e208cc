//! Atomic save, verification, retention, exact resume, and export.
