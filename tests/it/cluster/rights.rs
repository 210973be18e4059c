//! Engines whose database user may not do all that an engine does.

use std::time::Duration;

use rekindle::protocol::engine::Mode;
use rekindle::protocol::task::{AttemptResult, TaskState};

use super::rig::{Rig, SOON, wait_or};
use crate::support::login::Login;

const RIGHT: &str = "DELETE ON task";

pub fn an_engine_whose_user_lacks_a_right_exits_77_and_names_it(rig: &Rig) {
    let login = Login::new(&rig.settings);
    login.revoke(RIGHT);
    let engine = rig.engine("a").url(&login.url).launch();
    assert_eq!(engine.wait(SOON), 77, "{}", engine.log());
    for words in ["it lacks DELETE on task", "next: on the server, as its administrator: GRANT SELECT", " doctor"] {
        assert!(engine.log().contains(words), "{words}: {}", engine.log());
    }
    assert_eq!(rig.lives("a"), [], "it has not registered");
    login.grant(RIGHT);
    let engine = rig.engine("a").url(&login.url).start();
    let task = rig.add("ticks 1");
    rig.wait_state(task, TaskState::Done, SOON);
    engine.stop();
}

pub fn an_engine_that_loses_a_right_says_it_is_stuck_and_goes_on_with_it(rig: &Rig) {
    let login = Login::new(&rig.settings);
    let engine = rig.engine("a").url(&login.url).start();
    let fine = rig.add("ticks 1");
    rig.wait_state(fine, TaskState::Done, SOON);
    login.revoke(RIGHT);
    let ended = rig.add("ticks 1");
    rig.wait_starts(ended, 1, SOON);
    let is_mode = |mode| move || rig.life("a").mode == mode;
    wait_or(SOON, is_mode(Mode::Stuck), || engine.log());
    // It beats, and takes nothing.
    let left = rig.add("ticks 1");
    let beat = rig.life("a").beat;
    wait_or(SOON, || rig.life("a").beat > beat + 4, || engine.log());
    assert_eq!((rig.state(ended), rig.state(left)), (TaskState::Running, TaskState::Ready), "{}", engine.log());
    login.grant(RIGHT);
    for task in [ended, left] {
        rig.wait_state(task, TaskState::Done, Duration::from_secs(15));
        assert_eq!((rig.said(task, "START").len(), rig.results(task)), (1, vec![AttemptResult::Done]));
    }
    wait_or(SOON, is_mode(Mode::Active), || engine.log());
    engine.stop();
}
