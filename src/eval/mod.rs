//! Measures on held-out text.
