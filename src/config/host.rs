//! What the defaults need to know about this host and process, gathered once, so that everything else
//! is a function of plain values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::protocol::ids::EngineName;

/// Environment, host name and rights of this process.
#[derive(Clone, Default)]
pub struct Host {
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The host's name, long or short.
    pub name: String,
    /// Whether this process is root.
    pub is_root: bool,
}

// The environment holds secrets, so it has no Debug of its own.
impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("name", &self.name).field("is_root", &self.is_root).finish_non_exhaustive()
    }
}

impl Host {
    /// This host and process. Variables that are not UTF-8 cannot be settings and are left out.
    pub fn here() -> Self {
        let env = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
        Self { env: env.collect(), name, is_root: nix::unistd::geteuid().is_root() }
    }

    /// A variable that is set and not empty.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn dir(&self, name: &str) -> Option<PathBuf> {
        // systemd may list several directories, separated by colons.
        self.var(name).and_then(|value| value.split(':').next()).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// The short host name; characters that a name may not hold become `-`.
    pub fn engine_name(&self) -> EngineName {
        let short = self.name.split('.').next().unwrap_or_default();
        let text: String =
            short.chars().map(|c| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '-' }).collect();
        EngineName::new(text).unwrap_or_else(|_| EngineName::from_stored("localhost".to_owned()))
    }

    /// systemd's directory, else `/var/lib/rekindle` for root, else below the user's home.
    pub fn state_dir(&self) -> PathBuf {
        let system = || self.is_root.then(|| PathBuf::from("/var/lib/rekindle"));
        let xdg = || self.dir("XDG_STATE_HOME").map(|dir| dir.join("rekindle"));
        let home = || self.dir("HOME").map(|dir| dir.join(".local/state/rekindle"));
        self.dir("STATE_DIRECTORY").or_else(system).or_else(xdg).or_else(home).unwrap_or("/var/lib/rekindle".into())
    }

    /// Below systemd's or the user's run-time directory, else in the state directory.
    pub fn scratch_dir(&self, state_dir: &Path) -> PathBuf {
        let system = || self.is_root.then(|| PathBuf::from("/run/rekindle/t"));
        let user = || self.dir("XDG_RUNTIME_DIR").map(|dir| dir.join("rekindle/t"));
        let unit = self.dir("RUNTIME_DIRECTORY").map(|dir| dir.join("t"));
        unit.or_else(system).or_else(user).unwrap_or_else(|| state_dir.join("t"))
    }

    /// Where a configuration file may lie, the first that exists counts.
    pub fn config_files(&self) -> Vec<PathBuf> {
        let home = self.dir("XDG_CONFIG_HOME").or_else(|| self.dir("HOME").map(|dir| dir.join(".config")));
        let user = home.map(|dir| dir.join("rekindle/rekindle.toml"));
        std::iter::once(PathBuf::from("/etc/rekindle/rekindle.toml")).chain(user).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(env: &[(&str, &str)], is_root: bool) -> Host {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Host { env, name: "app1.example.net".to_owned(), is_root }
    }

    #[test]
    fn the_state_directory_is_the_units_then_roots_then_the_users() {
        let dir = |env: &[(&str, &str)], root| host(env, root).state_dir().display().to_string();
        assert_eq!(dir(&[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("HOME", "/h")], true), "/var/lib/a");
        assert_eq!(dir(&[("HOME", "/h")], true), "/var/lib/rekindle");
        assert_eq!(dir(&[("HOME", "/h"), ("XDG_STATE_HOME", "/x")], false), "/x/rekindle");
        assert_eq!(dir(&[("HOME", "/h"), ("XDG_STATE_HOME", "relative")], false), "/h/.local/state/rekindle");
        assert_eq!(dir(&[], false), "/var/lib/rekindle");
    }

    #[test]
    fn the_name_is_the_short_host_name() {
        assert_eq!(host(&[], true).engine_name().as_str(), "app1");
        assert_eq!(Host { name: "büro 7".into(), ..Host::default() }.engine_name().as_str(), "b-ro-7");
        assert_eq!(Host::default().engine_name().as_str(), "localhost");
    }

    #[test]
    fn debug_shows_no_environment() {
        assert!(!format!("{:?}", host(&[("REKINDLE_DATABASE_URL", "geheim")], false)).contains("geheim"));
    }
}
