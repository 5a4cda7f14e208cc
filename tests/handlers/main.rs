//! Event handlers: on the bus itself with handlers that misbehave in every way, and with the
//! daemon as a user has it.

#[path = "../common/mod.rs"]
mod common;

mod bus;
mod daemon;
mod exec;
mod faults;
mod keep;
mod wire;
