//! Safetensors files, read from a memory map with a bounded header.
