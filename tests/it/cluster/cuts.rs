//! Cuts of the network, and what the database's server counts then: its connections are not ours alone.

use std::time::Duration;

use rekindle::clock::{Clock, SystemClock};
use rekindle::config::Backend;

use super::rig::{Rig, wait_or};
use crate::support::island::Island;

/// `database.max_connections`, the heartbeat and the watcher.
const SHARE: i64 = 4 + 1 + 1;

/// While calls hang in a broken network: two more of the heartbeat, one more of the watcher.
const MORE: i64 = 3;

/// The server lets go of what a cut left within this, and some.
const LET_GO: Duration = Duration::from_secs(20);

/// The longer one is longer than either end believes in the other.
const CUTS: [Duration; 3] = [Duration::from_secs(6), Duration::from_secs(13), Duration::from_secs(3)];

pub fn cuts_of_the_network_take_no_more_connections(rig: &Rig, island: &Island) {
    let engines = ["a", "b", "c"].map(|name| rig.engine(name).on(island).start());
    let count = engines.len() as i64;
    let sessions = match rig.settings.url.backend() {
        Backend::Postgres => "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'rekindle %'",
        _ => "SELECT count(*) FROM information_schema.processlist WHERE user = 'rekindle'",
    };
    let mut connection = rig.connection();
    let mut most = 0;
    let mut open = || {
        let sql = rekindle::store::sql::Sql { text: sessions.into(), binds: Vec::new() };
        let now = connection.db().query("a test", &sql).unwrap().remove(0).int();
        most = most.max(now);
        now
    };
    let logs = || engines.iter().map(super::engine::Engine::log).collect::<String>();
    for cut in CUTS {
        island.set_link(false);
        let until = SystemClock.lease_now().after(cut);
        wait_or(cut * 2, || open() < 0 || SystemClock.lease_now() >= until, logs);
        island.set_link(true);
        for engine in &engines {
            let before = rig.life(&engine.name);
            let beats = || {
                let life = rig.life(&engine.name);
                (life.incarnation != before.incarnation && life.beat > 1) || life.beat > before.beat + 1
            };
            wait_or(LET_GO, || open() < 0 || beats(), logs);
        }
    }
    wait_or(LET_GO, || open() <= count * SHARE, logs);
    engines.iter().for_each(super::engine::Engine::stop);
    wait_or(LET_GO, || open() == 0, logs);
    assert!(most <= count * (SHARE + MORE), "{most} sessions of {count} engines");
    println!("at most {most} sessions of {count} engines");
}
