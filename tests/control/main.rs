//! The control surface as a client finds it, through the real binary.

#[path = "../common/mod.rs"]
mod common;

mod access;
mod document;
mod events;
mod load;
mod malformed;
mod reload;
mod tcp;
mod verbs;
