//! The daemon, one per host.

fn main() -> std::process::ExitCode {
    rekindle::process::hide_or_warn();
    rekindle::daemon::main()
}
