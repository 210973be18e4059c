//! The health check for monitoring systems and cron.

use std::io::Write;
use std::process::ExitCode;

use rekindle::health::{args, gather, render};

fn main() -> ExitCode {
    rekindle::config::place::keep_private();
    // Nothing is printed besides: a monitor reads every line as the check's own.
    rekindle::process::hide().ok();
    let (text, code) = match args::parse(std::env::args_os()) {
        Err(refusal) => (refusal.text, refusal.exit_code),
        Ok(args) => {
            let result = gather::check(&args);
            (render::render(&result, &args.style()), render::exit_code(&result, args.is_exit_ok))
        }
    };
    // A monitor that closed the pipe still gets the exit code.
    std::io::stdout().write_all(text.as_bytes()).ok();
    ExitCode::from(code)
}
