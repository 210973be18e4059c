//! What the doctor says of directories and files: the engine's own, and those of SQLite.

use std::path::Path;

use super::Line;
use crate::cli::output::plural;
use crate::config::{Config, place};
use crate::engine::{dropped_file, epoch_file, fork_file, last_beat_file};
use crate::guard::StateDirError;

/// The directories of the engine, and what lies in them.
pub(super) fn dir_lines(config: &Config) -> Vec<Line> {
    let dirs = [("state dir", &config.engine.state_dir), ("scratch dir", &config.engine.scratch_dir)];
    let mut lines: Vec<Line> = dirs.map(|(subject, dir)| dir_line(subject, dir)).into();
    let state_dir = &config.engine.state_dir;
    if place::is_open_to_all(state_dir) {
        let text = format!("every user of this host may look into {}", state_dir.display());
        lines.push(Line::warn("state dir", text, format!("chmod o= {}", state_dir.display())));
    }
    lines.extend(kept_lines(state_dir));
    lines
}

/// Whether the engine could work there, if it ran as this user. It is tried: a file is made and removed, in
/// the directory itself or where the engine would have to make it.
fn dir_line(subject: &'static str, dir: &Path) -> Line {
    let shown = dir.display();
    // Without following the last link: a dangling one is there, and in the way.
    let there = dir.ancestors().find(|part| part.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        let text = format!("{shown}: {} is no directory", there.display());
        return Line::fail(subject, text, format!("move it away: {}", there.display()));
    }
    match place::try_out(there) {
        Ok(()) if there == dir => Line::ok(subject, format!("{shown} is writable for this user")),
        Ok(()) => Line::ok(subject, format!("{shown} is not there yet; the engine makes it")),
        Err(error) => {
            let text = format!("{shown}: this user cannot write in {} ({error})", there.display());
            match error.kind() {
                std::io::ErrorKind::PermissionDenied if !nix::unistd::geteuid().is_root() => Line::warn(
                    subject,
                    text,
                    "fine if the engine runs as another user; run the doctor as that one: sudo -u rekindle rekindle doctor",
                ),
                _ => Line::fail(subject, text, "an engine would not start; name another directory, or mend this one"),
            }
        }
    }
}

/// What a former engine left in the state directory, and a start would refuse.
fn kept_lines(dir: &Path) -> Vec<Line> {
    let kept = [epoch_file::read(dir).err(), last_beat_file::read(dir).err(), fork_file::read(dir).err()];
    let kept = kept.into_iter().flatten().filter(|error| error.kind() == std::io::ErrorKind::InvalidData);
    let id = crate::guard::check_id(dir).err().filter(|error| matches!(error, StateDirError::BadId { .. }));
    let texts = kept.map(|error| error.to_string()).chain(id.map(|error| error.to_string()));
    let refused = texts.map(|text| Line::fail("state dir", text, "an engine would not start with it"));
    refused.chain(dropped_line(dir)).collect()
}

/// The engine goes on when nobody reads its log, so somebody else has to say it.
fn dropped_line(dir: &Path) -> Option<Line> {
    let count = Some(usize::try_from(dropped_file::read(dir)).unwrap_or(usize::MAX)).filter(|count| *count > 0)?;
    let text = format!("the engine has dropped {} of its log since its start: nobody read them", plural(count, "line"));
    Some(Line::warn("log", text, "look at what takes its standard error: a pipe, a terminal, the journal, a full disk"))
}

/// Place and owner of a SQLite file.
pub(super) fn file_lines(config: &Config) -> Vec<Line> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let Some(path) = config.database.urls.first().and_then(|url| url.sqlite_path()) else { return Vec::new() };
    let Ok(data) = std::fs::metadata(path) else { return Vec::new() };
    let mut lines = Vec::new();
    let owner = nix::unistd::User::from_uid(data.uid().into()).ok().flatten();
    let owner = owner.map_or_else(|| data.uid().to_string(), |user| user.name);
    let mode = data.permissions().mode() & 0o7777;
    lines.push(Line::ok(
        "file",
        format!("{} belongs to {owner}, mode {mode:04o}, {} bytes", path.display(), data.len()),
    ));
    if mode & 0o007 != 0 {
        let fix = format!("chmod o= {}", path.display());
        lines.push(Line::warn("file", format!("{} is open to every user of this host", path.display()), fix));
    }
    lines.extend(path.parent().and_then(space_line));
    lines.extend(log_line(path));
    for suffix in ["-wal", "-shm"] {
        let beside = path.with_file_name(format!("{}{suffix}", path.file_name().unwrap_or_default().to_string_lossy()));
        let stranger = std::fs::metadata(&beside).ok().filter(|other| other.uid() != data.uid());
        lines.extend(stranger.map(|_| {
            let text = format!("{} belongs to another user than the database", beside.display());
            Line::fail("file", text, format!("chown {owner} {}", beside.display()))
        }));
    }
    lines
}

/// SQLite's log grows while somebody reads from it and does not end.
#[cfg(feature = "sqlite")]
fn log_line(path: &Path) -> Option<Line> {
    use crate::store::sqlite::{WAL_MAX, reader_words, wal_size};
    let size = Some(wal_size(path)).filter(|size| *size > WAL_MAX)?;
    let text = format!("{}-wal has {} MiB: {}", path.display(), size >> 20, reader_words(path));
    Some(Line::warn("file", text, "end what reads; the engines cut it off within ten minutes"))
}

#[cfg(not(feature = "sqlite"))]
const fn log_line(_: &Path) -> Option<Line> {
    None
}

/// Less than this on the disk of a SQLite file is little: its log alone grows to 8 MiB between checkpoints.
const SPACE_MIN: u64 = 64 << 20;

fn space_line(dir: &Path) -> Option<Line> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
    let text = format!("{} MiB free in {}", free >> 20, dir.display());
    Some(match free {
        0..SPACE_MIN => Line::fail("space", text, "make space: a full disk stops every write, heartbeats included"),
        _ => Line::ok("space", text),
    })
}
