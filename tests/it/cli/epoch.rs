//! `rekindle db epoch raise` and what `db status` says of epochs. Over engines that work: `cluster/epochs.rs`.

use rekindle::protocol::ids::Epoch;
use rekindle::store::HistoryFilter;

use super::{Desk, live};

fn epoch(desk: &Desk) -> i64 {
    desk.store().meta().unwrap().epoch.as_i64()
}

#[test]
fn a_raise_says_what_happens_next_and_how_to_see_that_it_is_over() {
    let desk = Desk::new();
    live(&*desk.store(), "app1");
    let said = desk.args(&["db", "epoch", "raise", "--yes", "--reason", "restored\nat night"]).code(0).out;
    assert!(said.starts_with("epoch 1 -> 2: raised\n1 live engine: each starts its observations again"), "{said}");
    for part in ["nobody claims a task until", "12.5s (the largest T)", "next: rekindle db status"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let status = desk.run("db status").code(0).out;
    assert!(
        status.contains("\nepoch 2, raised to 2 (") && status.contains(": restored at night), not settled"),
        "{status}"
    );
    let (_, history) = desk
        .store()
        .history(&HistoryFilter { object: Some("epoch".to_owned()), limit: 9, ..HistoryFilter::default() })
        .unwrap();
    assert_eq!(history.len(), 1, "{history:?}");
    assert_eq!((history[0].verb.as_str(), history[0].object.as_str()), ("db epoch raise", "epoch"));
    assert!(desk.store().settle_epoch(Epoch::new(2)).unwrap());
    assert!(desk.run("db status").code(0).out.contains(" settled: engines claim tasks\n"));
    let json = desk.run("db status -o json").json();
    let fields = ["epoch", "raised_epoch", "settled_epoch"].map(|key| json[key].as_i64());
    assert_eq!((fields, &json["claims_wait"]), ([Some(2); 3], &false.into()), "{json}");
    assert_eq!(json["cluster"], "desk");
}

#[test]
fn a_raise_wants_consent_and_a_dry_run_changes_nothing() {
    let desk = Desk::new();
    let said = desk.run("db epoch raise").code(3);
    assert!(
        said.err.starts_with("error[E102]: raise the epoch from 1 to 2") && said.err.contains("add --yes"),
        "{said:?}"
    );
    let dry = desk.run("db epoch raise --dry-run").code(0).out;
    assert!(dry.starts_with("epoch 1 -> 2: would be raised   (dry run)\nno engine is live: "), "{dry}");
    let json = desk.run("db epoch raise -n -o json").code(0).json();
    assert_eq!((&json["schema"], &json["dry_run"]), (&"rekindle.db-epoch-raise/1".into(), &true.into()));
    assert_eq!(epoch(&desk), 1);
}

#[test]
fn a_raise_goes_above_what_this_hosts_engine_remembers() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("state")).unwrap();
    std::fs::write(desk.path("state/epoch"), "9\n").unwrap();
    assert_eq!(desk.run("db epoch raise --yes -o name").code(0).out, "10\n");
    assert_eq!(desk.run("db epoch raise --yes --at-least 20 -o name").code(0).out, "20\n");
    assert_eq!(desk.run("db epoch raise --yes --at-least 5 -o name").code(0).out, "21\n");
    // Damaged, it counts for nothing and is named; a number that nobody can mean is refused.
    std::fs::write(desk.path("state/epoch"), "garbage").unwrap();
    let said = desk.run("db epoch raise --yes").code(0);
    assert!(said.err.contains("state/epoch holds no number"), "{said:?}");
    for line in ["db epoch raise --yes --at-least 0", "db epoch raise --yes --at-least 8388608"] {
        desk.run(line).code(2);
    }
    assert!(desk.run("db epoch raise --yes --at-least 8388607").code(2).err.contains("more than 10000 above"));
    assert_eq!(epoch(&desk), 22);
}

#[test]
fn a_leap_of_the_epoch_wants_its_number_twice_and_leaves_a_tenth() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("state")).unwrap();
    std::fs::write(desk.path("state/epoch"), "8000000\n").unwrap();
    let said = desk.run("db epoch raise --yes -o name").code(0);
    assert!(said.out == "2\n" && said.err.contains("too far above 1 to be believed: see --to"), "{said:?}");
    assert!(desk.run("db epoch raise --yes --to 50000").code(3).err.contains("--confirm 50000"));
    assert_eq!(desk.run("db epoch raise --confirm 50000 --to 50000 -o name").code(0).out, "50000\n");
    assert_eq!(desk.run("db epoch raise --yes --to 50001 -o name").code(0).out, "50001\n");
    assert!(desk.run("db epoch raise --yes --to 50001").code(2).err.contains("is not above the epoch 50001"));
    let said = desk.run("db epoch raise --confirm 8000000 --to 8000000").code(2);
    assert!(said.err.contains("less than a tenth of the 8388607 epochs"), "{said:?}");
    desk.run("db epoch raise --to 60000 --at-least 60000").code(2);
    assert_eq!(epoch(&desk), 50_001);
    // What is left is told by everybody who looks.
    super::trouble::sql(&desk, "UPDATE meta SET epoch = 7549741, raised_epoch = 7549741, settled_epoch = 7549741");
    for line in ["doctor", "status"] {
        let said = desk.run(line).out;
        assert!(said.contains("less than a tenth is left"), "{line}: {said}");
    }
}
