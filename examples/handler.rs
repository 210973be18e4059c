//! rekindle inside your own program: an engine whose tasks are done by Rust code.
//!
//!     cargo run --example handler                        a SQLite file in a temporary directory
//!     cargo run --example handler -- postgres://…        any other database
//!
//! Start it twice against one PostgreSQL database, kill one of the two, and the other finishes its tasks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rekindle::clock::{Clock, SystemClock};
use rekindle::config::DatabaseUrl;
use rekindle::engine::{Engine, EngineOptions, Kind};
use rekindle::handlers::{Context, Handler, Outcome};
use rekindle::protocol::ids::{EngineName, KindName, ResourceName};
use rekindle::protocol::task::TaskState;
use rekindle::store::{NewTask, Settings, open};

/// A handler with state of its own. It must be idempotent: after a crash somebody does the task again.
struct Mailer {
    from: String,
}

impl Handler for Mailer {
    fn run(&self, ctx: &Context) -> Outcome {
        // The token grows with every owner. A system that refuses smaller ones is safe from late writers.
        println!("{}: from {} to {:?}, token {}", ctx.task(), self.from, ctx.resources(), ctx.token());
        if ctx.attempt() == 1 {
            // Comes back later, in its old place; nobody else gets its resources meanwhile.
            return Outcome::RetryAfter(Duration::from_millis(200));
        }
        Outcome::Done(Some(format!("sent at attempt {}", ctx.attempt())))
    }
}

fn main() -> Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();

    // 1. A database. The engine needs nothing else: no broker, no leader, no port.
    let dir = tempfile::tempdir()?;
    let url = std::env::args().nth(1).unwrap_or_else(|| format!("sqlite://{}/tasks.db", dir.path().display()));
    let place = Settings { create: true, ..Settings::new(DatabaseUrl::parse(&url)?) };
    // Heartbeats get a connection of their own, so that busy tasks cannot delay them.
    let store = open(vec![place.clone()], vec![place], 4)?;
    store.migrate()?;

    // 2. Tasks. Those that name the same resource never run at the same time, on whatever engine.
    let (sum, mail) = (KindName::new("example-sum")?, KindName::new("example-mail")?);
    let mut tasks: Vec<NewTask> = (1..=3).map(|n| task(&sum, format!("[{n}, {n}]"), Vec::new())).collect();
    for customer in ["customer-7", "customer-7", "customer-9"] {
        tasks.push(task(&mail, "{}".into(), vec![ResourceName::new(customer)?]));
    }
    let ids = store.add(&tasks, "example")?;

    // 3. An engine: a closure for one kind, a struct for the other.
    let name = EngineName::new(format!("example-{}", std::process::id()))?;
    let options = EngineOptions::new(name)
        .kind(sum, Kind::handler(add_up))
        .kind(mail, Kind::handler(Mailer { from: "billing".into() }));
    let engine = Engine::start(Arc::clone(&store), options)?;

    // 4. Wait until all are done, and say what happened.
    let is_done = |state| matches!(state, TaskState::Done | TaskState::Failed | TaskState::Quarantined);
    while !store.task_states(&ids)?.iter().all(|(_, now)| is_done(now.state)) {
        SystemClock.pause(Duration::from_millis(50));
    }
    for id in &ids {
        if let Some((row, _)) = store.task(*id)? {
            println!("{id} {} {}: {}", row.kind, row.state, row.value.or(row.error).unwrap_or_default());
        }
    }

    // 5. Say goodbye, so that peers need not wait for a missing heartbeat.
    engine.stop();
    engine.wait()?;
    Ok(())
}

/// A function or a closure is a handler too.
fn add_up(ctx: &Context) -> Outcome {
    match ctx.payload_json::<Vec<i64>>() {
        Ok(numbers) => Outcome::Done(Some(numbers.iter().sum::<i64>().to_string())),
        Err(error) => Outcome::Failed(format!("not a list of numbers: {error}")),
    }
}

fn task(kind: &KindName, payload: String, resources: Vec<ResourceName>) -> NewTask {
    NewTask { kind: kind.clone(), payload: payload.into_bytes(), resources, priority: 0, delay: None }
}
