//! Capture, shuffling buffer, on-disk cache.
