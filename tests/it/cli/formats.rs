//! How lists look: columns, order, tabs, times.

use super::{Desk, live};

fn desk() -> Desk {
    let desk = Desk::new();
    let store = desk.store();
    let early = live(&*store, "app1");
    desk.feed("task add mail --many -", "{\"payload\":1}\n".repeat(12).as_bytes()).code(0);
    let held = early.claim().limit(1).one(&*store);
    let detail = Some("a\tb\\c".to_owned());
    early.ends(&*store, rekindle::store::Finish { detail, ..crate::support::builders::failed(&held) });
    desk
}

#[test]
fn wide_shows_more_and_tsv_all_of_it() {
    let desk = desk();
    let wide = desk.run("engine list -o wide").code(0).out;
    let head = wide.lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(head, "ENGINE STATE WANTED BEAT LEASE RUN/SLOTS KINDS PROTO VERSION RELEASE UP HOST PID NOTE");
    assert!(wide.contains("mail") && wide.contains("host-of-app1") && wide.contains("4711"), "{wide}");
    let tsv = desk.run("engine list -o tsv").code(0).out;
    let lines: Vec<Vec<&str>> = tsv.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!((lines.len(), lines[0].len(), lines[1].len()), (2, 14, 14), "{tsv}");
    assert!(lines[1][3].parse::<f64>().is_ok(), "the beat's age in seconds: {tsv}");
    assert_eq!(desk.run("engine list -o tsv --no-headers").out.lines().count(), 1);
    let failed = desk.run("task list -s failed -o tsv --no-headers --columns id,error").code(0).out;
    assert_eq!(failed, "1\ta\\tb\\\\c\n", "the whole text, and nothing that breaks a line");
}

#[test]
fn columns_and_order_are_chosen_on_every_list() {
    let desk = desk();
    desk.run("task add mail --resource r").code(0);
    desk.run("engine pause app1").code(0);
    for (line, column) in [
        ("engine list", "engine"),
        ("task list", "id"),
        ("resource list", "line"),
        ("history", "verb"),
        ("config show", "key"),
    ] {
        let one = desk.run(&format!("{line} --columns {column} --sort -{column}")).code(0).out;
        assert!(!one.is_empty(), "{line}");
        let wrong = desk.run(&format!("{line} --columns {column}x")).code(2);
        let guess = format!("did you mean {column}?");
        assert!(wrong.err.contains(&guess) && wrong.err.contains("columns: "), "{line}: {}", wrong.err);
        assert!(desk.run(&format!("{line} --sort nonsense")).code(2).err.contains("there is no column"), "{line}");
    }
    let ids = |line: &str| desk.run(line).code(0).out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(ids("task list -s ready --limit 12 --sort id -o name"), "2 3 4 5 6 7 8 9 10 11 12 13", "not by text");
    assert_eq!(ids("task list --sort id:desc --limit 3 -o name"), "13 12 11");
    let json = desk.run("task list --sort id --limit 2 -o json").json();
    assert_eq!(json["items"][0]["task"], 12, "of the newest two");
    assert!(desk.run("task list --columns id -o json").code(2).err.contains("-o table, wide and tsv"));
    assert!(desk.run("task list --sort id:sideways").code(2).err.contains("asc or desc"));
}

#[test]
fn one_thing_is_tab_separated_by_its_fields() {
    let desk = desk();
    for line in ["status", "engine show app1", "task show 1", "db status", "version", "explain E301"] {
        let tsv = desk.run(&format!("{line} -o tsv")).code(0).out;
        assert!(tsv.lines().count() > 1 && tsv.lines().all(|line| line.contains('\t')), "{line}: {tsv}");
        assert_eq!(desk.run(&format!("{line} -o wide")).code(0).err, "", "{line}");
    }
    let verbs = desk.run("task cancel 2 3 -o tsv").code(0).out;
    assert_eq!(verbs, "OUTCOME\tTASK\tWAS\napplied\t2\tready\napplied\t3\tready\n");
}

#[test]
fn times_are_local_or_utc() {
    let desk = desk();
    let mut command = desk.command(env!("CARGO_BIN_EXE_rekindle"));
    let local = super::said(command.args(["history"]).env("TZ", "Asia/Tokyo")).code(0).out;
    assert!(local.contains(" +09:00  ") || local.contains(" +00:00  "), "{local}");
    assert!(desk.run("history --utc").out.contains(" UTC  "));
    assert!(desk.run("task list -o wide --utc").out.contains(" UTC"));
}
