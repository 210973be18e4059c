//! `rekindle config init`: a commented configuration to start from, written whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::{GlobalFlags, codes, consent, output};
use crate::config::{DEFAULT_DATABASE, Host};

/// The file that is written. Lines that begin with `#` and a letter are settings at their default, or
/// examples; a test reads it with and without these signs.
const SAMPLE: &str = include_str!("sample.toml");

/// Write a commented configuration file to start from
///
/// Exit codes: 0 written, 3 the file is already there.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(before_help = "Examples:\n  rekindle config init\n  rekindle config init --path - | less")]
pub struct ConfigInitArgs {
    /// Where to; - is standard output [default: the user's own; for root, after a question, /etc/rekindle/rekindle.toml]
    #[arg(long, value_name = "FILE")]
    pub path: Option<PathBuf>,
    /// Only say what would be written
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Overwrite what is there
    #[arg(long)]
    pub force: bool,
}

/// Writes the sample.
pub fn run(args: &ConfigInitArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let host = Host::here();
    let text = sample(&host);
    let path = match &args.path {
        Some(path) if path.as_os_str() == "-" => {
            output::print(&text)?;
            return Ok(Exit::Ok);
        }
        Some(path) => path.clone(),
        None => default_path(&host, flags),
    };
    let is_every_programs = args.path.is_none() && flags.config.is_none() && host.is_root;
    if is_every_programs && !args.dry_run && path.symlink_metadata().is_err() {
        let what = format!("write {}, which every program of this host takes from then on", path.display());
        consent::moderate(flags, &what)
            .map_err(|error| error.next("or name a file: --path FILE, --path - shows it"))?;
    }
    let written = match args.dry_run {
        true if !args.force && path.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        true => Ok(()),
        false => write_whole(&path, &text, args.force),
    };
    let dry = if args.dry_run { output::DRY } else { "" };
    match written {
        Ok(()) => {
            let group = if args.dry_run { None } else { group_line(&path, &host) };
            let path = path.display();
            let group = group.unwrap_or_default();
            flags.say(&format!(
                "{path} written.{dry}\n{group}next: edit it, then   rekindle -c {path} config check{dry}\n"
            ))?;
            Ok(Exit::Ok)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let what = format!("{} is already there", path.display());
            Err(CliError::refused(codes::FILE_EXISTS, what).next("add --force, or --path FILE"))
        }
        Err(error) => Err(CliError::file("write", &path, &error)),
    }
}

/// The sample with a database that its user may write: below root's or the user's own state directory.
fn sample(host: &Host) -> String {
    let url = |path: &Path| format!("url = \"sqlite://{}\"", path.display());
    let (default, own) = (Path::new(DEFAULT_DATABASE), host.state_dir().join("rekindle.db"));
    SAMPLE.replacen(&url(default), &url(&own), 1)
}

/// The group of the user that the shipped unit runs engines as.
const GROUP: &str = "rekindle";

/// Root's file is no use to an engine that runs as its own user: it is given to that user's group, or said
/// how. Nothing is said where root is the only user there is to be.
fn group_line(path: &Path, host: &Host) -> Option<String> {
    if !host.is_root {
        return None;
    }
    Some(match give_to_group(path, GROUP) {
        Ok(true) => format!("group {GROUP} may read it.\n"),
        Ok(false) => {
            format!("only root can read it: once there is a user for the engine, chgrp {GROUP} {}\n", path.display())
        }
        Err(error) => format!("only root can read it: chgrp {GROUP} {}   ({error})\n", path.display()),
    })
}

/// False if there is no such group.
fn give_to_group(path: &Path, name: &str) -> io::Result<bool> {
    let Some(group) = nix::unistd::Group::from_name(name)? else { return Ok(false) };
    std::os::unix::fs::chown(path, None, Some(group.gid.as_raw())).map(|()| true)
}

fn default_path(host: &Host, flags: &GlobalFlags) -> PathBuf {
    let mut places = host.config_files();
    let place = if host.is_root { places.first().cloned() } else { places.pop() };
    flags.config.clone().or(place).unwrap_or_else(|| "rekindle.toml".into())
}

/// Writes a file beside the wanted one and then gives it its name, so that a reader or a crash never sees
/// half of it. Without `force` an existing file is left alone, also one that appears meanwhile.
fn write_whole(path: &Path, text: &str, force: bool) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    if !dir.exists() {
        fs::create_dir_all(dir)?;
        // The files in it are private; the engine's user has to find them.
        fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    }
    if !force && path.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let beside = dir.join(format!(".{name}.{}.tmp", std::process::id()));
    let result = write_beside(&beside, text, fs::metadata(path).ok().map(|data| data.permissions())).and_then(|()| {
        // A hard link, unlike a rename, never replaces what is there.
        if force { fs::rename(&beside, path) } else { fs::hard_link(&beside, path) }
    });
    if result.is_err() || !force {
        fs::remove_file(&beside).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
    }
    result.and_then(|()| File::open(dir)?.sync_all())
}

fn write_beside(beside: &Path, text: &str, permissions: Option<Permissions>) -> io::Result<()> {
    // It may come to hold a password, so others get no right to read it.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(beside)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(permissions.unwrap_or(Permissions::from_mode(0o640)))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadOptions, command_problems, load};

    fn args(path: &Path, force: bool) -> ConfigInitArgs {
        ConfigInitArgs { path: Some(path.to_owned()), force, dry_run: false }
    }

    fn quiet() -> GlobalFlags {
        GlobalFlags { quiet: true, ..GlobalFlags::default() }
    }

    #[test]
    fn the_sample_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/rekindle.toml");
        assert_eq!(run(&args(&path, false), &quiet()), Ok(Exit::Ok));
        let loaded = load(&LoadOptions { config: Some(path.clone()), ..LoadOptions::default() }).unwrap();
        assert_eq!((loaded.warnings, command_problems(&loaded_again(&path))), (vec![], vec![]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    fn loaded_again(path: &Path) -> crate::config::Loaded {
        load(&LoadOptions { config: Some(path.to_owned()), ..LoadOptions::default() }).unwrap()
    }

    #[test]
    fn every_line_of_the_sample_that_is_commented_out_is_right_too() {
        let is_setting = |rest: &&str| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
        let line = |line: &str| line.strip_prefix('#').filter(is_setting).unwrap_or(line).to_owned();
        let text: Vec<String> = SAMPLE.lines().map(line).filter(|line| !line.starts_with("password_file")).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        fs::write(&path, text.join("\n")).unwrap();
        let loaded = load(&LoadOptions { config: Some(path), ..LoadOptions::default() }).unwrap();
        for setting in &loaded.shown {
            let key = setting.key.rsplit('.').next().unwrap();
            assert!(SAMPLE.contains(&format!("{key} =")) || key == "min", "{} is not in the sample", setting.key);
        }
    }

    #[test]
    fn the_units_group_may_read_what_root_writes() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/rekindle.toml");
        assert_eq!(run(&args(&path, false), &quiet()), Ok(Exit::Ok));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o755, 0o640), "whatever the umask is");
        assert!(!give_to_group(&path, "no-such-group").unwrap());
        if !nix::unistd::geteuid().is_root() {
            return println!("skipped: only root can give files away");
        }
        let daemon = nix::unistd::Group::from_name("daemon").unwrap().expect("every system has it");
        assert!(give_to_group(&path, "daemon").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().gid(), daemon.gid.as_raw());
    }

    #[test]
    fn what_is_there_is_not_overwritten_without_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        fs::write(&path, "mine").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let error = run(&args(&path, false), &quiet()).unwrap_err();
        assert_eq!((error.code, error.exit), ("E203", Exit::Refused));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert_eq!(run(&args(&path, true), &quiet()), Ok(Exit::Ok));
        assert_eq!(fs::read_to_string(&path).unwrap(), sample(&Host::here()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "its mode is kept");
    }

    #[test]
    fn root_writes_the_hosts_file_and_others_their_own() {
        let env = [("HOME".to_owned(), "/home/u".to_owned())].into();
        let host = |is_root| Host { env: std::collections::BTreeMap::clone(&env), is_root, ..Host::default() };
        let path = |is_root| default_path(&host(is_root), &GlobalFlags::default()).display().to_string();
        let url = |is_root| sample(&host(is_root)).lines().find(|line| line.starts_with("url =")).map(str::to_owned);
        assert_eq!(url(true).unwrap(), "url = \"sqlite:///var/lib/rekindle/rekindle.db\"");
        assert_eq!(url(false).unwrap(), "url = \"sqlite:///home/u/.local/state/rekindle/rekindle.db\"");
        assert_eq!(
            (path(true), path(false)),
            ("/etc/rekindle/rekindle.toml".into(), "/home/u/.config/rekindle/rekindle.toml".into())
        );
    }
}
