//! One engine with its guard, one observer, discrete time. A tick is 100 ms; both use the real timing arithmetic.

use std::time::Duration;

use rekindle::protocol::ids::Incarnation;
use rekindle::protocol::lease::{Lease, LeasePhase};
use rekindle::protocol::liveness::{Observer, PeerBeat, SweepKind};
use rekindle::protocol::time::LeaseInstant;
use rekindle::protocol::timing::{Spans, Timing};
use stateright::{Checker, Model, Property};

const TICK_MS: u64 = 100;
const WHO: Incarnation = Incarnation::new(7);

struct Timed {
    timing: Timing,
    /// Ticks until the model ends.
    horizon: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mode {
    Up,
    /// Its lease ended, or it knows that it was fenced: it kills and starts nothing.
    Over,
    Frozen,
    Dead,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    now: u8,
    mode: Mode,
    runs: bool,
    lease: Lease,
    /// Under way: when it was sent, and whether the database has it.
    beat: Option<(u8, bool)>,
    sent_at: Option<u8>,
    /// A beat that was given up and may still arrive.
    ghost: bool,
    row: i64,
    is_live: bool,
    observer: Observer,
    read: Option<i64>,
    fence: Option<i64>,
    own_beat_at: Option<u8>,
    bad: Option<&'static str>,
    was_fenced: bool,
    was_proved: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Act {
    Tick,
    Send,
    Commit,
    Answer,
    GiveUp,
    GhostCommits,
    GhostIsLost,
    Spawn,
    TaskEnds,
    Freeze,
    Thaw,
    Crash,
    SelfFence,
    LearnsGone,
    Killed,
    GuardKills,
    Proof,
    ObserverBeats,
    ObserverReads,
    ObserverSees,
    ObserverSendsFence,
    FenceArrives,
}

const ACTS: [Act; 22] = [
    Act::Tick,
    Act::Send,
    Act::Commit,
    Act::Answer,
    Act::GiveUp,
    Act::GhostCommits,
    Act::GhostIsLost,
    Act::Spawn,
    Act::TaskEnds,
    Act::Freeze,
    Act::Thaw,
    Act::Crash,
    Act::SelfFence,
    Act::LearnsGone,
    Act::Killed,
    Act::GuardKills,
    Act::Proof,
    Act::ObserverBeats,
    Act::ObserverReads,
    Act::ObserverSees,
    Act::ObserverSendsFence,
    Act::FenceArrives,
];

fn at(tick: u8) -> LeaseInstant {
    // Not at zero: ages before the first beat must not underflow.
    LeaseInstant::from_ns((10_000 + u64::from(tick) * TICK_MS) * 1_000_000)
}

impl World {
    fn phase(&self) -> LeasePhase {
        self.lease.phase(at(self.now))
    }

    /// A fence that found its row.
    fn end(&mut self, by_expiry: bool) {
        if self.runs {
            self.bad = Some("I5: declared dead while something of it runs");
        }
        if by_expiry && self.mode != Mode::Dead && self.phase() == LeasePhase::Valid {
            self.bad = Some("I7: fenced while its lease holds");
        }
        (self.is_live, self.read) = (false, None);
        self.was_fenced |= by_expiry;
        self.was_proved |= !by_expiry;
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each event")]
    fn act(&mut self, act: Act, model: &Timed) -> Option<()> {
        let may = |yes: bool| yes.then_some(());
        match act {
            Act::Tick => {
                // Whoever is there kills in time: the guard a frozen engine's, the engine its own.
                let next = self.lease.phase(at(self.now + 1));
                may(self.now < model.horizon && !(self.runs && next == LeasePhase::Dead))?;
                self.now += 1;
            }
            Act::Send => {
                may(self.mode == Mode::Up && self.beat.is_none() && self.sent_at != Some(self.now))?;
                (self.beat, self.sent_at) = (Some((self.now, false)), Some(self.now));
            }
            Act::Commit => {
                let (sent, _) = self.beat.filter(|(_, done)| !done && self.is_live)?;
                self.beat = Some((sent, true));
                self.row += 1;
            }
            Act::Answer => {
                let (sent, _) = self.beat.filter(|(_, done)| *done)?;
                may(self.mode == Mode::Up && self.answer_counts())?;
                self.lease.accept(at(sent));
                self.beat = None;
            }
            Act::GiveUp => {
                let (sent, done) = self.beat?;
                may(matches!(self.mode, Mode::Up | Mode::Over) && self.now > sent)?;
                self.ghost |= !done;
                self.beat = None;
            }
            Act::GhostCommits => {
                may(self.ghost && self.is_live)?;
                self.ghost = false;
                self.row += 1;
            }
            Act::GhostIsLost => {
                may(self.ghost)?;
                self.ghost = false;
            }
            Act::Spawn => {
                may(self.mode == Mode::Up && !self.runs && self.phase() == LeasePhase::Valid)?;
                self.runs = true;
            }
            Act::TaskEnds => {
                may(self.runs)?;
                self.runs = false;
            }
            Act::Freeze => {
                may(self.mode == Mode::Up)?;
                self.mode = Mode::Frozen;
            }
            Act::Thaw => {
                may(self.mode == Mode::Frozen)?;
                self.mode = if self.phase() == LeasePhase::Valid { Mode::Up } else { Mode::Over };
            }
            Act::Crash => {
                may(matches!(self.mode, Mode::Up | Mode::Over))?;
                self.ghost |= self.beat.is_some_and(|(_, done)| !done);
                (self.mode, self.beat) = (Mode::Dead, None);
            }
            Act::SelfFence => {
                may(self.mode == Mode::Up && self.phase() >= LeasePhase::Terminate)?;
                self.mode = Mode::Over;
            }
            Act::LearnsGone => {
                may(self.mode == Mode::Up && !self.is_live)?;
                (self.mode, self.beat) = (Mode::Over, None);
            }
            Act::Killed => {
                may(self.mode == Mode::Over && self.runs)?;
                self.runs = false;
            }
            Act::GuardKills => {
                let is_due =
                    self.mode == Mode::Dead || (self.mode == Mode::Frozen && self.phase() >= LeasePhase::Guard);
                may(is_due && (self.runs || self.mode == Mode::Frozen))?;
                self.ghost |= self.beat.is_some_and(|(_, done)| !done);
                (self.mode, self.runs, self.beat) = (Mode::Dead, false, None);
            }
            Act::Proof => {
                may(self.mode == Mode::Dead && self.is_live && !self.runs)?;
                self.end(false);
            }
            Act::ObserverBeats => {
                may(self.own_beat_at != Some(self.now))?;
                self.own_beat_at = Some(self.now);
                self.observer.own_beat(at(self.now));
            }
            Act::ObserverReads => {
                may(self.is_live && self.read.is_none() && self.fence.is_none())?;
                self.read = Some(self.row);
            }
            Act::ObserverSees => {
                let beat = self.read.take()?;
                // Looks old by whatever clock: the filter decides nothing.
                let peer = PeerBeat { incarnation: WHO, beat, timing: model.timing, is_recent: false };
                self.observer.observe(at(self.now), SweepKind::Filtered, &[peer]);
            }
            Act::ObserverSendsFence => {
                may(self.is_live && self.fence.is_none())?;
                let due = self.observer.due(at(self.now), 2);
                self.fence = Some(due.first()?.beat);
                self.observer.fence_sent(WHO);
            }
            Act::FenceArrives => {
                let beat = self.fence.take()?;
                if self.is_live && beat == self.row {
                    self.end(true);
                }
            }
        }
        Some(())
    }

    /// As in the engine: after the end of the old lease an answer is worth nothing.
    fn answer_counts(&self) -> bool {
        matches!(self.phase(), LeasePhase::None | LeasePhase::Valid)
    }
}

impl Model for Timed {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            now: 0,
            mode: Mode::Up,
            runs: false,
            lease: Lease::new(self.timing),
            beat: None,
            sent_at: None,
            ghost: false,
            row: 0,
            is_live: true,
            observer: Observer::new(&self.timing),
            read: None,
            fence: None,
            own_beat_at: None,
            bad: None,
            was_fenced: false,
            was_proved: false,
        }]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Act>) {
        if state.bad.is_none() {
            actions.extend(ACTS);
        }
    }

    fn next_state(&self, last: &World, act: Act) -> Option<World> {
        let mut next = last.clone();
        next.act(act, self)?;
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing runs when it is declared dead, and no valid lease is ended", |_, s: &World| {
                s.bad.is_none()
            }),
            Property::sometimes("a peer fences", |_, s: &World| s.was_fenced),
            Property::sometimes("a guard proves", |_, s: &World| s.was_proved),
            Property::sometimes("a lease is renewed", |_, s: &World| {
                s.lease.sent_at().is_some_and(|sent| sent > at(1)) && s.phase() == LeasePhase::Valid
            }),
        ]
    }
}

#[test]
fn nothing_runs_when_a_peer_may_fence_and_no_valid_lease_is_ended() {
    let (lease_ms, kill_ms, takeover_ms, horizon) =
        if super::is_large() { (400, 100, 600, 9) } else { (200, 100, 400, 5) };
    let spans = Spans { heartbeat_ms: 50, query_ms: 50, lease_ms, kill_ms, takeover_ms, sweep_ms: 100 };
    let timing = Timing::new(spans).unwrap();
    let began = Duration::from_millis(takeover_ms.into());
    assert!(timing.takeover_after() == began);
    let checker = Timed { timing, horizon }.checker().threads(2).spawn_bfs().join();
    println!("timed model: {} states", checker.unique_state_count());
    checker.assert_properties();
}
