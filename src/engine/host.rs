//! What an engine says about the host and process it runs in.

pub use crate::process::place::boot_id;

/// Host name.
pub fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into_owned())
}

/// Where the program runs from, links resolved.
pub fn release() -> String {
    let path = std::env::current_exe().and_then(|path| path.canonicalize());
    path.ok().and_then(|path| path.parent().map(|dir| dir.display().to_string())).unwrap_or_else(|| "?".into())
}
