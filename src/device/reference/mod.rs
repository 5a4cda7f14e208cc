//! The reference backend: plain loops, nothing clever, f64 by default.
