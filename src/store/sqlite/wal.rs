//! The write-ahead log: keeping it small, and who keeps it from getting so.
//!
//! SQLite copies the log into the file by itself, and begins it anew when nobody reads from it. One reader that stays
//! (a shell in a transaction, a program that was stopped) keeps it from beginning anew, and it grows with every write.
//! Afterwards it is written over from its start, but stays as large as it was; so a large one is cut off.
//!
//! First PASSIVE, which holds nobody up, then TRUNCATE, which holds the writers' lock, but finds little left to copy.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::SqliteDb;
use crate::clock::{Clock, SystemClock};
use crate::store::api::StoreResult;
use crate::store::db::Db;

/// A log that is larger is cut off when nobody reads.
pub const WAL_MAX: u64 = 64 << 20;

/// The log of a file.
fn log_of(path: &Path, end: &str) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push(end);
    log.into()
}

/// How large it is.
pub fn wal_size(path: &Path) -> u64 {
    std::fs::metadata(log_of(path, "-wal")).map_or(0, |data| data.len())
}

/// Cuts a log that is larger than `max`; says once who keeps it from that.
pub(super) fn cut(db: &mut SqliteDb, max: u64) -> StoreResult<()> {
    static SAID: AtomicBool = AtomicBool::new(false);
    let path = db.path.clone();
    let size = wal_size(&path);
    if size <= max {
        SAID.store(false, Ordering::Relaxed);
        return Ok(());
    }
    let is_whole = checkpoint(db, "PASSIVE")? && checkpoint(db, "TRUNCATE")?;
    if !is_whole && !SAID.swap(true, Ordering::Relaxed) {
        log::warn!("{}-wal has {} MiB and cannot be cut off: {}", path.display(), size >> 20, reader_words(&path));
    }
    Ok(())
}

/// Whether all of the log is in the file now.
fn checkpoint(db: &mut SqliteDb, mode: &str) -> StoreResult<bool> {
    let any: &mut dyn Db = db;
    let sql = any.stmt().sql(format!("PRAGMA wal_checkpoint({mode})"));
    Ok(any.first("cut the log", &sql)?.is_some_and(|mut row| {
        let (busy, pages, done) = (row.int(), row.int(), row.int());
        busy == 0 && pages == done
    }))
}

/// Between two looks at the locks: whoever holds one in both stays, a statement of an engine is over by then.
const BETWEEN: Duration = Duration::from_millis(100);

/// The processes that read from the log of a file and stay, as far as the kernel tells: of another PID namespace the
/// number is 0.
pub fn readers(path: &Path) -> Vec<i32> {
    let Ok(shared) = std::fs::metadata(log_of(path, "-shm")) else { return Vec::new() };
    let look = || readers_in(&std::fs::read_to_string("/proc/locks").unwrap_or_default(), shared.ino());
    let first = look();
    SystemClock.pause(BETWEEN);
    let second = look();
    first.into_iter().filter(|pid| second.contains(pid)).collect()
}

/// Where SQLite's readers have their locks in the file of shared memory: five marks, one byte each.
const READ_LOCKS: std::ops::RangeInclusive<u64> = 123..=127;

fn readers_in(locks: &str, inode: u64) -> Vec<i32> {
    let reader = |line: &str| {
        // 12: POSIX  ADVISORY  READ 4711 fe:01:123456 124 124
        let mut words = line.split_whitespace().skip(3);
        let is_read = words.next()? == "READ";
        let pid = words.next()?.parse().ok()?;
        let of: u64 = words.next()?.rsplit(':').next()?.parse().ok()?;
        let from: u64 = words.next()?.parse().ok()?;
        (is_read && of == inode && READ_LOCKS.contains(&from)).then_some(pid)
    };
    let mut pids: Vec<i32> = locks.lines().filter_map(reader).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// `process 4711 (sqlite3) reads from it`, and so on.
pub fn reader_words(path: &Path) -> String {
    let name = |pid: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if *pid <= 0 { "one of another container".to_owned() } else { format!("process {pid} ({})", name.trim()) }
    };
    let names: Vec<String> = readers(path).iter().map(name).collect();
    match names.len() {
        0 => "nobody reads from it at this moment".to_owned(),
        1 => format!("{} reads from it and does not end", names[0]),
        _ => format!("{} read from it and do not end", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DatabaseUrl;
    use crate::store::pool::Settings;
    use crate::store::sql::Sql;

    fn open(path: &Path) -> SqliteDb {
        let url = DatabaseUrl::sqlite(path.to_path_buf());
        SqliteDb::open(&Settings { create: true, ..Settings::new(url) }).unwrap()
    }

    fn run(db: &mut SqliteDb, text: &str) {
        db.query("a test", &Sql { text: text.into(), binds: Vec::new() }).unwrap();
    }

    #[test]
    fn a_reader_that_stays_is_named_and_the_log_is_cut_off_when_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rekindle.db");
        let (mut writer, mut reader) = (open(&path), open(&path));
        run(&mut writer, "CREATE TABLE t (x BLOB)");
        run(&mut reader, "BEGIN");
        run(&mut reader, "SELECT count(*) FROM t");
        for _ in 0..40 {
            run(&mut writer, "INSERT INTO t VALUES (randomblob(100000))");
        }
        let large = wal_size(&path);
        assert!(large > 4_000_000, "{large}");
        cut(&mut writer, 1 << 20).unwrap();
        assert_eq!(wal_size(&path), large, "somebody reads from it");
        assert_eq!(readers(&path), [std::process::id() as i32]);
        let words = reader_words(&path);
        assert!(words.starts_with(&format!("process {} (", std::process::id())) && words.ends_with("does not end"));
        run(&mut reader, "COMMIT");
        cut(&mut writer, large).unwrap();
        assert_eq!(wal_size(&path), large, "it is not too large");
        cut(&mut writer, 1 << 20).unwrap();
        assert_eq!(wal_size(&path), 0);
        assert_eq!(readers(&path), Vec::<i32>::new());
    }

    #[test]
    fn locks_of_readers_are_told_from_others() {
        let locks = "1: POSIX  ADVISORY  READ 12 fe:01:77 124 124\n2: POSIX  ADVISORY  WRITE 13 fe:01:77 120 120\n\
                     3: POSIX  ADVISORY  READ 14 fe:01:77 128 128\n4: POSIX  ADVISORY  READ 15 fe:01:78 124 124\n\
                     5: FLOCK  ADVISORY  WRITE 16 fe:01:77 0 EOF\n6: POSIX  ADVISORY  READ 0 00:2f:77 123 123\nx\n";
        assert_eq!(readers_in(locks, 77), [0, 12]);
    }
}
