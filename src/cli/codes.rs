//! The table of error codes, each with its long text for `rekindle explain`. E1xx usage, E2xx
//! configuration and files, E3xx database, E4xx engines, E5xx tasks and kinds. A code keeps its meaning
//! for ever.

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)+) => {
        $($(#[$doc])* pub const $name: &str = $code;)+

        /// Every code with its long text.
        pub const ALL: &[(&str, &str)] = &[$(($code, $text)),+];
    };
}

codes! {
    /// Wrong usage that clap cannot see.
    USAGE = "E101", "The command line does not make sense: a verb or flag is not known, a value cannot be read, a \
selector is missing, or two flags exclude each other. Nothing was changed. A verb without any selector never means \"everything\": write --all \
if you mean it.";
    /// Consent is missing.
    CONSENT = "E102", "The command changes much or cannot be undone, so it wants consent. On a terminal it asks; \
in a script give --yes, better --yes --expect N with the number of a dry run, or --confirm NAME where the text says so. Nothing was changed.";
    /// No such code.
    NO_CODE = "E103", "There is no such error code, state or word. Codes are printed in the first line of each error, as in \
error[E301]; rekindle explain lists everything that can be explained.";
    /// The configuration is wrong.
    CONFIG = "E201", "The configuration has problems; all of them are listed, each with its file and line, \
variable or flag. Nothing was started. Engines read their configuration when they start, and only then. \
Mend them and run: rekindle config check";
    /// A file cannot be read or written.
    FILE = "E202", "A file could not be read or written. The cause is the system's own text; look at the \
owner and mode of the file and of the directories above it.";
    /// A file is already there.
    FILE_EXISTS = "E203", "The file is already there, and what it holds may be worth something, so it was not \
overwritten. Name another path, or repeat with --force.";
    /// No such key.
    NO_KEY = "E204", "There is no such configuration key. rekindle config show lists all keys with their values.";
    /// Nobody answers.
    UNREACHABLE = "E301", "The database could not be reached or did not answer in time. Engines go on with \
their tasks while their leases last (10s after the last accepted heartbeat with balanced timing), then stop them, \
stay up and connect again by themselves; nothing needs to be restarted. Look whether the database runs, whether \
host, port and name in the URL are right (rekindle config show --origin database), and whether a firewall or \
pg_hba.conf is in the way.";
    /// The database answered with an error.
    DATABASE = "E302", "The database answered, but with an error that rekindle has no better word for. The cause is \
the database's own text. If it persists, report it together with the output of: rekindle version";
    /// Locks, serialization.
    TRY_AGAIN = "E303", "Another program holds what this command needs (a purge, a migration, a busy SQLite \
file), or the database asked to try again too often. Nothing is wrong for good: run it again later.";
    /// The schema is behind.
    SCHEMA_OLD = "E310", "The database's schema is older than this program needs. Programs do not change \
it by themselves, because engines of the former release may still run. See what would be done with rekindle db \
migrate --dry-run, then do it with: rekindle db migrate";
    /// The schema is ahead.
    SCHEMA_NEW = "E311", "The database's schema is newer than this program knows: a newer release has \
migrated it. Upgrade this host's package. An old program never writes into a schema that it does not know.";
    /// Not a database that may be used.
    NOT_USABLE = "E312", "What is at this address is not a database that rekindle may use: a file that is \
something else, a network file system, a database of another program, or one that was only half restored. Look at \
the address (rekindle config show --origin database) before you change anything there.";
    /// The cluster's name is another one.
    OTHER_CLUSTER = "E314", "The database belongs to another cluster than the configuration says: the first engine that \
registered wrote its cluster's name there, and engines of another one are refused. Most likely database.url is a copy \
of another cluster's. Commands that change something are refused, others warn. If the cluster was given a new name on \
purpose, every engine and every configuration must have it: stop the engines and change meta.cluster in the database.";
    /// No epoch is left.
    NO_EPOCH = "E315", "Every token begins with the epoch, which has room for 8388607 of them, and the last one is reached. \
Epochs are raised by failovers and restores, one at a time, and no engine raises it by more than 10000 at once, so \
somebody has written that number into the database. Nothing was changed.";
    /// The server does not let this user in.
    DENIED = "E322", "The database server answered and refused the login: the password is wrong or missing, the role is \
not there or may not log in, or pg_hba.conf has no line for this host, user and database. Look at user and password \
(rekindle config show --origin database; the password itself is in database.password_file or in the URL), then at \
the server's own log, which tells more than it tells a stranger.";
    /// The outcome of a write is not known.
    UNKNOWN_OUTCOME = "E313", "The connection broke, or the time was over, while a change was under way: it may or may \
not have been done. Look first (rekindle task list, rekindle engine list), then repeat what is missing.";
    /// No space left.
    DISK_FULL = "E321", "The database has no space left, so it refused the change as a whole; nothing was half \
done. Make space on the database's disk. Engines keep beating as long as the database can still update rows in \
place, and stop their tasks when it cannot.";
    /// The database or a file says no.
    NOT_PERMITTED = "E320", "The database or the file system does not permit it: a read-only role, a standby \
server, or missing grants. Reading needs SELECT on all of rekindle's tables; engines and this program's changes need \
INSERT, UPDATE and DELETE too. rekindle doctor says what it finds.";
    /// No such engine.
    NO_ENGINE = "E401", "No engine of this name is known to the cluster. Engines are called by the name of \
their configuration, which is the short host name unless engine.name says otherwise. Stopped and fenced ones are \
forgotten after retention.engines.";
    /// A live namesake.
    NAMESAKE = "E402", "An engine of this name is alive elsewhere, so this one did not start: two engines \
with one name would be told the same and mistaken for each other. Stop the other, or give this one its own \
engine.name. If the other is dead for certain but not yet fenced, wait for its takeover time (12.5s with balanced \
timing), then start again.";
    /// The engine is alive or owns tasks.
    ENGINE_BUSY = "E403", "The engine is alive or still owns tasks, so the command would lose something. \
Drain it first: rekindle engine drain NAME --wait";
    /// Waited too long.
    TIMEOUT = "E404", "The command waited as long as it was told to (--timeout, or --deadline). What it asked for \
stays in force: engines see it with their next heartbeat. Look at it with: rekindle status";
    /// No such task.
    NO_TASK = "E501", "No task has this number, neither among the live ones nor in the archive. Done and \
canceled tasks leave the archive after retention.done and retention.canceled.";
    /// No such kind.
    NO_KIND = "E502", "No kind of this name is known. Kinds of commands are in the configuration ([kind.NAME]); \
kinds of Rust handlers are known while an engine that has them is alive.";
    /// No such resource.
    NO_RESOURCE = "E506", "No resource of this name is known: no unfinished task names it, and none has owned it lately. \
Resources come into being with the first task that names them, and idle ones are forgotten.";
    /// The task's state does not allow it.
    TASK_STATE = "E503", "The task is in a state in which the command means nothing, such as retrying a task that \
runs. rekindle task show ID tells its state and its history.";
    /// `--expect` or the like did not hold.
    CHANGED = "E504", "What the command would act on has changed since it was counted (--expect). Nothing was \
changed. Run it again with --dry-run and look at the new number.";
    /// The demo did not hold.
    DEMO_FAILED = "E410", "The demo did not show what it promises: a program was missing, a takeover took longer than \
promised, or something was left running. Its directory holds the log of each engine. On a very busy host a takeover \
can take longer; run it again when the host is quiet.";
    /// A payload or name was refused.
    BAD_TASK = "E505", "The task was not added: its payload is too large or not what it claims to be, or a \
name in it is not allowed. Nothing was changed.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_occurs_once_and_is_explained() {
        let mut codes: Vec<&str> = ALL.iter().map(|(code, _)| *code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ALL.len());
        for (code, text) in ALL {
            assert!(code.len() == 4 && code.starts_with('E') && code[1..].parse::<u16>().is_ok(), "{code}");
            assert!(text.len() > 80 && !text.contains("  "), "{code}: {text}");
        }
    }
}
