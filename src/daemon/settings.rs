//! From the configuration to what the rooms want.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, KindConfig};
use crate::engine::{EngineOptions, Kind};
use crate::handlers::{CommandSpec, ExitCodes};
use crate::process::user::RunAs;
use crate::protocol::ids::KindName;
use crate::store::pool::SILENCE;
use crate::store::{Settings, Store, StoreResult, open};

/// The database's places for ordinary steps, and for heartbeats.
pub fn places(config: &Config, application: &str) -> (Vec<Settings>, Vec<Settings>) {
    let timing = config.engine.timing;
    let q = timing.query_timeout();
    // Twice what may lie between two uses of a connection that beats or sweeps, and some.
    let silence = SILENCE.max(timing.heartbeat_interval().max(timing.sweep_interval()) * 3);
    let base = |url: &crate::config::DatabaseUrl| Settings {
        connect_timeout: config.database.connect_timeout,
        statement_timeout: config.database.statement_timeout,
        idle_timeout: (q * 2).max(Duration::from_secs(1)),
        application: application.to_owned(),
        silence,
        ..Settings::new(url.clone())
    };
    let work: Vec<Settings> = config.database.urls.iter().map(base).collect();
    let beats = match &config.database.beat_url {
        Some(url) => vec![base(url)],
        None => work.clone(),
    };
    let beats = beats
        .into_iter()
        .map(|place| Settings { connect_timeout: q, statement_timeout: q, cache_kib: 64, ..place })
        .collect();
    (work, beats)
}

/// Whether a SQLite file that is not there is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Yes: at the first start.
    Make,
    /// No: a running engine whose file is gone must not begin a new one beside its tasks.
    Refuse,
}

/// Opens the store of an engine.
pub fn store(config: &Config, missing: Missing) -> StoreResult<Arc<dyn Store>> {
    let (mut work, beats) = places(config, &format!("rekindle {}", config.engine.name));
    work.iter_mut().for_each(|place| {
        place.create = missing == Missing::Make;
        place.cache_kib = 1_000;
    });
    open(work, beats, config.database.max_connections)
}

/// What an engine is told.
pub fn options(config: &Config, state_id: &str) -> Result<EngineOptions, String> {
    let engine = &config.engine;
    Ok(EngineOptions {
        cluster: config.cluster.clone(),
        timing: engine.timing,
        slots: engine.slots,
        poll: engine.poll,
        statement_timeout: config.database.statement_timeout,
        stop_deadline: engine.stop_deadline,
        kinds: kinds(config)?,
        scratch_dir: Some(engine.scratch_dir.clone()),
        state_dir: Some(engine.state_dir.clone()),
        state_id: state_id.to_owned(),
        retention: config.retention,
        ..EngineOptions::new(engine.name.clone())
    })
}

/// The kinds that this engine runs; an error names one whose user this host does not know (any more).
pub fn kinds(config: &Config) -> Result<BTreeMap<KindName, Kind>, String> {
    let mine = config.kinds.iter().filter(|(name, _)| config.engine.kinds.includes(name));
    mine.map(|(name, kind)| match command(kind) {
        Ok(kind) => Ok((name.clone(), kind)),
        Err(text) => Err(format!("kind.{name}.user: {text}")),
    })
    .collect()
}

fn command(kind: &KindConfig) -> Result<Kind, String> {
    let codes = |list: &[u8]| list.iter().map(|code| i32::from(*code)).collect();
    let spec = CommandSpec {
        command: kind.command.clone(),
        cwd: kind.cwd.clone(),
        env: kind.env.clone(),
        env_file: kind.env_file.clone(),
        env_pass: kind.env_pass.clone(),
        timeout: kind.timeout,
        grace: kind.grace,
        output_keep: kind.output_keep,
        run_as: kind.user.as_deref().map(|user| RunAs::find(user, kind.group.as_deref())).transpose()?,
        new_privileges: kind.new_privileges,
        nice: (kind.nice != 0).then_some(i32::from(kind.nice)),
        exit_codes: ExitCodes {
            done: codes(&kind.exit_codes.done),
            retry: codes(&kind.exit_codes.retry),
            fail: codes(&kind.exit_codes.fail),
            elsewhere: codes(&kind.exit_codes.elsewhere),
        },
        on_lease_loss: kind.on_lease_loss,
        ..CommandSpec::default()
    };
    Ok(Kind::command(spec, kind.policy(), kind.retry, "default".to_owned()))
}
