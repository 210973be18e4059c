//! The program `rekindle`: its verbs, and the way from a command line to an exit code.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::error::CliError;
use super::exit::Exit;
use super::explain::{self, ExplainArgs};
use super::human::harmless;
use super::manage::*;
use super::{GlobalFlags, codes, finish, init_logging, last_words, output};
use crate::health::words::without_passwords;

/// What `rekindle` alone and `rekindle --help` print: one screen.
pub const HELP: &str = "\
Look after a rekindle cluster: engines that finish a dead peer's tasks.

Usage: rekindle VERB [FLAGS]

  rekindle status                       is everything fine? problems come last
  rekindle engine list                  engines: list show pause resume drain stop clean
  rekindle engine drain app4 --wait     make a host safe to touch; afterwards: resume
  rekindle task add KIND --payload '{}' tasks: add list show wait log retry cancel
  rekindle task list -s failed          what needs a human
  rekindle resource show NAME           resources: list show; who owns it, who waits
  rekindle db migrate                   database: migrate status epoch (raise: after a restore)
  rekindle history --since 2d           who changed what, when and why
  rekindle config check                 configuration: check show init
  rekindle doctor                       what is wrong with this host or database, and how to mend it
  rekindle explain E301                 what an error code, a state or a word means
  rekindle demo                         three engines on SQLite, two are killed, all work is done
  rekindle version

Everywhere: -c FILE  -o table|wide|tsv|json|jsonl|name  --timeout 15s  --reason TEXT  -y  -q  -v
Help on a verb: rekindle task add --help
Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 not found, 5 waited too long,
  69 database unreachable, 75 try again, 77 not permitted, 78 configuration or schema
";

/// Look after a rekindle cluster
#[derive(Parser, Debug)]
#[command(name = "rekindle", version, override_help = HELP, max_term_width = 100, disable_help_subcommand = true)]
pub struct Program {
    /// Flags of every verb.
    #[command(flatten)]
    pub flags: GlobalFlags,
    /// What to do.
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// The verbs, by noun.
#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each verb's help stands at its arguments")]
pub enum Verb {
    Status(status::StatusArgs),
    /// Engines: list, show, pause, resume, drain, stop, clean
    #[command(subcommand, visible_alias = "service")]
    Engine(EngineVerb),
    /// Tasks: add, list, show, wait, log, retry, cancel
    #[command(subcommand)]
    Task(TaskVerb),
    /// Resources: list, show
    #[command(subcommand)]
    Resource(ResourceVerb),
    /// The database: migrate, status, epoch
    #[command(subcommand)]
    Db(DbVerb),
    /// The configuration: check, show, init
    #[command(subcommand)]
    Config(ConfigVerb),
    History(history::HistoryArgs),
    Doctor(doctor::DoctorArgs),
    Demo(demo::DemoArgs),
    Explain(ExplainArgs),
    Version(version::VersionArgs),
}

/// What can be asked of engines.
#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each verb's help stands at its arguments")]
pub enum EngineVerb {
    List(engine_list::EngineListArgs),
    Show(engine_show::EngineShowArgs),
    Pause(engine_pause::EnginePauseArgs),
    Resume(engine_resume::EngineResumeArgs),
    Drain(engine_drain::EngineDrainArgs),
    Stop(engine_stop::EngineStopArgs),
    Clean(engine_clean::EngineCleanArgs),
}

/// What can be asked of tasks.
#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each verb's help stands at its arguments")]
pub enum TaskVerb {
    Add(task_add::TaskAddArgs),
    List(task_list::TaskListArgs),
    Show(task_show::TaskShowArgs),
    Wait(task_wait::TaskWaitArgs),
    Log(task_log::TaskLogArgs),
    Retry(task_retry::TaskRetryArgs),
    Cancel(task_cancel::TaskCancelArgs),
}

/// What can be asked of resources.
#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each verb's help stands at its arguments")]
pub enum ResourceVerb {
    List(resource_list::ResourceListArgs),
    Show(resource_show::ResourceShowArgs),
}

/// What can be asked of the database.
#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each verb's help stands at its arguments")]
pub enum DbVerb {
    #[command(visible_alias = "sync")]
    Migrate(db_migrate::DbMigrateArgs),
    Status(db_status::DbStatusArgs),
    /// The epoch of the tokens: raise
    #[command(subcommand)]
    Epoch(EpochVerb),
}

/// What can be asked of the epoch.
#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each verb's help stands at its arguments")]
pub enum EpochVerb {
    Raise(db_epoch_raise::DbEpochRaiseArgs),
}

/// What can be asked of the configuration.
#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each verb's help stands at its arguments")]
pub enum ConfigVerb {
    Check(config_check::ConfigCheckArgs),
    Show(config_show::ConfigShowArgs),
    Init(config_init::ConfigInitArgs),
}

/// The whole program.
pub fn main() -> ExitCode {
    crate::config::place::keep_private();
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(error) => {
            let code = refuse(&error);
            last_words();
            return code;
        }
    };
    init_logging(&program.flags);
    finish(run(&program).map_err(|error| error.at(&program.flags)))
}

/// Help goes to standard output as clap prints it; a usage error gets its code, and loses the control
/// characters of what was typed.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        // What was typed in the wrong place may be a URL with a password.
        let text = without_passwords(&error.to_string()).replacen("error: ", &format!("error[{}]: ", codes::USAGE), 1);
        let text: String = text.chars().map(|c| if c == '\n' { c } else { harmless(c) }).collect();
        output::print_error(&text);
    } else {
        // If the text cannot be written, nobody wants it.
        error.print().unwrap_or(());
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code()))
}

fn run(program: &Program) -> Result<Exit, CliError> {
    let flags = &program.flags;
    match &program.verb {
        None => output::print(HELP).map(|()| Exit::Ok),
        Some(Verb::Status(args)) => status::run(args, flags),
        Some(Verb::Engine(verb)) => run_engine(verb, flags),
        Some(Verb::Task(verb)) => run_task(verb, flags),
        Some(Verb::Resource(ResourceVerb::List(args))) => resource_list::run(args, flags),
        Some(Verb::Resource(ResourceVerb::Show(args))) => resource_show::run(args, flags),
        Some(Verb::Db(DbVerb::Migrate(args))) => db_migrate::run(args, flags),
        Some(Verb::Db(DbVerb::Status(args))) => db_status::run(args, flags),
        Some(Verb::Db(DbVerb::Epoch(EpochVerb::Raise(args)))) => db_epoch_raise::run(args, flags),
        Some(Verb::Config(ConfigVerb::Check(args))) => config_check::run(args, flags),
        Some(Verb::Config(ConfigVerb::Show(args))) => config_show::run(args, flags),
        Some(Verb::Config(ConfigVerb::Init(args))) => config_init::run(args, flags),
        Some(Verb::History(args)) => history::run(args, flags),
        Some(Verb::Doctor(args)) => doctor::run(args, flags),
        Some(Verb::Demo(args)) => demo::run(args, flags),
        Some(Verb::Explain(args)) => explain::run(args, flags),
        Some(Verb::Version(args)) => version::run(args, flags),
    }
}

fn run_engine(verb: &EngineVerb, flags: &GlobalFlags) -> Result<Exit, CliError> {
    match verb {
        EngineVerb::List(args) => engine_list::run(args, flags),
        EngineVerb::Show(args) => engine_show::run(args, flags),
        EngineVerb::Pause(args) => engine_pause::run(args, flags),
        EngineVerb::Resume(args) => engine_resume::run(args, flags),
        EngineVerb::Drain(args) => engine_drain::run(args, flags),
        EngineVerb::Stop(args) => engine_stop::run(args, flags),
        EngineVerb::Clean(args) => engine_clean::run(args, flags),
    }
}

fn run_task(verb: &TaskVerb, flags: &GlobalFlags) -> Result<Exit, CliError> {
    match verb {
        TaskVerb::Add(args) => task_add::run(args, flags),
        TaskVerb::List(args) => task_list::run(args, flags),
        TaskVerb::Show(args) => task_show::run(args, flags),
        TaskVerb::Wait(args) => task_wait::run(args, flags),
        TaskVerb::Log(args) => task_log::run(args, flags),
        TaskVerb::Retry(args) => task_retry::run(args, flags),
        TaskVerb::Cancel(args) => task_cancel::run(args, flags),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Program::command().debug_assert();
    }

    #[test]
    fn the_help_fits_a_screen_and_names_every_verb() {
        assert!(HELP.lines().count() <= 24, "{}", HELP.lines().count());
        assert!(HELP.lines().all(|line| line.len() <= 100));
        for noun in Program::command().get_subcommands() {
            assert!(HELP.contains(noun.get_name()), "{}", noun.get_name());
            assert!(noun.get_subcommands().all(|verb| HELP.contains(verb.get_name())), "{}", noun.get_name());
        }
    }

    /// `rekindle engine show` and the like, wherever a text tells people to type something.
    fn commands(text: &str) -> Vec<Vec<&str>> {
        let is_word = |c: char| c.is_ascii_lowercase();
        text.split("rekindle ")
            .skip(1)
            .map(|rest| rest.split(' ').take(2).map(|word| word.trim_end_matches(|c| !is_word(c))).collect())
            .collect()
    }

    #[test]
    fn every_command_that_a_text_names_is_there() {
        let program = Program::command();
        for (code, text) in codes::ALL {
            for command in commands(text) {
                let is_planned = ["kind", "stack", "schedule", "purge", "web"].contains(&command[0]);
                assert!(!is_planned, "{code}: rekindle {}", command.join(" "));
                // Prose, such as "a database that rekindle may use".
                let Some(noun) = program.find_subcommand(command[0]) else { continue };
                let has_verbs = noun.get_subcommands().next().is_some();
                let is_there = !has_verbs || noun.find_subcommand(command[1]).is_some();
                assert!(is_there, "{code}: rekindle {}", command.join(" "));
            }
        }
    }
}
