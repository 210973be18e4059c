//! Finds the sources, lays them over each other, reads them, and puts the password where it belongs.

use std::fmt;
use std::path::{Path, PathBuf};

use super::backend::Backend;
use super::environment::environment_tree;
use super::host::Host;
use super::read::read_config;
use super::reader::{Reader, Shown};
use super::settings::{Config, DatabaseConfig};
use super::source::{
    Item, Node, Origin, Problem, Tree, find, insert, is_world_readable, merge, parse_toml, toml_files,
};
use super::trust;
use super::url::DatabaseUrl;

/// A setting from the command line.
#[derive(Clone)]
pub struct Override {
    /// Its dotted name, such as `engine.name`.
    pub key: &'static str,
    /// Its text.
    pub value: String,
    /// The flag, such as `--name`.
    pub flag: &'static str,
}

/// Where to look.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// The file that `--config` names; then it must exist.
    pub config: Option<PathBuf>,
    /// Settings of flags.
    pub overrides: Vec<Override>,
    /// Environment, host name, rights.
    pub host: Host,
}

impl LoadOptions {
    /// A secret in a flag is refused before anything else is done: everyone on this host reads command lines
    /// (`ps`), and guard, engine and prover keep theirs for life.
    pub fn secret_flag(&self) -> Option<String> {
        let urls = self.overrides.iter().filter(|flag| flag.key == "database.url");
        let holds = |flag: &&Override| DatabaseUrl::parse(&flag.value).is_ok_and(|url| url.has_secret());
        urls.into_iter().find(holds).map(|Override { flag, .. }| {
            format!("{flag} must not hold a password: everyone on this host can read command lines (ps)")
        })
    }
}

/// Where a database URL with a password may stand.
pub const SAFE_FOR_SECRETS: [&str; 2] = [
    "in a file that only its user can read: --database-url-file FILE, or database.url_file or password_file",
    "or in the environment: REKINDLE_DATABASE_URL",
];

/// A configuration that is right.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Each setting with its origin, for `config show`.
    pub shown: Vec<Shown>,
    /// What is doubtful.
    pub warnings: Vec<Problem>,
    /// The files that were read, the weakest first.
    pub files: Vec<PathBuf>,
    /// Where a file was looked for, if none was found.
    pub looked_at: Vec<PathBuf>,
}

impl Loaded {
    /// Which files were read, or that none was found and where.
    pub fn files_in_words(&self) -> String {
        let list = |paths: &[PathBuf]| {
            let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            shown.join(" and ")
        };
        match self.files.as_slice() {
            [] => format!("no configuration file: looked at {}", list(&self.looked_at)),
            files => list(files),
        }
    }

    /// Nobody has said which database: no file, variable or flag.
    pub fn has_default_database(&self) -> bool {
        self.origin("database.url") == Origin::Default
    }

    /// Who set this key.
    pub fn origin(&self, key: &str) -> Origin {
        self.shown.iter().find(|shown| shown.key == key).map_or(Origin::Default, |shown| shown.origin.clone())
    }
}

/// Everything that is wrong, each with its place.
#[derive(Debug, Clone, thiserror::Error)]
pub struct ConfigErrors {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What is doubtful besides.
    pub warnings: Vec<Problem>,
    /// What could be read, with defaults where it could not: for finding further problems, never for use.
    pub rest: Option<Box<Loaded>>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.problems.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Reads all sources and reports all problems at once.
pub fn load(options: &LoadOptions) -> Result<Loaded, ConfigErrors> {
    let mut reader = Reader::default();
    let (mut tree, files) = read_files(&mut reader, options);
    // A half-read tree would only add problems that are none.
    if !reader.problems.is_empty() {
        return Err(ConfigErrors { problems: reader.problems, warnings: reader.warnings, rest: None });
    }
    let mut environment = environment_tree(&options.host, &tree);
    expand_url_file(&mut reader, &mut environment);
    merge(&mut tree, environment);
    let mut flags = flag_tree(&options.overrides);
    expand_url_file(&mut reader, &mut flags);
    merge(&mut tree, flags);
    let mut config = read_config(&mut reader, tree, &options.host);
    warn_of_passwords_in_the_environment(&mut reader, &config.database);
    insert_password(&mut reader, &mut config.database, &options.host);
    let looked_at = if files.is_empty() { options.host.config_files() } else { Vec::new() };
    let Reader { problems, warnings, shown } = reader;
    if problems.is_empty() {
        Ok(Loaded { config, shown, warnings, files, looked_at })
    } else {
        let rest = Box::new(Loaded { config, shown, warnings: Vec::new(), files, looked_at });
        Err(ConfigErrors { problems, warnings, rest: Some(rest) })
    }
}

/// The file and then its `conf.d`, laid over each other.
fn read_files(reader: &mut Reader, options: &LoadOptions) -> (Tree, Vec<PathBuf>) {
    let (mut tree, mut files) = (Tree::new(), Vec::new());
    let (main, is_named) = main_file(options);
    let Some(main) = main else { return (tree, files) };
    let drop_ins = main.parent().map(|dir| toml_files(&dir.join("conf.d"))).unwrap_or(Ok(Vec::new()));
    let drop_ins = drop_ins.unwrap_or_else(|error| {
        reader.problem(Origin::file(&main.with_file_name("conf.d")), format!("cannot be read: {error}"));
        Vec::new()
    });
    for (path, must_exist) in std::iter::once((main, is_named)).chain(drop_ins.into_iter().map(|path| (path, true))) {
        let text = match trust::read_to_string(&path, options.host.is_root) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => continue,
            Err(error) => {
                let is_denied = error.raw_os_error() == Some(nix::libc::EACCES);
                let hint = if is_denied { "; as root: chgrp GROUP FILE, with a group of this user" } else { "" };
                reader.problem(Origin::file(&path), format!("cannot be read: {error}{hint}"));
                continue;
            }
        };
        match parse_toml(&path, &text) {
            Ok(mut layer) => {
                expand_url_file(reader, &mut layer);
                merge(&mut tree, layer);
            }
            Err(problems) => reader.problems.extend(problems),
        }
        files.push(path);
    }
    (tree, files)
}

/// Which file, and whether somebody named it.
fn main_file(options: &LoadOptions) -> (Option<PathBuf>, bool) {
    let named = options.config.clone().or_else(|| options.host.var("REKINDLE_CONFIG").map(PathBuf::from));
    if named.is_some() {
        return (named.map(|path| std::path::absolute(&path).unwrap_or(path)), true);
    }
    // Only a file that surely is not there is passed over: one that may not be read is the one that counts.
    // A directory of drop-ins alone counts as well.
    let counts = |path: &PathBuf| {
        let drop_ins = path.with_file_name("conf.d");
        path.try_exists().unwrap_or(true) || toml_files(&drop_ins).is_ok_and(|files| !files.is_empty())
    };
    (options.host.config_files().into_iter().find(counts), false)
}

fn flag_tree(overrides: &[Override]) -> Tree {
    let mut tree = Tree::new();
    for Override { key, value, flag } in overrides {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        insert(&mut tree, &path, Node { item: Item::Raw(value.clone()), origin: Origin::Flag(flag) });
    }
    tree
}

/// `database.url_file` becomes `database.url` of the same source, so that who wins stays one rule.
fn expand_url_file(reader: &mut Reader, layer: &mut Tree) {
    let Some(node) = find(layer, &["database", "url_file"]).cloned() else { return };
    if find(layer, &["database", "url"]).is_some() {
        reader.problem(node.origin, "database.url_file: give either url or url_file, not both".to_owned());
        return;
    }
    let read = super::setting::absolute(&node).and_then(|path| {
        let text =
            std::fs::read_to_string(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        Ok((path, text))
    });
    match read {
        Ok((path, text)) => {
            let url = Node { item: Item::Raw(text), origin: Origin::file(&path) };
            insert(layer, &["database".to_owned(), "url".to_owned()], url);
        }
        Err(text) => reader.problem(node.origin, format!("database.url_file: {text}")),
    }
}

fn warn_if_world_readable(reader: &mut Reader, origin: &Origin, path: &Path) {
    if is_world_readable(path) {
        let text = format!("{} can be read by everyone on this host; chmod o-r it", path.display());
        reader.warn(origin.clone(), text);
    }
}

/// A variable is seen by whoever starts the program and by the tools that look after it.
fn warn_of_passwords_in_the_environment(reader: &mut Reader, database: &DatabaseConfig) {
    let keys = [("database.url", database.urls.as_slice()), ("database.beat_url", database.beat_url.as_slice())];
    for (key, _) in keys.iter().filter(|(_, urls)| urls.iter().any(DatabaseUrl::has_password)) {
        let origin = reader.shown.iter().find(|shown| shown.key == *key).map(|shown| shown.origin.clone());
        if let Some(origin @ Origin::Env(_)) = origin {
            let text = format!(
                "{key}: a password in the environment is seen by what starts this program, by systemctl show and by \
                 docker inspect; write it into database.password_file"
            );
            reader.warn(origin, text);
        }
    }
}

/// The password of `password_file`, or of systemd's credential, into every URL that has none.
fn insert_password(reader: &mut Reader, database: &mut DatabaseConfig, host: &Host) {
    let needs = |url: &DatabaseUrl| url.backend() != Backend::Sqlite && !url.has_password();
    if !database.urls.iter().chain(&database.beat_url).any(needs) {
        return;
    }
    let credential = || host.var("CREDENTIALS_DIRECTORY").map(|dir| Path::new(dir).join("db-password"));
    let (path, is_written) = match (&database.password_file, credential()) {
        (Some(path), _) => (path.clone(), true),
        (None, Some(path)) => (path, false),
        (None, None) => return,
    };
    let origin = reader.shown.iter().find(|shown| shown.key == "database.password_file");
    let origin = origin.map_or(Origin::Default, |shown| shown.origin.clone());
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            warn_if_world_readable(reader, &origin, &path);
            let password = text.lines().next().unwrap_or_default();
            if password.is_empty() {
                reader.problem(origin, format!("database.password_file: {} is empty", path.display()));
                return;
            }
            if password.contains('\0') {
                reader.problem(origin, format!("database.password_file: {} holds a zero byte", path.display()));
                return;
            }
            database.urls.iter_mut().chain(&mut database.beat_url).for_each(|url| *url = url.with_password(password));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_written => {}
        Err(error) => {
            reader.problem(origin, format!("database.password_file: {} cannot be read: {error}", path.display()));
        }
    }
}
