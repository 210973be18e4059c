//! The maintenance program: what operators and scripts type.

fn main() -> std::process::ExitCode {
    rekindle::cli::main()
}
