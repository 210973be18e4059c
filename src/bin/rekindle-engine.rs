//! The daemon, one per host.

fn main() -> std::process::ExitCode {
    rekindle::daemon::main()
}
