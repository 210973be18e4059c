//! Bytes and texts come back as they were, and what a server says of itself.

use rekindle::protocol::task::TaskState;
use rekindle::store::*;

use crate::support::builders::*;
use crate::support::databases::Rig;

pub fn payloads_come_back_byte_for_byte(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let all: Vec<u8> = (0..=255).collect();
    let big: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    for payload in [&b""[..], &all, &big, "{\"ü\": \"\u{1f525}\"}".as_bytes()] {
        let id = task().payload(payload).add(store);
        assert!(store.task(id).unwrap().unwrap().1 == payload, "{} bytes at rest", payload.len());
        let claimed = a.claim().one(store);
        assert!(claimed.payload == payload, "{} bytes claimed", payload.len());
        let end = Finish { output: payload.to_vec(), ..done(&claimed) };
        a.ends(store, end);
        assert!(store.task(id).unwrap().unwrap().1 == payload, "{} bytes archived", payload.len());
        let output = store.output(id, None).unwrap().map_or(Vec::new(), |row| row.output);
        assert!(output == payload, "{} bytes of output", payload.len());
    }
}

pub fn resource_names_may_hold_quotes_and_any_script(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let names = ["it's \"quoted\"", "Kunde Müller / 7", "日本語 \u{1f525}", "back\\slash", "{a,b}", "$1", "NULL", "%_"];
    let long = "x".repeat(255);
    for name in names.into_iter().chain([long.as_str()]) {
        let ids = task_on(&[name]).add_many(store, 2);
        let claimed = a.claim().keyed().one(store);
        assert_eq!(claimed.resources, [resource(name)]);
        assert_eq!(store.resource(&resource(name)).unwrap().unwrap().owner_task, Some(ids[0]), "{name}");
        a.ends(store, done(&claimed));
        assert_eq!(row(store, ids[0]).resources, [resource(name)]);
        let last = a.claim().keyed().one(store);
        assert_eq!(last.held.task, ids[1], "{name}");
        a.ends(store, done(&last));
    }
}

pub fn names_that_differ_in_case_or_accent_are_different(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let names = ["r", "R", "é", "e", "ß", "ss"];
    let ids: Vec<_> = names.iter().map(|name| task_on(&[name]).add(store)).collect();
    assert_eq!(a.claim().keyed().limit(10).ids(store), ids, "none stands behind another");
    engine("A").on(rig);
}

pub fn what_a_program_printed_never_makes_its_end_unwritable(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task().add(store);
    let claimed = a.claim().one(store);
    let detail = Some("a\0b 'quoted' \u{1f525}".to_owned());
    a.ends(store, Finish { detail, ..failed(&claimed) });
    assert_eq!(row(store, id).error.as_deref(), Some("a\u{fffd}b 'quoted' \u{1f525}"));
    store.task_verb(id, TaskVerb::Retry).unwrap();
    let claimed = a.claim().one(store);
    a.ends(store, Finish { value: Some("\0".into()), ..done(&claimed) });
    assert_eq!((row(store, id).value.as_deref(), state(store, id)), (Some("\u{fffd}"), Some(TaskState::Done)));
}

pub fn a_failing_step_leaves_nothing_half_done(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task_on(&["r"]).add(store);
    let claimed = a.claim().keyed().one(store);
    let before = (store.task(id).unwrap(), store.resource(&resource("r")).unwrap());
    rig.move_database();
    let end = Finish { output: b"x".to_vec(), ..handed_back(&claimed) };
    assert!(store.finish(&a.finisher(), &[end]).is_err());
    assert_eq!((store.task(id).unwrap(), store.resource(&resource("r")).unwrap()), before);
    assert_eq!((store.output(id, None).unwrap(), store.attempts(id).unwrap().len()), (None, 1));
}

pub fn a_server_describes_itself(rig: &Rig) {
    let info = rig.store.server_info().unwrap();
    assert!(!info.product.is_empty() && !info.identity.is_empty() && !info.read_only, "{info:?}");
    assert!(!info.place.contains("password"));
}

pub fn a_watcher_sees_what_others_add(rig: &Rig) {
    let mut watcher = rig.store.watcher().unwrap();
    watcher.has_changed().unwrap();
    assert!(!watcher.has_changed().unwrap());
    let other = rig.another();
    task().add(&*other);
    other.wake().unwrap();
    crate::support::wait_until(secs(10), || watcher.has_changed().unwrap());
}

/// Where somebody tells: a loop that waits for it wakes for a change, and for nothing else.
pub fn a_watcher_rings_for_what_others_add_and_then_is_quiet(rig: &Rig) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let rings = |watcher: &dyn Watcher| {
        let bell = watcher.bell().expect("this database tells");
        poll(&mut [PollFd::new(bell, PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    };
    let mut watcher = rig.store.watcher().unwrap();
    for _ in 0..3 {
        crate::support::wait_until(secs(10), || {
            watcher.has_changed().unwrap();
            !rings(&*watcher)
        });
        let other = rig.another();
        task().add(&*other);
        other.wake().unwrap();
        crate::support::wait_until(secs(10), || rings(&*watcher));
        assert!(watcher.has_changed().unwrap());
    }
}

pub fn a_watcher_sees_what_a_takeover_made_ready(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add(store);
    a.claim().one(store);
    let mut watcher = store.watcher().unwrap();
    watcher.has_changed().unwrap();
    assert!(!watcher.has_changed().unwrap());
    let other = rig.another();
    a.dies(&*other);
    assert_eq!(a.takeover(&*other).ready, 1);
    other.wake().unwrap();
    crate::support::wait_until(secs(10), || watcher.has_changed().unwrap());
}
