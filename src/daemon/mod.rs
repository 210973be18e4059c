//! The program `rekindle-engine`: guard, engine proper and prover in one binary.
//!
//! Started by people it is the guard, which starts the same program again as the engine proper, and,
//! when that dies, as the prover. What the parts do lies in their rooms; here is only how they are put
//! together from arguments and configuration.

mod args;
mod engine;
mod logging;
mod prover;
mod settings;
mod stopped;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::config::{
    DatabaseUrl, Host, KillMeans, Loaded, Problem, SAFE_FOR_SECRETS, load, unknown_users, user_problems,
};
use crate::engine::unit_file;
use crate::guard::{self, GuardOptions, Means, MeansChoice, take_state_dir};
use crate::health::words::{with_flags, without_passwords};
use crate::outlet::STDERR;
use crate::process::user;

pub use settings::{kinds, places};

use args::Args;

/// How long a process that ends waits for its last words to be read.
const LAST_WORDS_MAX: Duration = Duration::from_millis(250);

/// Runs the program.
pub fn main() -> ExitCode {
    crate::config::place::keep_private();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => {
            // What was typed in the wrong place may be a URL with a password.
            STDERR.say(without_passwords(&error.to_string()).as_bytes());
            STDERR.flush(LAST_WORDS_MAX);
            return ExitCode::from(2);
        }
        Err(help) => help.exit(),
    };
    let options = args.load_options(Host::here());
    if let Some(what) = options.secret_flag() {
        STDERR.say(format!("error[E101]: {what}\nnext: {}\n", SAFE_FOR_SECRETS.join("\nnext: ")).as_bytes());
        STDERR.flush(LAST_WORDS_MAX);
        return ExitCode::from(2);
    }
    let code = match load(&options) {
        Ok(loaded) => run(&args, &loaded),
        Err(errors) => {
            let next = args.hints().command("rekindle config check");
            STDERR.say(format!("error[E201]: the configuration is wrong\n{errors}\nnext: {next}\n").as_bytes());
            78
        }
    };
    // A prover has q for everything.
    STDERR.flush(if args.prove.is_some() { LAST_WORDS_MAX / 5 } else { LAST_WORDS_MAX });
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn run(args: &Args, loaded: &Loaded) -> i32 {
    logging::init(&loaded.config.log, args.role_word());
    // The engine proper takes its descriptors before it has a second thread.
    let is_prover = args.prove_stopped || args.prove.is_some();
    let writes = match () {
        () if is_prover => STDERR.start(),
        () if args.is_engine_proper() => Ok(()),
        () => STDERR.write_by_myself(),
    };
    if let Err(error) = writes {
        log::error!("could not set the log up: {error}");
        return 1;
    }
    for warning in &loaded.warnings {
        // The guard says it once for both.
        if !args.is_engine_proper() {
            log::warn!("{warning}");
        }
    }
    if args.prove_stopped {
        return stopped::run(&loaded.config);
    }
    match &args.prove {
        Some(prove) => prover::run(&loaded.config, prove),
        None if args.is_engine_proper() => engine::run(&loaded.config, &args.hints().of(loaded)),
        None => run_guard(loaded, &args.hints().of(loaded)),
    }
}

fn run_guard(loaded: &Loaded, hints: &Hints) -> i32 {
    let config = &loaded.config;
    match loaded.has_default_database() {
        true => log::warn!("nobody has said which database: the default is used; {}", loaded.files_in_words()),
        false => log::info!("configuration: {}", loaded.files_in_words()),
    }
    let mut problems = unknown_users(loaded);
    problems.extend(user_problems(loaded));
    if !problems.is_empty() {
        return refuse(&problems, hints);
    }
    if let Some(right) = user::missing_right_to_find().filter(|_| config.kinds.values().any(|kind| kind.user.is_some()))
    {
        log::warn!(
            "without {right} a later start cannot find what a killed life of this engine leaves running as another user, \
             unless a control group holds it"
        );
    }
    let state = match take_state_dir(&config.engine.state_dir) {
        Ok(state) => state,
        Err(error) => {
            log::error!("{}", chain(&error));
            match error.exit_code() {
                3 => hints.next(&["rekindle engine list", "give this engine a directory of its own (--state-dir)"]),
                77 | 78 => hints
                    .next(&["rekindle doctor   (as the user of the engine)", "rekindle config show --origin engine"]),
                _ => {}
            }
            return error.exit_code();
        }
    };
    if crate::config::place::is_open_to_all(state.path()) {
        let dir = state.path().display();
        log::warn!("every user of this host may look into the state directory {dir}: chmod o= {dir}");
    }
    // Whoever it was, what it left is dead now: taking the directory has killed it.
    if let Err(error) = unit_file::remove(state.path()) {
        log::warn!("could not forget the life of an earlier unit: {error}");
    }
    let Ok(program) = std::env::current_exe() else {
        log::error!("cannot find this program's own file");
        return 1;
    };
    guard::remember_own_program(&program);
    let given: Vec<OsString> = std::env::args_os().skip(1).collect();
    let with = |hidden: &str| {
        let mut argv = vec![program.clone().into_os_string()];
        argv.extend(given.iter().cloned());
        argv.push(hidden.into());
        argv
    };
    let means = match config.engine.kill {
        KillMeans::Auto => MeansChoice::Auto,
        KillMeans::Cgroup => MeansChoice::Only(Means::Cgroup),
        KillMeans::Pidns => MeansChoice::Only(Means::PidNamespace),
        KillMeans::Tree => MeansChoice::Only(Means::ProcessTree),
    };
    guard::run(GuardOptions {
        engine: with("--engine-proper"),
        prover: with("--prove"),
        state,
        means,
        timing: config.engine.timing,
    })
}

/// A configuration that is right in itself, but not for this host or user.
fn refuse(problems: &[Problem], hints: &Hints) -> i32 {
    problems.iter().for_each(|problem| log::error!("{problem}"));
    hints.next(&["rekindle config check   (as the user of the engine)"]);
    78
}

/// What a person types next, with the flags that this program was given: without them the command would
/// look at another database.
#[derive(Default)]
pub(crate) struct Hints {
    flags: String,
    database: String,
    url: Option<DatabaseUrl>,
}

impl Hints {
    /// Also knows where the database was named.
    fn of(self, loaded: &Loaded) -> Self {
        let (origin, files) = (loaded.origin("database.url"), loaded.files_in_words());
        let url = loaded.config.database.urls.first().cloned();
        Self { database: format!("database.url is from {origin}; {files}"), url, ..self }
    }

    /// The first one, for what a refusal by its server means.
    pub(crate) const fn url(&self) -> Option<&DatabaseUrl> {
        self.url.as_ref()
    }

    /// `database.url is from /etc/rekindle/rekindle.toml:9; /etc/rekindle/rekindle.toml`.
    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// A text whose commands have the flags.
    pub(crate) fn command(&self, text: &str) -> String {
        with_flags(text, &self.flags)
    }

    fn next(&self, commands: &[&str]) {
        log::error!("next: {}", self.command(&commands.join("; ")));
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
