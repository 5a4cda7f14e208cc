//! The `backpropd` command.

fn main() {}
