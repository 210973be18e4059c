//! Random histories, played on a store and in memory side by side: every outcome and everything that can
//! be read must be the same. A failure names its seed, and one seed always plays the same history.

use rekindle::protocol::engine::{Proof, Wanted};
use rekindle::protocol::ids::{Epoch, Incarnation, Nonce, TaskId};
use rekindle::protocol::liveness::SweepKind;
use rekindle::protocol::takeover::Next;
use rekindle::protocol::task::{AttemptResult, OnFailure, OnRetry, Policy, Reason, Rerun};
use rekindle::protocol::time::Timestamp;
use rekindle::store::*;

use crate::support::builders::*;
use crate::support::databases::Rig;

const SEEDS: u64 = 6;
const STEPS: usize = 250;

/// One history in the making.
struct Play<'a> {
    rigs: [&'a Rig; 2],
    rng: fastrand::Rng,
    engines: Vec<Engine>,
    claimed: Vec<(usize, Claimed)>,
    tasks: Vec<TaskId>,
}

pub fn random_histories_read_the_same_as_in_memory(rig: &Rig) {
    let memory = Rig::memory();
    // One database plays all histories, one after the other: what a history leaves is the next one's start.
    let (mut engines, mut tasks) = (Vec::new(), Vec::new());
    for seed in 0..SEEDS {
        let rng = fastrand::Rng::with_seed(seed);
        let mut play = Play { rigs: [rig, &memory], rng, engines, claimed: Vec::new(), tasks };
        for step in 0..STEPS {
            let what = play.step();
            if step % 10 == 9 {
                play.compare(&format!("seed {seed}, step {step}, after {what}"));
            }
        }
        play.settle(seed);
        (engines, tasks) = (play.engines, play.tasks);
    }
}

impl Play<'_> {
    /// The same call on both; the same answer.
    fn both<T: PartialEq + std::fmt::Debug>(&self, what: &str, call: impl Fn(&Rig) -> T) -> T {
        let [got, wanted] = self.rigs.map(call);
        assert_eq!(got, wanted, "{what}: the store (left) and memory (right) differ");
        got
    }

    fn step(&mut self) -> String {
        self.rigs.iter().for_each(|rig| rig.tick());
        let dice = self.rng.u8(0..100);
        let what = match dice {
            0..20 => self.add(),
            20..45 => self.claim(),
            45..70 => self.finish(),
            70..75 => self.register(),
            75..80 => self.end_engine(),
            80..86 => self.sweep(),
            86..92 => self.verb(),
            92..97 => self.pass(),
            97..98 => self.raise_epoch(),
            _ => self.want(),
        };
        format!("{what} (dice {dice})")
    }

    fn engine(&mut self) -> Option<(usize, Engine)> {
        // Mostly the younger ones, which are more often alive.
        let from = self.engines.len().saturating_sub(5);
        let n = (from..self.engines.len()).nth(self.rng.usize(0..5))?;
        Some((n, self.engines[n].clone()))
    }

    fn add(&mut self) -> &'static str {
        let names: Vec<&str> = ["r", "s", "t"].into_iter().filter(|_| self.rng.u8(0..4) == 0).collect();
        let mut task = task_on(&names).priority(self.rng.i16(-1..=1));
        task = if self.rng.u8(0..8) == 0 { task.delay(secs(1_000 * self.rng.u64(1..4))) } else { task };
        let count = self.rng.usize(1..4);
        let ids = self.both("add", |rig| task.add_many(&*rig.store, count));
        self.tasks.extend(ids);
        "add"
    }

    fn policy(&mut self) -> Policy {
        Policy {
            max_lost: self.rng.u8(1..5),
            rerun: if self.rng.u8(0..6) == 0 { Rerun::Never } else { Rerun::Always },
            on_retry: if self.rng.bool() { OnRetry::Pass } else { OnRetry::Keep },
            on_failure: if self.rng.u8(0..4) == 0 { OnFailure::Block } else { OnFailure::Pass },
            ..Policy::default()
        }
    }

    fn claim(&mut self) -> &'static str {
        let Some((n, e)) = self.engine() else { return "no claim" };
        let mut claim = e.claim().limit(self.rng.usize(1..4)).policy(self.policy());
        claim = match self.rng.u8(0..5) {
            0 => claim.alone(),
            1 | 2 => claim.keyed(),
            _ => claim,
        };
        claim.0.nonce = Nonce::new(self.rng.i64(..));
        // Whether the wait is known is compared, not how long it was: the clocks are not the same.
        let timeless = |mut task: Claimed| {
            task.waited = task.waited.map(|_| secs(0));
            task
        };
        let got = self.both("claim", |rig| claim.run(&*rig.store).into_iter().map(timeless).collect::<Vec<_>>());
        self.both("read what is owned", |rig| rig.store.owned(e.incarnation).unwrap());
        self.claimed.extend(got.into_iter().map(|task| (n, task)));
        "claim"
    }

    fn end_of(&mut self, task: &Claimed) -> Finish {
        let interrupted = Finish { result: AttemptResult::HandedBack, ..done(task) };
        let delay = secs(1_000 * self.rng.u64(0..3));
        let value = Some(format!("value of {}", task.held.task));
        match self.rng.u8(0..12) {
            0..4 => Finish { value, output: self.rng.choice([vec![], b"out".to_vec()]).unwrap(), ..done(task) },
            4 | 5 => retry(task, delay),
            6 => failed(task),
            7 => handed_back(task),
            8 => Finish { unstarted: true, ..handed_back(task) },
            9 => Finish { result: AttemptResult::Canceled, next: Next::Canceled, ..done(task) },
            10 => Finish { next: self.rng.choice([Next::Held, Next::Quarantined]).unwrap(), ..interrupted },
            _ => Finish { next: Next::Ready(Reason::Retry), not_on: Some("host-1".into()), ..failed(task) },
        }
    }

    fn finish(&mut self) -> &'static str {
        if self.claimed.is_empty() {
            return "no finish";
        }
        let (n, _) = self.claimed[self.rng.usize(0..self.claimed.len())];
        let mine: Vec<Claimed> = self.claimed.iter().filter(|(by, _)| *by == n).map(|(_, task)| task.clone()).collect();
        let count = self.rng.usize(1..=mine.len().min(4));
        let ends: Vec<Finish> = mine.iter().take(count).map(|task| self.end_of(task)).collect();
        let e = self.engines[n].clone();
        self.both("finish", |rig| e.finish(&*rig.store, &ends));
        for end in &ends {
            self.both("read an end", |rig| rig.store.read_finish(&end.held).unwrap());
        }
        // Some are reported again later, by an owner that did not hear the answer.
        if self.rng.u8(0..4) > 0 {
            self.claimed.retain(|(_, task)| !ends.iter().any(|end| end.held == task.held));
        }
        "finish"
    }

    fn register(&mut self) -> &'static str {
        let name = format!("e{}", self.rng.u8(0..4));
        let mut builder = engine(&name).host(&format!("host-{}", self.rng.u8(0..2)));
        builder.0.incarnation = Incarnation::new(self.rng.i64(..));
        let former = self.engines.iter().rposition(|e| e.name.as_str() == name).filter(|_| self.rng.bool());
        if let Some(n) = former {
            let held = self.claimed.iter().filter(|(by, _)| *by == n).map(|(_, task)| task.held);
            let adopt: Vec<Held> = held.filter(|_| self.rng.bool()).collect();
            let proof = self.rng.choice([Proof::Itself, Proof::Lock]).unwrap();
            builder = builder.after(&self.engines[n].clone(), proof, &adopt);
        }
        let outcome = self.both("register", |rig| match builder.register(&*rig.store) {
            RegisterOutcome::Registered { adopted, .. } => Ok(adopted),
            RegisterOutcome::NameTaken(namesake) => Err(namesake.incarnation),
        });
        let Ok(adopted) = outcome else { return "name taken" };
        let new = self.engines.len();
        let EngineBuilder(said) = builder;
        self.engines.push(Engine { incarnation: said.incarnation, name: said.name, host: said.host });
        for (by, task) in &mut self.claimed {
            *by = if adopted.contains(&task.held) { new } else { *by };
        }
        "register"
    }

    fn end_engine(&mut self) -> &'static str {
        let Some((_, e)) = self.engine() else { return "nobody to end" };
        if self.rng.u8(0..3) == 0 {
            self.both("stop", |rig| rig.store.stop(e.incarnation).unwrap());
            return "stop";
        }
        let beat = self.rng.choice([None, Some(0), Some(1), Some(2)]).unwrap();
        let proof = if beat.is_some() { Proof::Expiry } else { Proof::Guard };
        self.both("fence", |rig| e.fence(&*rig.store, beat, proof));
        "fence"
    }

    fn sweep(&mut self) -> &'static str {
        for e in self.engines.clone() {
            self.both("beat", |rig| match e.beat(&*rig.store) {
                BeatOutcome::Accepted(answer) => Some((answer.beat, answer.wanted, answer.wishes.len())),
                BeatOutcome::Gone => None,
            });
        }
        let ended = self.both("sweep", |rig| {
            let mut view = rig.store.sweep(SweepKind::Full).unwrap();
            view.ended.sort_by_key(|peer| peer.incarnation);
            view.peers.sort_by_key(|peer| peer.incarnation);
            assert!(view.peers.iter().all(|peer| peer.is_recent));
            (view.ended, view.peers, view.live_count, view.next_due.is_some())
        });
        for peer in ended.0 {
            let limit = self.rng.usize(1..5);
            self.both("take over", |rig| rig.store.take_over(peer.incarnation, "a test", limit).unwrap());
            self.both("close", |rig| rig.store.close(peer.incarnation).unwrap());
        }
        "sweep"
    }

    fn verb(&mut self) -> &'static str {
        let Some(id) = self.rng.choice(self.tasks.iter().rev().take(30)).copied() else { return "no verb" };
        let verb = self.rng.choice([TaskVerb::Retry, TaskVerb::Cancel]).unwrap();
        if self.rng.bool() {
            self.both("verb", |rig| rig.store.task_verb(id, verb).unwrap());
            return "verb";
        }
        let batch: Vec<_> = (0..self.rng.usize(1..6)).filter_map(|_| self.rng.choice(&self.tasks).copied()).collect();
        let change = Change::new("me", "here", "a test", "task verb", None);
        self.both("verbs", |rig| rig.store.task_verbs(&batch, verb, &change).unwrap());
        "verb"
    }

    fn pass(&mut self) -> &'static str {
        let span = secs(500 + 1_000 * self.rng.u64(0..2));
        let lines = self.rng.bool();
        self.both("pass", |rig| rig.pass(span));
        self.both("promote", |rig| rig.store.promote_due(1_000).unwrap());
        if lines {
            self.both("free lines", |rig| rig.store.free_lines(1_000).unwrap());
        }
        for e in self.engines.clone() {
            self.both("beat", |rig| e.is_gone(&*rig.store));
        }
        "pass"
    }

    fn raise_epoch(&mut self) -> &'static str {
        let from = self.both("meta", |rig| rig.store.meta().unwrap().epoch);
        let to = Epoch::new(from.as_i64() + 1);
        self.both("raise", |rig| rig.store.raise_epoch(from, to, "a test").unwrap());
        self.claim();
        self.both("settle", |rig| rig.store.settle_epoch(to).unwrap());
        "raise"
    }

    fn want(&mut self) -> &'static str {
        let name = format!("e{}", self.rng.u8(0..4));
        let wanted = self.rng.choice(Wanted::ALL).copied().unwrap();
        self.both("want", |rig| rig.store.set_wanted(&wish(&name, wanted)).unwrap());
        "want"
    }

    /// Everything that can be read, without the times: two clocks never agree to the microsecond.
    fn compare(&self, when: &str) {
        let none = Timestamp::from_us(0);
        let states = rekindle::protocol::task::TaskState::ALL.to_vec();
        let filter = TaskFilter { states, limit: 10_000, ..TaskFilter::default() };
        let tasks = self.both(when, |rig| {
            let mut rows = rig.store.tasks(&filter).unwrap().1;
            for row in &mut rows {
                row.created_at = none;
                row.due_at = row.due_at.map(|_| none);
                row.started_at = row.started_at.map(|_| none);
                row.ended_at = row.ended_at.map(|_| none);
            }
            rows
        });
        for task in tasks.iter().take(25) {
            self.both(&format!("{when}: attempts of {}", task.id), |rig| {
                let rows = rig.store.attempts(task.id).unwrap().into_iter();
                rows.map(|row| AttemptRow {
                    started_at: none,
                    ended_at: row.ended_at.map(|_| none),
                    detail: row.detail.map(|detail| detail.replace(|c: char| c.is_ascii_digit(), "")),
                    ..row
                })
                .collect::<Vec<_>>()
            });
            self.both(&format!("{when}: output of {}", task.id), |rig| rig.store.output(task.id, None).unwrap());
        }
        self.both(when, |rig| rig.store.resources(100).unwrap());
        for name in ["r", "s", "t"] {
            self.both(when, |rig| rig.store.resource(&resource(name)).unwrap().map(|row| (row.line, row.token)));
        }
        self.both(when, |rig| rig.store.probe(&[kind(KIND)], "host-1").unwrap());
        for e in &self.engines {
            self.both(when, |rig| rig.store.owned(e.incarnation).unwrap());
        }
        self.both(when, |rig| {
            let status = rig.store.status().unwrap();
            let engines = rig
                .store
                .engines()
                .unwrap()
                .1
                .into_iter()
                .map(|e| (e.incarnation, e.state, e.beat, e.taken_over, e.proof));
            let mut engines: Vec<_> = engines.collect();
            engines.sort();
            (status.counts, status.done_1h, status.failed_1h, status.taken_over_1h, status.fenced_1h, engines)
        });
    }

    /// Whatever happened: one engine alone brings everything to an end, and nobody waits for ever.
    fn settle(&mut self, seed: u64) {
        for e in self.engines.clone() {
            self.both("end", |rig| e.fence(&*rig.store, None, Proof::Itself));
            self.both("settle", |rig| rig.store.take_over(e.incarnation, "a test", 10_000).unwrap());
            self.both("settle", |rig| rig.store.close(e.incarnation).unwrap());
        }
        self.claimed.clear();
        let mut last = engine("last").host("host-0");
        last.0.incarnation = Incarnation::new(self.rng.i64(..));
        self.both("settle", |rig| matches!(last.register(&*rig.store), RegisterOutcome::Registered { .. }));
        let last = Engine { incarnation: last.0.incarnation, name: last.0.name, host: last.0.host };
        // People look at what needs them, which also lets the lines that stand go on.
        for id in self.tasks.clone() {
            let needs = self.both("settle", |rig| row(&*rig.store, id).state.needs_human());
            if needs {
                self.both("settle", |rig| rig.store.task_verb(id, TaskVerb::Cancel).unwrap());
            }
        }
        self.both("settle", |rig| rig.pass(secs(10_000)));
        self.both("settle", |rig| rig.store.promote_due(10_000).unwrap());
        // A life that began before so much time passed beats once more.
        self.both("settle", |rig| last.is_gone(&*rig.store));
        for _ in 0..1_000 {
            let (a, b) = (Nonce::new(self.rng.i64(..)), Nonce::new(self.rng.i64(..)));
            let ended = self.both("settle", |rig| {
                let claims = [(last.claim(), a), (last.claim().keyed(), b), (last.claim().alone(), a)];
                let mut ended = 0;
                for (mut claim, nonce) in claims {
                    claim.0.nonce = nonce;
                    let ends: Vec<Finish> = claim.run(&*rig.store).iter().map(done).collect();
                    assert!(last.finish(&*rig.store, &ends).iter().all(|o| *o == FinishOutcome::Written));
                    ended += ends.len();
                }
                ended
            });
            if ended == 0 {
                break;
            }
        }
        for id in &self.tasks {
            let state = self.both("settle", |rig| row(&*rig.store, *id).state);
            assert!(state.is_end(), "seed {seed}: {id} is {state} for ever");
        }
        self.compare(&format!("seed {seed}, settled"));
        self.both("end", |rig| rig.store.stop(last.incarnation).unwrap());
        self.both("end", |rig| rig.store.close(last.incarnation).unwrap());
    }
}
