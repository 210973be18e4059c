//! Loading as a whole: precedence, origins, and all problems at once.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::protocol::ids::KindName;
use crate::protocol::task::Rerun;

/// A directory with files, and the options to load them.
struct Site {
    dir: tempfile::TempDir,
    options: LoadOptions,
}

impl Site {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = LoadOptions { config: Some(dir.path().join("rekindle.toml")), ..LoadOptions::default() };
        options.host.name = "app1.example.net".to_owned();
        Self { dir, options }.file("rekindle.toml", text)
    }

    fn file(self, name: &str, text: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.options.host.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn flag(mut self, key: &'static str, value: &str, flag: &'static str) -> Self {
        self.options.overrides.push(Override { key, value: value.to_owned(), flag });
        self
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn load(&self) -> Loaded {
        load(&self.options).unwrap()
    }

    /// All problems, with the directory's name taken out.
    fn problems(&self) -> Vec<String> {
        self.plain(&load(&self.options).unwrap_err().problems)
    }

    fn plain(&self, problems: &[Problem]) -> Vec<String> {
        problems.iter().map(|p| p.to_string().replace(&self.path(""), "")).collect()
    }
}

#[test]
fn nothing_written_means_defaults() {
    let site = Site::new("");
    let Loaded { config, warnings, .. } = site.load();
    assert_eq!(config, Config::defaults(&site.options.host));
    assert_eq!(config.engine.name.as_str(), "app1");
    assert_eq!(config.database.urls[0].to_string(), "sqlite:/var/lib/rekindle/rekindle.db");
    assert!(warnings.is_empty());
}

#[test]
fn no_file_at_all_is_fine_but_a_named_one_must_exist() {
    let host = Host { name: "app1".into(), ..Host::default() };
    let options = LoadOptions { host, ..LoadOptions::default() };
    assert!(load(&options).is_ok());
    let options = LoadOptions { config: Some("/no/such.toml".into()), ..options };
    let text = load(&options).unwrap_err().to_string();
    assert!(text.starts_with("/no/such.toml: cannot be read: No such file"), "{text}");
}

#[test]
fn the_default_database_hangs_on_nothing_that_nobody_sees() {
    let url = |site: &Site| site.load().config.database.urls[0].to_string();
    let places = [
        Site::new(""),
        Site::new("").env("HOME", "/home/u").env("XDG_STATE_HOME", "/home/u/state"),
        Site::new("").env("STATE_DIRECTORY", "/var/lib/rekindle-b"),
        Site::new("").flag("engine.state_dir", "/var/lib/rekindle-b", "--state-dir"),
        Site::new("[engine]\nstate_dir = \"/srv/rekindle\"\n"),
    ];
    for site in &places {
        assert_eq!(url(site), format!("sqlite:{DEFAULT_DATABASE}"));
    }
    let loaded = places[0].load();
    assert!(loaded.has_default_database() && loaded.files_in_words().ends_with("/rekindle.toml"));
    let host = Host { env: [("HOME".to_owned(), "/home/u".to_owned())].into(), ..Host::default() };
    let nothing = load(&LoadOptions { host, ..LoadOptions::default() }).unwrap();
    assert_eq!(
        nothing.files_in_words(),
        "no configuration file: looked at /etc/rekindle/rekindle.toml and /home/u/.config/rekindle/rekindle.toml"
    );
}

#[test]
fn as_root_only_files_that_nobody_else_can_write_are_taken() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let mut site = Site::new("[engine]\nslots = 2\n").file("conf.d/10.toml", "[engine]\nslots = 3\n");
    site.options.host.is_root = true;
    let drop_in = site.dir.path().join("conf.d/10.toml");
    std::fs::set_permissions(&drop_in, std::fs::Permissions::from_mode(0o646)).unwrap();
    let problems = site.problems();
    let is_refused = |problem: &String| problem.starts_with("conf.d/10.toml: cannot be read: everyone may write it");
    // As another user all of them are somebody else's.
    assert!(problems.iter().any(is_refused) || !nix::unistd::geteuid().is_root(), "{problems:?}");
    if nix::unistd::geteuid().is_root() {
        std::fs::set_permissions(&drop_in, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(site.load().config.engine.slots, 3);
        chown(site.dir.path().join("rekindle.toml"), Some(1), None).unwrap();
        assert!(site.problems()[0].starts_with("rekindle.toml: cannot be read: it belongs to user 1"));
    }
}

#[test]
fn an_empty_variable_is_none() {
    let site = Site::new("[engine]\nslots = 2\n").env("REKINDLE_ENGINE__SLOTS", "").env("REKINDLE_DATABASE__URL", "");
    let loaded = site.env("REKINDLE_DATABASE_URL", "sqlite:/a.db").load();
    assert_eq!(
        (loaded.config.engine.slots, loaded.config.database.urls[0].to_string()),
        (2, "sqlite:/a.db".to_owned())
    );
}

#[test]
fn flags_beat_environment_beats_drop_ins_beat_the_file() {
    let site = Site::new("[engine]\nslots = 1\nname = \"a\"\npoll = \"2s\"\nstop_deadline = \"60s\"\n")
        .file("conf.d/20.toml", "[engine]\nslots = 3\nname = \"c\"\npoll = \"4s\"\n")
        .file("conf.d/10.toml", "[engine]\nslots = 2\nname = \"b\"\npoll = \"3s\"\n")
        .file("conf.d/30.txt", "not toml")
        .env("REKINDLE_ENGINE__SLOTS", "5")
        .env("REKINDLE_ENGINE__NAME", "7")
        .flag("engine.name", "x", "--name");
    let loaded = site.load();
    let engine = &loaded.config.engine;
    assert_eq!((engine.name.as_str(), engine.slots), ("x", 5));
    assert_eq!((engine.poll, engine.stop_deadline), (Duration::from_secs(4), Duration::from_secs(60)));
    let origin = |key| loaded.origin(key).to_string().replace(&site.path(""), "");
    assert_eq!(origin("engine.name"), "flag --name");
    assert_eq!(origin("engine.slots"), "env REKINDLE_ENGINE__SLOTS");
    assert_eq!(origin("engine.poll"), "conf.d/20.toml:4");
    assert_eq!(origin("engine.stop_deadline"), "rekindle.toml:5");
    assert_eq!(origin("engine.kinds"), "default");
    assert_eq!(loaded.files.len(), 3);
}

#[test]
fn all_problems_come_at_once_with_their_lines_and_guesses() {
    let site = Site::new(
        "clustr = \"a\"\n[engine]\nslotz = 4\nslots = \"four\"\npoll = 1\nqueues = [\"a\"]\nkill = \"tre\"\n\
         [retention]\ndone = \"5M\"\n[web]\nlisten = \"x\"\n[kind.report]\ntimeout = 30\noutput = { keep = \"64\", \
         journal = true }\n[kind.\"a b\"]\ncommand = []\n[check.faild]\nmin = 5\n",
    )
    .env("REKINDLE_LOG__LEVL", "info")
    .flag("database.max_connections", "1", "--max-connections");
    let problems = site.problems();
    for expected in [
        "rekindle.toml:1: unknown key clustr; did you mean cluster?",
        "rekindle.toml:3: unknown key engine.slotz; did you mean slots?",
        "rekindle.toml:4: engine.slots: must be a whole number, it is text",
        "rekindle.toml:5: engine.poll: a bare number is refused: did you mean \"1s\"?",
        "rekindle.toml:6: engine.queues is not supported by this version",
        "rekindle.toml:7: engine.kill: \"tre\" is none of auto, cgroup, pidns, tree; did you mean tree?",
        "rekindle.toml:9: retention.done: \"5M\" is not a duration; write for example 500ms, 90s, 5m, 2h30m, 3d or 1w (or \"keep\")",
        "rekindle.toml:10: web is not supported by this version",
        "rekindle.toml:12: kind.report.command: a kind needs a command, for example [\"/usr/bin/true\"]",
        "rekindle.toml:13: kind.report.timeout: a bare number is refused: did you mean \"30s\"? (or \"none\")",
        "rekindle.toml:14: kind.report.output.journal is not supported by this version",
        "rekindle.toml:14: kind.report.output.keep: \"64\" has no unit; did you mean 64KiB?",
        "rekindle.toml:15: kind \"a b\": a kind may hold only letters, digits and . _ - + @ (found ' ')",
        "rekindle.toml:17: unknown key check.faild; did you mean failed?",
        "env REKINDLE_LOG__LEVL: unknown key log.levl; did you mean level?",
        "flag --max-connections: database.max_connections: must be between 2 and 1000",
    ] {
        assert!(problems.iter().any(|p| p == expected), "missing: {expected}\nin:\n{}", problems.join("\n"));
    }
    assert_eq!(problems.len(), 16, "{problems:#?}");
}

#[test]
fn syntax_errors_name_their_lines_and_quote_nothing() {
    let site = Site::new("[database]\nurl = \"postgres://u:geheim@h/d\n[engine]\nname = geheim\nname = geheim2\n");
    let problems = site.problems();
    assert!(problems[0].starts_with("rekindle.toml:2: not TOML: "), "{problems:?}");
    assert!(!format!("{problems:?}").contains("geheim"), "{problems:?}");
}

#[test]
fn timing_is_a_profile_or_single_spans_and_is_refused_with_numbers() {
    let site = Site::new("[engine]\ntiming = \"fast\"\n").env("REKINDLE_ENGINE__TIMING__T", "4s");
    let loaded = site.load();
    assert_eq!(loaded.config.engine.timing.takeover_after(), Duration::from_secs(4));
    assert_eq!(loaded.config.engine.timing.lease(), Duration::from_millis(2_500));
    assert_eq!(loaded.origin("engine.timing.profile").to_string(), format!("{}:2", site.path("rekindle.toml")));
    assert_eq!(loaded.origin("engine.timing.T").to_string(), "env REKINDLE_ENGINE__TIMING__T");

    let site = Site::new("[engine]\ntiming = { profile = \"fast\", h = \"500ms\", L = \"2.5s\", K = \"2s\" }\n");
    assert_eq!(
        site.problems(),
        ["rekindle.toml:2: engine.timing: T = 3200 ms is too short: T >= 1.02 * (L + K) = 4590 ms must hold \
          (L = 2500 ms, K = 2000 ms)"]
    );
    let site = Site::new("[engine]\ntiming = { l = \"2.5s\" }\n");
    assert_eq!(site.problems(), ["rekindle.toml:2: unknown key engine.timing.l; did you mean L?"]);
}

const KINDS: &str = r#"
[defaults.kind]
timeout = "2h"
env = { A = "1", B = "1" }
retry = { first = "1m" }
rerun = "never"
[kind.invoice-mail]
command = ["/bin/true", "--x"]
timeout = "none"
env = { B = "2", SMTP_PASSWORD = "geheim" }
retry = { max = 2 }
exit_codes = { retry = [65, 75] }
[kind.report]
command = ["/bin/true"]
rerun = "always"
"#;

#[test]
fn kinds_stand_on_their_defaults() {
    let site = Site::new(KINDS)
        .env("REKINDLE_KIND__INVOICE_MAIL__ENV__TMP_DIR", "/t")
        .env("REKINDLE_KIND__REPORT__COMMAND", "[\"/bin/false\", \"a,b\"]");
    let loaded = site.load();
    let kind = |name: &str| &loaded.config.kinds[&KindName::new(name).unwrap()];
    let mail = kind("invoice-mail");
    assert_eq!((mail.timeout, mail.retry.max, mail.retry.first), (None, 2, Duration::from_secs(60)));
    assert_eq!((mail.rerun, mail.rerun_written), (Rerun::Never, true));
    let env: Vec<_> = mail.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(env, ["A=1", "B=2", "SMTP_PASSWORD=geheim", "TMP_DIR=/t"]);
    assert_eq!(
        (mail.exit_codes.retry.as_slice(), mail.exit_codes.fail.as_slice()),
        (&[65, 75][..], &[64, 66, 77, 78][..])
    );
    assert_eq!((kind("report").timeout, kind("report").rerun), (Some(Duration::from_secs(7_200)), Rerun::Always));
    assert_eq!(kind("report").command, ["/bin/false", "a,b"]);
    let origin = |key| loaded.origin(key).to_string().replace(&site.path(""), "");
    assert_eq!(origin("kind.report.timeout"), "rekindle.toml:3");
    assert_eq!(origin("kind.report.retry.first"), "rekindle.toml:5");
    assert_eq!(origin("kind.invoice-mail.retry.max"), "rekindle.toml:11");
    assert_eq!(origin("kind.invoice-mail.env.A"), "rekindle.toml:4");
    assert_eq!(origin("kind.report.max_lost"), "default");
    assert!(!format!("{loaded:?}").contains("geheim"));
}

#[test]
fn what_is_wrong_in_the_defaults_of_kinds_is_said_once() {
    let text = "[defaults.kind]\nretry = { first = \"2h\" }\ngrace = 3\n[kind.a]\ncommand = [\"/a\"]\n[kind.b]\ncommand = [\"/b\"]\n";
    let problems = Site::new(text).problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[test]
fn braces_that_are_no_placeholder_are_warned_of() {
    let warnings = |argument: &str| {
        let text = format!("[kind.a]\nrerun = \"always\"\ncommand = [\"/bin/echo\", '{argument}']\n");
        let site = Site::new(&text);
        site.plain(&site.load().warnings)
    };
    assert_eq!(
        warnings("{name}"),
        [
            "rekindle.toml:3: kind.a.command: {name} is no placeholder, so it is passed as it is; did you mean {payload.name}?"
        ]
    );
    assert_eq!(
        warnings("--id={payload.n}"),
        ["rekindle.toml:3: kind.a.command: --id={payload.n} is passed as it is: a placeholder is a whole argument"]
    );
    assert!(warnings("{task.name}")[0].ends_with("{task.name} is no placeholder, so it is passed as it is"));
    for fine in ["{task.id}", "{task.attempt}", "{payload.name}", "{}", "awk {print $1}", "a{b}c", "${HOME}"] {
        assert_eq!(warnings(fine), Vec::<String>::new(), "{fine}");
    }
}

#[test]
fn a_queue_that_would_limit_nothing_is_refused() {
    let problems = Site::new("[kind.a]\ncommand = [\"/bin/a\"]\nqueue = \"bulk\"\n").problems();
    assert_eq!(problems, ["rekindle.toml:3: kind.a.queue is not supported by this version"]);
}

#[test]
fn commands_and_exit_codes_are_checked() {
    let site = Site::new(
        "[kind.a]\ncommand = \"/bin/a --x\"\nexit_codes = { done = [0, 3], fail = [3], retry = [256] }\n\
         env = { REKINDLE_TASK = \"1\" }\nnice = 20\n",
    );
    assert_eq!(
        site.problems(),
        [
            "rekindle.toml:2: kind.a.command: must be a list of arguments (no shell); did you mean [\"/bin/a\",\"--x\"]?",
            "rekindle.toml:4: kind.a.env: REKINDLE_TASK is set by the engine",
            "rekindle.toml:5: kind.a.nice: must be between -20 and 19",
            "rekindle.toml:3: kind.a.exit_codes.fail: 3 is in done too",
            "rekindle.toml:3: kind.a.exit_codes.retry: 256 is no exit code (0 to 255)",
        ]
    );
}

#[test]
fn a_kind_that_does_not_say_rerun_is_warned_of_once() {
    let site = Site::new(
        "[engine]\nkinds = [\"b\", \"c\"]\n[kind.a]\ncommand = [\"/a\"]\n[kind.b]\ncommand = [\"/a\"]\nrerun = \"always\"\n",
    );
    let warnings = site.plain(&site.load().warnings);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("rekindle.toml:3: kind.a.rerun: not written"), "{warnings:?}");
    assert!(warnings[1].starts_with("rekindle.toml:2: engine.kinds: no kind c is configured"), "{warnings:?}");
}

#[test]
fn the_password_comes_from_its_file_and_is_shown_nowhere() {
    let site = Site::new("").file("pw", "geheim\n");
    let text = format!(
        "[database]\nurl = [\"postgres://u@db1/d\", \"postgres://u@db2/d\"]\nbeat_url = \"postgres://b@db1/d\"\n\
         password_file = \"{}\"\n",
        site.path("pw")
    );
    let site = site.file("rekindle.toml", &text);
    let loaded = site.load();
    let database = &loaded.config.database;
    assert_eq!(database.urls[1].expose(), "postgres://u:geheim@db2/d");
    assert_eq!(database.beat_url.as_ref().unwrap().expose(), "postgres://b:geheim@db1/d");
    assert!(!format!("{loaded:?}").contains("geheim"));

    let site = site.env("REKINDLE_DATABASE_URL", "postgres://other/d");
    let database = site.load().config.database;
    assert_eq!(database.urls[0].expose(), "postgres://:geheim@other/d");
    assert_eq!(database.beat_url, None, "the heartbeat must not go to the other database");
}

#[test]
fn systemds_credential_is_found_and_may_be_missing() {
    let site = Site::new("[database]\nurl = \"postgres://u@db1/d\"\n").file("cred/db-password", "geheim");
    let dir = site.path("cred");
    let site = site.env("CREDENTIALS_DIRECTORY", &dir);
    assert_eq!(site.load().config.database.urls[0].expose(), "postgres://u:geheim@db1/d");
    let site = site.env("CREDENTIALS_DIRECTORY", "/no/such");
    assert_eq!(site.load().config.database.urls[0].expose(), "postgres://u@db1/d");
}

#[test]
fn a_missing_password_file_is_a_problem() {
    let site = Site::new("[database]\nurl = \"postgres://u@db1/d\"\npassword_file = \"/no/such\"\n");
    let problems = site.problems();
    assert!(
        problems[0].starts_with("rekindle.toml:3: database.password_file: /no/such cannot be read"),
        "{problems:?}"
    );
}

#[test]
fn urls_may_come_from_a_file_of_their_own() {
    let site =
        Site::new("[database]\nurl = \"postgres://a/d\"\n").file("url", "postgres://u:geheim@b/d\npostgres://c/d\n");
    let file = site.path("url");
    let site = site.env("REKINDLE_DATABASE_URL_FILE", &file);
    let loaded = site.load();
    assert_eq!(loaded.config.database.urls.len(), 2);
    assert_eq!(loaded.origin("database.url").to_string(), file);
    assert!(loaded.warnings.is_empty());
    let site = site.env("REKINDLE_DATABASE_URL", "postgres://x/d");
    assert!(site.problems()[0].contains("give either url or url_file"));
}

#[test]
fn a_password_on_the_command_line_is_refused_without_repeating_it() {
    for url in ["postgres://u:geheim@h/d", "mysql://u:geheim@h/d", "postgres://u@h/d?scram_client_key=geheim"] {
        let refusal = Site::new("").flag("database.url", url, "--database-url").options.secret_flag().unwrap();
        assert!(refusal.starts_with("--database-url must not hold a password") && !refusal.contains("geheim"));
    }
    for url in ["postgres://u@h/d?sslmode=require", "sqlite:/a:b@c"] {
        assert_eq!(Site::new("").flag("database.url", url, "--database-url").options.secret_flag(), None);
    }
    let site = Site::new("").env("REKINDLE_DATABASE_URL", "postgres://u:geheim@h/d");
    assert_eq!(site.options.secret_flag(), None, "the environment is its user's alone");
}

#[test]
fn a_password_file_with_a_zero_byte_is_refused() {
    let site = Site::new("[database]\nurl = \"postgres://u@h/d\"\n").file("secret", "geheim\0x\n");
    let file = site.path("secret");
    let problems = site.env("REKINDLE_DATABASE__PASSWORD_FILE", &file).problems();
    assert!(problems[0].ends_with("secret holds a zero byte") && !problems[0].contains("geheim"), "{problems:?}");
}

#[test]
fn a_password_in_the_environment_is_warned_of_without_repeating_it() {
    for (name, key) in [("REKINDLE_DATABASE_URL", "url"), ("REKINDLE_DATABASE__BEAT_URL", "beat_url")] {
        let site = Site::new("").env(name, "postgres://u:geheim@h/d");
        let warnings = site.plain(&site.load().warnings);
        assert!(
            warnings[0].contains(&format!("{name}: database.{key}: a password in the environment")),
            "{warnings:?}"
        );
        assert!(!warnings[0].contains("geheim"));
    }
    assert!(Site::new("").env("REKINDLE_DATABASE_URL", "postgres://u@h/d").load().warnings.is_empty());
}

#[test]
fn a_kind_may_run_as_somebody_else_and_say_so_by_variable() {
    let text = "[kind.a]\ncommand = [\"/a\"]\nrerun = \"never\"\nuser = \"nobody\"\nnew_privileges = true\n\
                [kind.b]\ncommand = [\"/b\"]\nrerun = \"never\"\n";
    let site = Site::new(text).env("REKINDLE_KIND__B__NEW_PRIVILEGES", "true");
    let kinds = site.load().config.kinds;
    let seen: Vec<_> = kinds.values().map(|kind| (kind.user.as_deref(), kind.new_privileges)).collect();
    assert_eq!(seen, [(Some("nobody"), true), (None, true)]);
    let site = Site::new("[kind.a]\ncommand = [\"/a\"]\ngroup = \"daemon\"\nnew_privileges = \"yes\"\n");
    assert_eq!(
        site.problems(),
        [
            "rekindle.toml:4: kind.a.new_privileges: must be true or false, it is text",
            "rekindle.toml:3: kind.a.group: daemon without a user; write the user as well",
        ]
    );
}

#[test]
fn no_error_about_a_url_repeats_it() {
    for url in [
        "oracle://u:geheim@h/d",
        "postgres://u:gehe/im@h/d",
        "postgres://u:gehe%im@h/d",
        "postgres://u:geheim@h",
        "geheim",
    ] {
        let site = Site::new(&format!("[database]\nurl = \"{url}\"\nbeat_url = [\"{url}\"]\n"))
            .env("REKINDLE_DATABASE__PASSWORD_FILE", "geheim");
        let error = load(&site.options).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("geheim"), "{error}");
    }
}

#[test]
fn sqlite_in_a_file_must_be_absolute_and_on_the_command_line_may_not_be() {
    let site = Site::new("[database]\nurl = \"sqlite:a.db\"\n");
    assert!(site.problems()[0].contains("must be an absolute path"));
    let loaded = Site::new("").flag("database.url", "sqlite:a.db", "--database-url").load();
    assert!(loaded.config.database.urls[0].sqlite_path().is_some_and(Path::is_absolute));
}

#[test]
fn urls_of_two_kinds_of_database_are_refused() {
    let site = Site::new("[database]\nurl = [\"sqlite:/a\", \"postgres://h/d\"]\n");
    assert_eq!(site.problems(), ["rekindle.toml:2: database.url: all URLs must name the same kind of database"]);
}
