//! What one engine costs that has nothing to do.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use diesel::connection::SimpleConnection;
use diesel::sql_types::BigInt;
use diesel::{Connection, MysqlConnection, PgConnection, QueryableByName, RunQueryDsl};
use rekindle::clock::{Clock, SystemClock};

use crate::database::{Database, is_mariadb};
use crate::figure::{Figure, Goal};
use crate::programs::Setup;

/// Beats, sweeps and the pool have found their pace by then.
const SETTLE: Duration = Duration::from_secs(10);

/// What one run saw.
#[derive(Debug, Default)]
struct Costs {
    engine_rss: Vec<f64>,
    engine_private: Vec<f64>,
    guard_private: Vec<f64>,
    cpu: Vec<f64>,
    statements: Vec<f64>,
    counted_by: &'static str,
}

/// Measures one database, `runs` times, for `span` each.
pub fn measure(
    make: &dyn Fn() -> Result<Database>,
    programs: &Path,
    span: Duration,
    runs: usize,
) -> Result<Vec<Figure>> {
    let mut costs = Costs::default();
    let mut word = "";
    for run in 1..=runs {
        let database = make()?;
        word = database.word;
        once(&database, programs, span, &mut costs)?;
        eprintln!("idle {word} run {run}: done");
    }
    let figure = |name: &str, runs: Vec<f64>, unit, goal| {
        Figure::median_of("idle", word, name, runs).in_unit(unit).with_goal(Goal::AtMost(goal))
    };
    let mut figures = vec![
        figure("RSS of the engine", costs.engine_rss, "MiB", 15.0),
        Figure::median_of("idle", word, "private memory of the engine", costs.engine_private).in_unit("MiB"),
        figure("private memory of the guard", costs.guard_private, "MiB", 4.0),
        figure(&format!("CPU of both over {} s", span.as_secs()), costs.cpu, "%", 0.2),
    ];
    if !costs.statements.is_empty() {
        let name = format!("statements a second ({})", costs.counted_by);
        // MariaDB counts BEGIN and COMMIT as statements, and is asked for new tasks because it tells of none.
        let goal = if word == "mariadb" { 8.0 } else { 3.0 };
        figures.push(figure(&name, costs.statements, "1/s", goal));
    }
    Ok(figures)
}

fn once(database: &Database, programs: &Path, span: Duration, costs: &mut Costs) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("rekindle-bench.").tempdir()?;
    let command = ["/bin/true".to_owned()];
    let setup = Setup {
        programs,
        url: &database.url,
        dir: dir.path(),
        name: "bench-idle",
        timing: "balanced",
        command: &command,
    };
    let store = database.store()?;
    let engine = setup.start()?;
    engine.wait_live(&*store, None)?;
    drop(store);
    let mut counter = Counter::of(database)?;
    let clock = SystemClock;
    clock.pause(SETTLE);
    let (guard, proper) = (engine.guard_pid()?, engine.engine_pid()?);
    let cpu_now = || Ok::<_, anyhow::Error>(cpu_ns(guard)? + cpu_ns(proper)?);
    let (cpu, statements, from) = (cpu_now()?, counter.read()?, clock.lease_now());
    clock.pause(span);
    let seconds = clock.lease_now().since(from).as_secs_f64();
    costs.cpu.push((cpu_now()? - cpu) as f64 / 1e9 / seconds * 100.0);
    if let (Some(before), Some(after)) = (statements, counter.read()?) {
        costs.statements.push((after - before) as f64 / seconds);
        costs.counted_by = counter.by;
    }
    costs.engine_rss.push(kib(proper, "smaps_rollup", &["Rss:"])? / 1_024.0);
    let private = ["Private_Clean:", "Private_Dirty:"];
    costs.engine_private.push(kib(proper, "smaps_rollup", &private)? / 1_024.0);
    costs.guard_private.push(kib(guard, "smaps_rollup", &private)? / 1_024.0);
    Ok(())
}

/// The sum of some lines of a file of /proc that are in KiB.
fn kib(pid: u32, file: &str, keys: &[&str]) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))
        .context("could not read an engine's memory, which it hides from all but root")?;
    let value = |line: &str| line.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok());
    Ok(text.lines().filter(|line| keys.iter().any(|key| line.starts_with(key))).filter_map(value).sum())
}

/// Time on a CPU of all threads that live, in nanoseconds.
fn cpu_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        sum += text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

/// Counts the statements that a server got for one database. It asks from another one.
struct Counter {
    by: &'static str,
    query: String,
    server: Option<Server>,
}

enum Server {
    Postgres(PgConnection),
    Mariadb(MysqlConnection),
}

impl Counter {
    fn of(database: &Database) -> Result<Self> {
        let Some((server, name)) = database.server() else {
            return Ok(Self { by: "", query: String::new(), server: None });
        };
        if is_mariadb(server) {
            let server = MysqlConnection::establish(server).context("could not connect to the MariaDB server")?;
            // Of all databases, but nobody else uses this server; this question is one of them.
            let query = "SELECT CAST(variable_value AS SIGNED) AS n FROM information_schema.global_status \
                 WHERE variable_name = 'QUESTIONS'";
            return Ok(Self { by: "Questions", query: query.into(), server: Some(Server::Mariadb(server)) });
        }
        let mut server = PgConnection::establish(server).context("could not connect to the PostgreSQL server")?;
        let extension = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements";
        let by_statement = format!(
            "SELECT COALESCE(sum(s.calls), 0)::bigint AS n FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid \
             WHERE d.datname = '{name}'"
        );
        let has_extension = server.batch_execute(extension).and_then(|()| server.batch_execute(&by_statement)).is_ok();
        let (by, query) = if has_extension {
            ("pg_stat_statements", by_statement)
        } else {
            let by_transaction =
                format!("SELECT xact_commit + xact_rollback AS n FROM pg_stat_database WHERE datname = '{name}'");
            ("transactions, pg_stat_database", by_transaction)
        };
        Ok(Self { by, query, server: Some(Server::Postgres(server)) })
    }

    fn read(&mut self) -> Result<Option<i64>> {
        let Some(server) = &mut self.server else { return Ok(None) };
        let query = diesel::sql_query(&self.query);
        let count: Count = match server {
            Server::Postgres(server) => query.get_result(server)?,
            Server::Mariadb(server) => query.get_result(server)?,
        };
        Ok(Some(count.n))
    }
}
