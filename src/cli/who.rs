//! Who gives the command, for the history and the notes of engines and tasks.

use super::GlobalFlags;
use crate::config::Host;
use crate::store::Change;

/// The login name; behind sudo the name of the person, not root.
pub fn user() -> String {
    let uid = nix::unistd::getuid();
    let behind_sudo = || std::env::var("SUDO_USER").ok().filter(|name| uid.is_root() && !name.is_empty());
    let known = || nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    behind_sudo().or_else(known).unwrap_or_else(|| format!("uid {uid}"))
}

/// What the history says of a change by this program.
pub fn change(verb: &str, flags: &GlobalFlags) -> Change {
    let host = Host::here().name;
    let by = format!("{}@{host}", user());
    Change::new(&by, &host, "rekindle", verb, flags.reason.clone())
}
