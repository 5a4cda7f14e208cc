//! The `backpropd` command.

fn main() -> std::process::ExitCode {
    backpropd::cli::main()
}
