//! Wrong places: state directories, schemas, URLs, and a database that is replaced under the engines.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use rekindle::protocol::ids::TaskId;
use rekindle::protocol::task::TaskState;

use super::engine::EngineSpec;
use super::rig::{Rig, SOON, wait_or};
use crate::support::{mariadb, postgres};
use rekindle::config::Backend;

/// It ends with this code, says these words and what to do next, and has written nothing.
fn refused(rig: &Rig, spec: &EngineSpec<'_>, code: i32, words: &[&str]) {
    let engine = spec.launch();
    assert_eq!(engine.wait(SOON), code, "{}", engine.log());
    for part in words.iter().chain(&["next: "]) {
        assert!(engine.log().contains(part), "{part}: {}", engine.log());
    }
    assert!(rig.store().engines().unwrap().1.is_empty(), "{}", engine.log());
    fs::remove_file(&engine.log).unwrap();
}

pub fn a_state_directory_that_cannot_be_used_is_named(rig: &Rig) {
    fs::write(rig.path("file"), "").unwrap();
    refused(rig, &rig.engine("a").state("file/below"), 78, &["could not create", "file/below", "Not a directory"]);
    refused(rig, &rig.engine("a").state("file"), 78, &["could not create", "/file"]);
    // Not even root may make directories there.
    refused(rig, &rig.engine("a").state("/sys/rekindle-test"), 77, &["could not create /sys/rekindle-test"]);
    std::os::unix::fs::symlink(rig.path("nowhere/at/all"), rig.path("link")).unwrap();
    refused(rig, &rig.engine("a").state("link"), 78, &["could not create", "/link"]);
}

pub fn what_is_kept_in_a_state_directory_must_be_what_it_should_be(rig: &Rig) {
    let state = rig.path("state-a");
    fs::create_dir(&state).unwrap();
    for text in [&b"x\n"[..], b"\xff\xfe", b"", b"0123 4\n"] {
        fs::write(state.join("id"), text).unwrap();
        refused(rig, &rig.engine("a"), 78, &["state-a/id holds no state id; remove it only if"]);
    }
    fs::remove_file(state.join("id")).unwrap();
    for (text, words) in [
        (&b"garbage\n"[..], "state-a/epoch holds no number: write the epoch into it"),
        (b"\xff", "state-a/epoch holds no number"),
        (b"-3", "state-a/epoch holds no epoch from 0 to 8388606"),
        (b"8388607\n", "state-a/epoch holds no epoch from 0 to 8388606"),
    ] {
        fs::write(state.join("epoch"), text).unwrap();
        refused(rig, &rig.engine("a"), 78, &[words]);
    }
    fs::remove_file(state.join("epoch")).unwrap();
    fs::write(state.join("last-beat"), "garbage\n").unwrap();
    refused(rig, &rig.engine("a"), 78, &["state-a/last-beat holds no heartbeat: remove it only if"]);
    fs::remove_file(state.join("last-beat")).unwrap();
    // A memory that no cluster can have is not believed, whoever wrote it; the range stays as it is.
    let words = ["state-a/epoch remembers epoch 8388606, and the database is at 1", "write 1 into the file"];
    fs::write(state.join("epoch"), "8388606\n").unwrap();
    refused(rig, &rig.engine("a"), 78, &words);
    fs::write(state.join("epoch"), "10002\n").unwrap();
    refused(rig, &rig.engine("a"), 78, &["remembers epoch 10002", "db epoch raise --to 10003 --confirm 10003"]);
    assert_eq!(rig.store().meta().unwrap().epoch.as_i64(), 1);
    // The largest that it raises the database above by itself.
    fs::write(state.join("epoch"), "10001\n").unwrap();
    let task = rig.add("ticks 1");
    let a = rig.engine("a").start();
    rig.wait_state(task, TaskState::Done, Duration::from_secs(20));
    assert_eq!(rig.store().meta().unwrap().epoch.as_i64(), 10_002);
    // A task that writes the file cannot use the range up.
    rig.wait_state(
        rig.add("echo 8388606 > \"$PROBE\"/../state-a/epoch || echo 8388606 > \"${PROBE%/*}/state-a/epoch\""),
        TaskState::Done,
        SOON,
    );
    a.stop();
    refused_again(rig, "remembers epoch 8388606, and the database is at 10002");
    fs::write(state.join("epoch"), "10002\n").unwrap();
    rig.engine("a").start().stop();
    assert_eq!(rig.store().meta().unwrap().epoch.as_i64(), 10_002);
}

fn refused_again(rig: &Rig, words: &str) {
    let engine = rig.engine("a").launch();
    assert_eq!(engine.wait(SOON), 78, "{}", engine.log());
    assert!(engine.log().contains(words), "{}", engine.log());
}

pub fn a_scratch_directory_that_cannot_be_used_is_named_before_the_first_task(rig: &Rig) {
    let key = "REKINDLE_ENGINE__SCRATCH_DIR";
    fs::write(rig.path("file"), "").unwrap();
    let file = rig.path("file").display().to_string();
    let scratch = "could not use the scratch directory: ";
    refused(rig, &rig.engine("a").env(key, &file), 78, &[scratch, &file]);
    refused(rig, &rig.engine("a").env(key, &format!("{file}/below")), 78, &[scratch, "Not a directory"]);
    refused(rig, &rig.engine("a").env(key, "/sys/rekindle-test"), 77, &[scratch, "/sys/rekindle-test"]);
}

pub fn an_engine_of_another_cluster_is_refused_with_78(rig: &Rig) {
    let a = rig.engine("a").start();
    let before = rig.store().meta().unwrap();
    assert_eq!(before.cluster.as_deref(), Some("it"));
    let stranger = rig.engine("b").env("REKINDLE_CLUSTER", "other").launch();
    assert_eq!(stranger.wait(SOON), 78, "{}", stranger.log());
    let log = stranger.log();
    assert!(log.contains(r#"this database belongs to the cluster \"it\", not to \"other\""#), "{log}");
    assert!(log.contains("next: look at cluster and database.url: rekindle -c "), "{log}");
    // Nothing of it is there, and who was there goes on.
    assert_eq!(rig.lives("b"), []);
    let after = rig.store().meta().unwrap();
    assert_eq!((after.cluster, after.epoch), (before.cluster, before.epoch));
    let task = rig.add("ticks 1");
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!(rig.task(task).engine.as_deref(), Some("a"));
    a.stop();
}

pub fn a_login_that_is_refused_exits_77_with_a_next_step(rig: &Rig) {
    let url = rig.settings.url.expose();
    let (head, tail) = url.split_once("://").unwrap();
    let (_, place) = tail.rsplit_once('@').unwrap();
    for login in ["rekindle:wrong-4711", "nobody:wrong-4711", "rekindle"] {
        let spec = rig.engine("a").url(&format!("{head}://{login}@{place}"));
        refused(rig, &spec, 77, &["does not let us in", "look at user and password: rekindle -c ", "pg_hba.conf"]);
    }
}

/// FUSE stands for all of them: sshfs and its like look the same, and it is the one that a test can mount. No
/// file system answers behind it; the kernel tells another user's type by itself.
pub fn a_network_file_system_is_refused_with_78(rig: &Rig) {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let dir = rig.path("mount");
    fs::create_dir(&dir).unwrap();
    let device = match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(device) => device,
        Err(error) => return println!("skipped: /dev/fuse cannot be opened: {error}"),
    };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&device);
    let data = format!("fd={fd},rootmode=40000,user_id=65534,group_id=65534");
    if let Err(error) = mount(Some("it"), &dir, Some("fuse"), MsFlags::empty(), Some(data.as_str())) {
        return println!("skipped: FUSE cannot be mounted: {error}");
    }
    let engine = rig.engine("a").url(&format!("sqlite://{}", dir.join("rekindle.db").display())).launch();
    let limit = rekindle::clock::Clock::lease_now(&rekindle::clock::SystemClock).after(SOON);
    let is_late = || rekindle::clock::Clock::lease_now(&rekindle::clock::SystemClock) >= limit;
    // Unmounted in any case, before anything can fail.
    wait_or(SOON * 2, || engine.ended().is_some() || is_late(), || engine.log());
    umount2(&dir, MntFlags::MNT_DETACH).unwrap();
    assert_eq!(engine.ended(), Some(78), "{}", engine.log());
    assert!(engine.log().contains("lies on a network file system (FUSE)"), "{}", engine.log());
}

/// Payloads and results of tasks may be secret, and a killed life cannot clear up behind itself.
pub fn what_a_killed_life_left_in_its_scratch_is_cleared_by_the_next(rig: &Rig) {
    let a = rig.engine("a").start();
    let task = rig.add("if first; then echo secret > \"$REKINDLE_DIR/left\"; forever; fi; ticks 1");
    rig.wait_starts(task, 1, SOON);
    let left = || -> Vec<_> {
        let homes = fs::read_dir(rig.path("state-a").join("t")).into_iter().flatten().flatten();
        let attempts = homes.flat_map(|home| fs::read_dir(home.path()).into_iter().flatten().flatten());
        attempts.map(|attempt| attempt.path().join("left")).filter(|file| file.exists()).collect()
    };
    wait_or(SOON, || left().len() == 1, || a.log());
    let proper = a.proper();
    // The guard is stopped first, and dies last: it would clear up, and so would an engine whose guard dies first.
    a.signal(Signal::SIGSTOP);
    super::rig::signal(proper, Signal::SIGKILL);
    a.signal(Signal::SIGKILL);
    a.wait(SOON);
    wait_or(SOON, || rig.task_processes(task).is_empty(), || "the task lives on".into());
    assert_eq!(left().len(), 1, "nobody was left to clear it");
    let next = rig.engine("a").start();
    rig.wait_state(task, TaskState::Done, SOON);
    // Nobody waits for the removal, neither a start nor an end; and in the end its directory goes as well.
    wait_or(SOON, || left().is_empty(), || format!("{:?} is left", left()));
    next.stop();
    assert_eq!(fs::read_dir(rig.path("state-a").join("t")).unwrap().count(), 0);
}

pub fn a_schema_that_is_newer_is_refused_with_78(rig: &Rig) {
    rig.sql("INSERT INTO __diesel_schema_migrations (version, run_on) VALUES ('20990101000000', CURRENT_TIMESTAMP)");
    let engine = rig.engine("a").launch();
    assert_eq!(engine.wait(SOON), 78);
    assert!(engine.log().contains("newer than this program"), "{}", engine.log());
    assert!(
        engine.log().contains("next: install the release") && !engine.log().contains("db migrate"),
        "{}",
        engine.log()
    );
    assert_eq!(rig.lives("a"), []);
}

pub fn a_schema_that_becomes_newer_later_does_not_stop_who_works(rig: &Rig) {
    let a = rig.engine("a").start();
    rig.sql("INSERT INTO __diesel_schema_migrations (version, run_on) VALUES ('20990101000000', CURRENT_TIMESTAMP)");
    let task = rig.add("ticks 1");
    rig.wait_state(task, TaskState::Done, SOON);
    a.stop();
}

pub fn what_is_no_database_is_refused_with_78(rig: &Rig) {
    let url = match rig.settings.url.sqlite_path() {
        Some(_) => {
            fs::write(rig.path("text"), "this is no database\n".repeat(1_000)).unwrap();
            format!("sqlite://{}", rig.path("text").display())
        }
        None => format!("{}_nobody", rig.settings.url.expose()),
    };
    let engine = rig.engine("a").url(&url).launch();
    assert_eq!(engine.wait(SOON), 78, "{}", engine.log());
}

pub fn an_engine_waits_for_a_server_that_is_not_there_yet(rig: &Rig) {
    // Nobody listens on port 1.
    let engine = rig.engine("a").url("postgres://rekindle:secret@127.0.0.1:1/rekindle").launch();
    wait_or(SOON, || engine.log().contains("waiting for the database"), || engine.log());
    assert_eq!(engine.ended(), None);
    engine.signal(Signal::SIGTERM);
    assert_eq!(engine.wait(SOON), 0, "{}", engine.log());
    assert!(!engine.log().contains("secret"), "{}", engine.log());
}

/// Moves the SQLite file with all that belongs to it.
fn move_away(rig: &Rig) {
    for end in ["", "-wal", "-shm"] {
        let _ = fs::rename(rig.path(&format!("rekindle.db{end}")), rig.path(&format!("old.db{end}")));
    }
}

pub fn a_file_that_is_replaced_raises_the_epoch_and_work_goes_on(rig: &Rig) {
    let epoch = rig.store().meta().unwrap().epoch;
    let a = rig.engine("a").start();
    let b = rig.engine("b").start();
    let running = rig.add("ticks 100");
    rig.wait_starts(running, 1, SOON);
    rig.sql(&format!("VACUUM INTO '{}'", rig.path("copy.db").display()));
    move_away(rig);
    fs::rename(rig.path("copy.db"), rig.path("rekindle.db")).unwrap();
    rig.reopen();
    let meta = || rig.store().meta().unwrap();
    wait_or(SOON, || meta().epoch > epoch, || format!("{:?}\n{}", meta(), a.log()));
    let next = rig.add("ticks 1");
    // Nobody claims for the largest T, then all goes on.
    rig.wait_state(next, TaskState::Done, SOON);
    let floor = rekindle::protocol::ids::Token::floor(meta().epoch);
    assert!(rig.task(next).token > floor, "{:?}", rig.task(next));
    rig.wait_state(running, TaskState::Done, Duration::from_secs(30));
    a.stop();
    b.stop();
}

pub fn a_file_that_is_deleted_stops_the_work_with_a_clear_error(rig: &Rig) {
    let a = rig.engine("a").start();
    let task = rig.add("forever");
    rig.wait_starts(task, 1, SOON);
    let pid = rig.said(task, "START")[0].pid;
    move_away(rig);
    wait_or(SOON, || rekindle::guard::tree::read(pid).is_none_or(|proc| !proc.is_alive()), || a.log());
    assert!(!rig.path("rekindle.db").exists(), "an empty database was made in its place\n{}", a.log());
    assert!(a.log().contains("the file is gone") || a.log().contains("no such file"), "{}", a.log());
    assert_eq!(a.ended(), None, "it waits for the file\n{}", a.log());
    // It comes back: so does the engine.
    for end in ["", "-wal", "-shm"] {
        let _ = fs::rename(rig.path(&format!("old.db{end}")), rig.path(&format!("rekindle.db{end}")));
    }
    rig.wait_starts(task, 2, SOON);
    a.signal(Signal::SIGQUIT);
    assert_eq!(a.wait(SOON), 0, "{}", a.log());
}

/// Settings of a whole server that are meant for people at a prompt.
pub fn a_server_that_is_set_for_people_at_a_prompt_is_used_like_any_other(rig: &Rig) {
    for set in [
        "completion_type = 'CHAIN'",
        "autocommit = 0",
        "sql_safe_updates = 1",
        "sql_select_limit = 1",
        "sql_auto_is_null = 1",
        "foreign_key_checks = 0",
        "check_constraint_checks = 0",
        "group_concat_max_len = 4",
        "tx_isolation = 'SERIALIZABLE'",
        "tx_read_only = 1",
        "default_storage_engine = 'MyISAM'",
    ] {
        rig.sql(&format!("SET GLOBAL {set}"));
    }
    rig.sql("CREATE DATABASE prompt");
    let (base, _) =
        rig.settings.url.expose().rsplit_once('/').map(|(base, rest)| (base.to_owned(), rest.to_owned())).unwrap();
    let url = format!("{base}/prompt");
    let engine = rig.engine("a").url(&url).launch();
    wait_or(Duration::from_secs(20), || engine.log().contains("registered as"), || engine.log());
    let place = rekindle::store::Settings::new(rekindle::config::DatabaseUrl::parse(&url).unwrap());
    let store = rekindle::store::open(vec![place.clone()], vec![place], 2).unwrap();
    let tasks: Vec<_> = (0..3).map(|_| crate::support::builders::task_on(&["r"]).of("sh").payload(b"true").0).collect();
    let tasks = store.add(&tasks, "a test").unwrap();
    let is_done = |task: &TaskId| store.task(*task).unwrap().unwrap().0.state == TaskState::Done;
    wait_or(Duration::from_secs(20), || tasks.iter().all(is_done), || engine.log());
    engine.stop();
    let engines = rig
        .number("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'prompt' AND engine <> 'InnoDB'");
    assert_eq!(engines, 0);
}

pub fn engines_that_start_together_set_an_empty_database_up(rig: &Rig) {
    let (mut postgres_, mut mariadb_) = (None, None);
    let url = match rig.settings.url.backend() {
        Backend::Sqlite => format!("sqlite://{}", rig.path("empty.db").display()),
        Backend::Postgres => {
            let server = postgres::server().unwrap();
            postgres_.insert(postgres::Database::empty(&server)).settings.url.expose()
        }
        Backend::Mysql => {
            let server = mariadb::server().unwrap();
            mariadb_.insert(mariadb::Database::empty(&server)).settings.url.expose()
        }
    };
    let engines: Vec<_> = ["a", "b", "c", "d"].iter().map(|name| rig.engine(name).url(&url).launch()).collect();
    for engine in &engines {
        wait_or(Duration::from_secs(20), || engine.log().contains("registered as"), || engine.log());
    }
    engines.iter().for_each(super::engine::Engine::stop);
    let set_up = engines.iter().filter(|engine| engine.log().contains("set up an empty database")).count();
    assert_eq!(set_up, 1, "{}", engines.iter().map(|engine| engine.log()).collect::<String>());
}
