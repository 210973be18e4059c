//! The maintenance program: what operators and scripts type.

fn main() -> std::process::ExitCode {
    rekindle::process::hide_or_warn();
    rekindle::cli::main()
}
