//! What is written about changes that people make, and about what engines did per hour: plain values, the
//! same for every backend.
//!
//! # History
//!
//! Every change by a person has its row in `history`, written by the transaction of the change: there is
//! no change without its row, and no row of a change that was rolled back. A command that works in batches
//! has several transactions, so it has several rows with one `command` number and counted `part`s; they are
//! shown as one entry. The pair is unique: a batch whose outcome is unknown cannot be written a second time
//! by repeating it. `db migrate` is the exception, because a schema change commits on its own in some
//! databases: its row follows in a transaction of its own.
//!
//! What engines do is not history: attempts and hours tell that.
//!
//! # Hours
//!
//! Engines add up what became of attempts in memory and add it to `hour` about once a minute; takeovers
//! add theirs in their own transaction. States, races, failures:
//!
//! * An engine that did nothing writes nothing.
//! * Numbers for people are worth no commit a task, so an engine that dies has not told the last of them. Whoever
//!   closes its row counts them from the ends that it wrote (`queries/uncounted.rs`), each end once.
//! * Many engines would wait for one row per kind. Each adds to one of [`SHARDS`] rows, chosen by its
//!   incarnation, at a moment of its own; readers add the rows up. Rows are locked in the order of kinds.
//! * A flush that failed is kept and goes with the next. One of unknown outcome is dropped: a minute that
//!   is missing is a gap, a minute that is counted twice is a lie, and `--normal auto` would believe it.
//! * An attempt is counted when it ends, its claim with it: what was claimed and is lost has an end too.
//! * The hour is the database's at the flush, so its edge is blurred by up to a minute.
//!
//! The wait of a claim is known where a task was ready from the moment it was added: one that was delayed,
//! stood in a line or is claimed again waited for something else than an engine. So did one that seems to have
//! waited for more than a week ([`WAIT_MAX`]).

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::types::{EngineRow, Wish4Engine};
use crate::protocol::engine::Wanted;
use crate::protocol::ids::{Epoch, Incarnation, KindName, TaskId};
use crate::protocol::takeover::Next;
use crate::protocol::task::AttemptResult;
use crate::protocol::time::Timestamp;

/// Who changes something, from where and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Names one run of one command.
    pub command: i64,
    /// Which of its transactions, from 0.
    pub part: u32,
    /// Who.
    pub by: String,
    /// On which host the program ran.
    pub host: String,
    /// Which program.
    pub program: String,
    /// Its version.
    pub version: String,
    /// Such as `engine pause`.
    pub verb: String,
    /// Why, in the person's words.
    pub reason: Option<String>,
}

/// Names are cut to this, so that no database refuses a change for the length of its author's name.
pub const NAME_MAX: usize = 255;

impl Change {
    /// The first transaction of a command of this program.
    pub fn new(by: &str, host: &str, program: &str, verb: &str, reason: Option<String>) -> Self {
        let cut = |text: &str| text.chars().take(NAME_MAX).collect::<String>();
        Self {
            command: crate::random::positive(),
            part: 0,
            by: cut(by),
            host: cut(host),
            program: program.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            verb: verb.to_owned(),
            reason,
        }
    }

    /// The same command's next transaction.
    pub fn next(&self) -> Self {
        Self { part: self.part + 1, ..self.clone() }
    }
}

/// What a change was about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affected {
    /// Its name, where it is not about tasks.
    pub object: String,
    /// Which tasks.
    pub tasks: Vec<TaskId>,
    /// How many objects.
    pub count: u64,
    /// What was.
    pub old: Option<String>,
    /// What is.
    pub new: Option<String>,
    /// It ends by itself after this long.
    pub lasts: Option<Duration>,
}

impl Affected {
    /// One thing with a name.
    pub fn object(name: impl Into<String>) -> Self {
        Self { object: name.into(), count: 1, ..Self::default() }
    }

    /// These tasks.
    pub fn tasks(tasks: Vec<TaskId>) -> Self {
        let mut tasks = tasks;
        tasks.sort_unstable();
        Self { object: span(&tasks), count: tasks.len() as u64, tasks, ..Self::default() }
    }

    /// A raised epoch.
    pub fn epoch(from: Epoch, at_least: Epoch) -> Self {
        let to = at_least.as_i64().max(from.as_i64() + 1);
        Self::object("epoch").from_to(from.as_i64().to_string(), to.to_string())
    }

    /// Lives of engines that were forgotten; nothing if there were none.
    pub fn forgotten(gone: &[EngineRow]) -> Option<Self> {
        let names: BTreeSet<&str> = gone.iter().map(|row| row.name.as_str()).collect();
        let [first, ..] = gone else { return None };
        let all = names.iter().copied().collect::<Vec<_>>().join(", ");
        // One name can be asked for; of several, the list stands in what was.
        let object = if names.len() == 1 { first.name.to_string() } else { format!("{} engines", names.len()) };
        Some(Self { count: gone.len() as u64, ..Self::object(object) }.from_to(all, "forgotten"))
    }

    /// From this to that.
    #[must_use]
    pub fn from_to(mut self, old: impl Into<String>, new: impl Into<String>) -> Self {
        (self.old, self.new) = (Some(old.into()), Some(new.into()));
        self
    }
}

impl Wish4Engine {
    /// What the history says, given what was wanted before.
    pub fn affected(&self, had: Wanted) -> Affected {
        let new = match self.deadline {
            Some(deadline) => format!("{}, deadline {}s", self.wanted, deadline.as_secs()),
            None => self.wanted.to_string(),
        };
        Affected { lasts: self.lasts, ..Affected::object(self.name.as_str()).from_to(had.word(), new) }
    }
}

/// `#7`, or `#7..#12`, of numbers in order.
pub fn span(tasks: &[TaskId]) -> String {
    match tasks {
        [] => "no task".to_owned(),
        [only] => only.to_string(),
        [first, .., last] => format!("{first}..{last}"),
    }
}

/// Numbers in order as `7,9-12`: a batch of neighbours takes a few bytes.
pub fn pack(tasks: &[TaskId]) -> String {
    let mut parts: Vec<(i64, i64)> = Vec::new();
    for id in tasks.iter().map(|task| task.as_i64()) {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == id => *last = id,
            _ => parts.push((id, id)),
        }
    }
    let show = |(first, last): &(i64, i64)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    parts.iter().map(show).collect::<Vec<_>>().join(",")
}

/// Whether [`pack`]ed numbers hold this one.
pub fn holds(packed: &str, task: TaskId) -> bool {
    let id = task.as_i64();
    packed.split(',').any(|part| match part.split_once('-') {
        Some((first, last)) => first.parse().is_ok_and(|n: i64| n <= id) && last.parse().is_ok_and(|n: i64| id <= n),
        None => part.parse() == Ok(id),
    })
}

/// One entry of the history, its transactions put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When its first transaction was.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// On which host.
    pub host: String,
    /// Which program.
    pub program: String,
    /// Its version.
    pub version: String,
    /// Such as `engine pause`.
    pub verb: String,
    /// A name, or `#7..#12`.
    pub object: String,
    /// The smallest and largest task.
    pub tasks: Option<(TaskId, TaskId)>,
    /// How many objects.
    pub count: u64,
    /// What was.
    pub old: Option<String>,
    /// What is.
    pub new: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// It ends by itself then.
    pub until: Option<Timestamp>,
}

/// Which entries to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryFilter {
    /// About this: an engine's name, a task's number, `schema` or the like.
    pub object: Option<String>,
    /// By this person; a user without a host means that user on every host.
    pub by: Option<String>,
    /// Not older than this.
    pub since: Option<Duration>,
    /// At most so many, newest first.
    pub limit: usize,
}

/// Rows that one hour and kind is spread over.
pub const SHARDS: u64 = 16;

/// The row that an incarnation adds to.
pub const fn shard(incarnation: Incarnation) -> i64 {
    (incarnation.as_i64().unsigned_abs() % SHARDS) as i64
}

/// What became of attempts of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Attempts that began, and have ended.
    pub claimed: u64,
    /// Attempts by result, in the order of [`AttemptResult::ALL`].
    pub results: [u64; 9],
    /// Tasks that failed for good.
    pub failed_for_good: u64,
    /// Tasks that were quarantined.
    pub quarantined: u64,
    /// Time that ended attempts ran, together.
    pub run_us: u64,
    /// The longest of them.
    pub run_max_us: u64,
    /// Claims whose wait is known.
    pub waited: u64,
    /// Their waits together.
    pub wait_us: u64,
    /// The longest of them.
    pub wait_max_us: u64,
}

/// A longer wait is taken for the row of another program, with a wrong time in it, and is not counted: one such row
/// would be the mean of its hour. A backlog that is older shows as the oldest ready task.
pub const WAIT_MAX: Duration = Duration::from_secs(7 * 86_400);

fn us(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

impl Counts {
    /// An attempt that ended had been claimed; with its wait where that is known.
    pub fn claimed(&mut self, wait: Option<Duration>) {
        self.claimed += 1;
        if let Some(wait) = wait.filter(|wait| *wait <= WAIT_MAX).map(us) {
            self.waited += 1;
            self.wait_us = self.wait_us.saturating_add(wait);
            self.wait_max_us = self.wait_max_us.max(wait);
        }
    }

    /// An attempt that ended, and what becomes of its task.
    pub fn ended(&mut self, result: AttemptResult, next: &Next, ran: Option<Duration>) {
        self.results[result as usize] += 1;
        match next {
            Next::Failed => self.failed_for_good += 1,
            Next::Quarantined => self.quarantined += 1,
            _ => {}
        }
        if let Some(ran) = ran.map(us) {
            self.run_us = self.run_us.saturating_add(ran);
            self.run_max_us = self.run_max_us.max(ran);
        }
    }

    /// A result that was refused.
    pub fn refused(&mut self) {
        self.results[AttemptResult::Fenced as usize] += 1;
    }

    /// Attempts with this result.
    pub const fn of(&self, result: AttemptResult) -> u64 {
        self.results[result as usize]
    }

    /// Both together.
    pub fn add(&mut self, other: &Self) {
        let add = |mine: &mut u64, more: u64| *mine = mine.saturating_add(more);
        add(&mut self.claimed, other.claimed);
        self.results.iter_mut().zip(other.results).for_each(|(mine, more)| add(mine, more));
        add(&mut self.failed_for_good, other.failed_for_good);
        add(&mut self.quarantined, other.quarantined);
        self.run_us = self.run_us.saturating_add(other.run_us);
        self.run_max_us = self.run_max_us.max(other.run_max_us);
        add(&mut self.waited, other.waited);
        self.wait_us = self.wait_us.saturating_add(other.wait_us);
        self.wait_max_us = self.wait_max_us.max(other.wait_max_us);
    }
}

/// One hour of one kind, its rows added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HourRow {
    /// The full hour.
    pub starts_at: Timestamp,
    /// The kind.
    pub kind: KindName,
    /// What became of its attempts.
    pub counts: Counts,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[i64]) -> Vec<TaskId> {
        numbers.iter().map(|n| TaskId::new(*n)).collect()
    }

    #[test]
    fn packed_numbers_hold_what_was_packed_and_nothing_else() {
        assert_eq!(pack(&ids(&[7, 9, 10, 11, 12, 20])), "7,9-12,20");
        assert_eq!((pack(&[]), span(&[])), (String::new(), "no task".to_owned()));
        let packed = pack(&ids(&[7, 9, 10, 12]));
        let held: Vec<i64> = (0..20).filter(|n| holds(&packed, TaskId::new(*n))).collect();
        assert_eq!(held, [7, 9, 10, 12]);
        assert!(!holds("", TaskId::new(1)) && !holds("x-y", TaskId::new(1)));
    }

    #[test]
    fn tasks_are_named_by_their_first_and_last_number() {
        let about = Affected::tasks(ids(&[12, 7, 9])).from_to("failed", "ready");
        assert_eq!((about.object.as_str(), about.count), ("#7..#12", 3));
        assert_eq!(Affected::tasks(ids(&[7])).object, "#7");
    }

    #[test]
    fn counts_add_up_and_keep_the_longest() {
        let (mut a, mut b) = (Counts::default(), Counts::default());
        a.claimed(Some(Duration::from_secs(2)));
        a.claimed(None);
        a.ended(AttemptResult::Done, &Next::Done, Some(Duration::from_secs(1)));
        b.ended(AttemptResult::Tempfail, &Next::Failed, Some(Duration::from_secs(5)));
        b.refused();
        a.add(&b);
        assert_eq!((a.claimed, a.waited, a.wait_us, a.wait_max_us), (2, 1, 2_000_000, 2_000_000));
        assert_eq!((a.of(AttemptResult::Done), a.of(AttemptResult::Tempfail), a.of(AttemptResult::Fenced)), (1, 1, 1));
        assert_eq!((a.failed_for_good, a.run_us, a.run_max_us), (1, 6_000_000, 5_000_000));
    }

    #[test]
    fn a_long_name_is_cut_and_parts_share_their_command() {
        let change = Change::new(&"x".repeat(999), "h", "rekindle", "task retry", None);
        assert_eq!(change.by.len(), NAME_MAX);
        assert_eq!((change.next().command, change.next().part), (change.command, 1));
    }
}
