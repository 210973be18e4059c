//! Errors as people see them: a greppable first line with a code, then what was tried, the cause, the
//! effect, and the next command. No text here may hold a secret; addresses come as `DatabaseUrl`, which
//! masks itself.

use std::fmt;
use std::path::Path;

use super::exit::Exit;
use super::human::one_line;
use super::{GlobalFlags, codes};
use crate::config::{ConfigErrors, DatabaseUrl, Origin, SAFE_FOR_SECRETS};

/// What went wrong, for the person in front of the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    /// `E301` and the like; each is explained in `codes.rs`.
    pub code: &'static str,
    /// The first line.
    pub what: String,
    /// Which configuration was read, or that none was found; the edge fills it in.
    pub config: Option<Box<str>>,
    /// What was tried, with the origin of the values.
    pub tried: Option<Box<str>>,
    /// Why it failed.
    pub cause: Option<Box<str>>,
    /// What that means for the system; most of all whether something was changed.
    pub effect: Option<Box<str>>,
    /// Commands that help.
    pub next: Vec<String>,
    /// How the program ends.
    pub exit: Exit,
}

impl CliError {
    /// An error with this code, which must be in the table of `codes.rs`.
    pub fn new(code: &'static str, exit: Exit, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), config: None, tried: None, cause: None, effect: None, next: Vec::new(), exit }
    }

    /// With what was tried.
    #[must_use]
    pub fn tried(mut self, text: impl Into<String>) -> Self {
        self.tried = Some(text.into().into_boxed_str());
        self
    }

    /// With the cause.
    #[must_use]
    pub fn cause(mut self, text: impl Into<String>) -> Self {
        self.cause = Some(text.into().into_boxed_str());
        self
    }

    /// With the effect.
    #[must_use]
    pub fn effect(mut self, text: impl Into<String>) -> Self {
        self.effect = Some(text.into().into_boxed_str());
        self
    }

    /// With one more next command.
    #[must_use]
    pub fn next(mut self, text: impl Into<String>) -> Self {
        self.next.push(text.into());
        self
    }

    /// Whose next commands look where this call looked.
    #[must_use]
    pub fn at(mut self, flags: &GlobalFlags) -> Self {
        self.next.iter_mut().for_each(|next| *next = flags.command(next));
        self
    }

    /// With the configuration that was read, where it may be what is wrong.
    #[must_use]
    pub fn with_config(mut self, files: &str) -> Self {
        let may_be = matches!(self.exit, Exit::Unavailable | Exit::Config | Exit::NoPermission | Exit::NotFound);
        self.config = may_be.then(|| files.into());
        self
    }

    /// The whole text, with a line feed at its end.
    pub fn render(&self) -> String {
        let mut text = format!("error[{}]: {}\n", self.code, one_line(&self.what));
        let next = (!self.next.is_empty()).then(|| self.next.join("\n").into_boxed_str());
        let parts = [
            ("tried", &self.tried),
            ("config", &self.config),
            ("cause", &self.cause),
            ("effect", &self.effect),
            ("next", &next),
        ];
        for (label, part) in parts {
            for (row, line) in part.iter().flat_map(|part| part.lines()).enumerate() {
                let label = if row == 0 { label } else { "" };
                // Texts of drivers and of people must not drive the terminal.
                text.push_str(format!("  {label:<7}  {}", one_line(line)).trim_end());
                text.push('\n');
            }
        }
        text
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render().trim_end())
    }
}

impl std::error::Error for CliError {}

/// The usual ones.
impl CliError {
    /// Wrong usage that clap cannot see.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(codes::USAGE, Exit::Usage, what)
    }

    /// A password where everyone can read it.
    pub fn secret_flag(what: String) -> Self {
        let error = Self::usage(what).effect("nothing was done; change that password if others use this host");
        SAFE_FOR_SECRETS.iter().fold(error, |error, place| error.next(*place))
    }

    /// Everything that is wrong with the configuration.
    pub fn config(errors: &ConfigErrors) -> Self {
        let count = super::output::plural(errors.problems.len(), "problem");
        let cause: Vec<String> = errors.problems.iter().map(ToString::to_string).collect();
        let is_missing = errors.problems.iter().any(|problem| problem.text.starts_with("cannot be read: No such file"));
        Self::new(codes::CONFIG, Exit::Config, format!("the configuration is wrong: {count}"))
            .cause(cause.join("\n"))
            .effect("nothing was started or changed")
            .next(if is_missing { "rekindle config init   (writes the file)" } else { "rekindle config check" })
    }

    /// Nobody answers.
    pub fn unreachable(cluster: &str, url: &DatabaseUrl, origin: &Origin, cause: impl fmt::Display) -> Self {
        let error = Self::new(
            codes::UNREACHABLE,
            Exit::Unavailable,
            format!("cannot reach the database of cluster {cluster:?}"),
        )
        .tried(format!("{url}  (from {origin})"))
        .cause(cause.to_string())
        .effect("nothing was changed");
        let error = match (url.host_port(), url.backend()) {
            (Some((host, port)), crate::config::Backend::Postgres) => {
                error.next(format!("pg_isready -h {host} -p {port}"))
            }
            _ => error,
        };
        error.next(format!("rekindle explain {}", codes::UNREACHABLE))
    }

    /// The schema is behind this program.
    pub fn schema_too_old(what: impl Into<String>) -> Self {
        Self::new(codes::SCHEMA_OLD, Exit::Config, what)
            .effect("nothing was changed")
            .next("rekindle db migrate --dry-run")
            .next("rekindle db migrate")
    }

    /// The schema is ahead of this program.
    pub fn schema_too_new(what: impl Into<String>) -> Self {
        Self::new(codes::SCHEMA_NEW, Exit::Config, what)
            .effect("nothing was changed")
            .next("upgrade rekindle on this host (rekindle version says what it is)")
            .next(format!("rekindle explain {}", codes::SCHEMA_NEW))
    }

    /// The database or a file says no.
    pub fn not_permitted(what: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self::new(codes::NOT_PERMITTED, Exit::NoPermission, what)
            .cause(cause.to_string())
            .effect("nothing was changed")
            .next("rekindle doctor")
    }

    /// The server does not let this user in.
    pub fn denied(url: &DatabaseUrl, origin: &Origin, cause: impl fmt::Display) -> Self {
        Self::new(codes::DENIED, Exit::NoPermission, "the database does not let us in")
            .tried(format!("{url}  (from {origin})"))
            .cause(cause.to_string())
            .effect("nothing was changed")
            .next("look at user and password: rekindle config show --origin database")
            .next("on the server: the user, its password, from where it may log in (pg_hba.conf, CREATE USER)")
            .next(format!("rekindle explain {}", codes::DENIED))
    }

    /// The configuration is of another cluster than the database.
    pub fn other_cluster(recorded: &str, configured: &str, origin: &Origin, url: &DatabaseUrl) -> Self {
        let what = format!("this database belongs to the cluster {recorded:?}, not to {configured:?}");
        Self::new(codes::OTHER_CLUSTER, Exit::Config, what)
            .tried(format!("{url}; cluster {configured:?} (from {origin})"))
            .effect("nothing was changed")
            .next("rekindle config show --origin database")
            .next(format!("rekindle explain {}", codes::OTHER_CLUSTER))
    }

    /// The database did not finish in time, or too many others wrote at once.
    pub fn try_again(what: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self::new(codes::TRY_AGAIN, Exit::TempFail, what).cause(cause.to_string()).next("run it again later")
    }

    /// The database answered with an error that is nobody's habit.
    pub fn database(what: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self::new(codes::DATABASE, Exit::Failed, what)
            .cause(cause.to_string())
            .next(format!("rekindle explain {}", codes::DATABASE))
    }

    /// No such engine, with a guess.
    pub fn no_engine<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        Self::not_found(codes::NO_ENGINE, "engine", name, known).next("rekindle engine list")
    }

    /// No such kind, with a guess.
    pub fn no_kind<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        Self::not_found(codes::NO_KIND, "kind", name, known).next("rekindle config show kind")
    }

    /// No such task.
    pub fn no_task(id: impl fmt::Display) -> Self {
        Self::not_found(codes::NO_TASK, "task", &id.to_string(), []).next("rekindle task list")
    }

    /// No such thing, with a guess out of those there are.
    pub fn not_found<'a>(code: &'static str, noun: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let guess = crate::config::guess::hint(name, known);
        Self::new(code, Exit::NotFound, format!("{noun} {name} not found{guess}"))
    }

    /// A precondition is not met; nothing was changed.
    pub fn refused(code: &'static str, what: impl Into<String>) -> Self {
        Self::new(code, Exit::Refused, what).effect("nothing was changed")
    }

    /// Consent is missing, and nobody can be asked; `flag` gives it.
    pub fn consent(what: impl fmt::Display, flag: &str) -> Self {
        Self::refused(codes::CONSENT, format!("{what} needs your consent, and there is no terminal to ask on"))
            .next(format!("add {flag}"))
    }

    /// Waited too long.
    pub fn timeout(what: impl Into<String>) -> Self {
        Self::new(codes::TIMEOUT, Exit::Timeout, what).effect("the request stays in force")
    }

    /// A file cannot be read or written.
    pub fn file(what: &str, path: &Path, error: &std::io::Error) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => Exit::NoPermission,
            _ => Exit::Failed,
        };
        Self::new(codes::FILE, exit, format!("cannot {what} {}", path.display())).cause(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned_and_say_what_next() {
        let url = DatabaseUrl::parse("postgres://rekindle:geheim@db1:5432/rekindle").unwrap();
        let origin = Origin::File { path: Path::new("/etc/rekindle/rekindle.toml").into(), line: 3 };
        let error = CliError::unreachable("billing", &url, &origin, "connection refused (3 tries in 9s)");
        assert_eq!(
            error.render(),
            "error[E301]: cannot reach the database of cluster \"billing\"\n\
             \x20 tried    postgres://rekindle:***@db1:5432/rekindle  (from /etc/rekindle/rekindle.toml:3)\n\
             \x20 cause    connection refused (3 tries in 9s)\n\
             \x20 effect   nothing was changed\n\
             \x20 next     pg_isready -h db1 -p 5432\n\
             \x20          rekindle explain E301\n"
        );
        assert_eq!(error.exit, Exit::Unavailable);
    }

    #[test]
    fn a_slip_gets_a_guess() {
        let error = CliError::no_kind("invoice-mial", ["report", "invoice-mail"]);
        assert_eq!(error.what, "kind invoice-mial not found; did you mean invoice-mail?");
        assert_eq!(error.exit, Exit::NotFound);
    }

    #[test]
    fn errors_end_with_the_codes_of_the_manual() {
        assert_eq!(CliError::schema_too_old("old").exit.code(), 78);
        assert_eq!(CliError::not_permitted("cannot write", "read-only transaction").exit.code(), 77);
        assert_eq!(CliError::consent("purge", "--yes").exit.code(), 3);
        assert_eq!(CliError::timeout("app4 still runs 3 tasks after 15s").exit.code(), 5);
        assert_eq!(CliError::usage("no selector").exit.code(), 2);
    }
}
