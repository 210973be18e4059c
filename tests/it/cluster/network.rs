//! An engine that is cut off from the database, in every way a network can: for less than its lease allows,
//! for longer than T, one way only, late, and by connections that break. Each engine has a proxy of its own.

use std::time::Duration;

use rekindle::clock::{Clock, SystemClock};
use rekindle::protocol::engine::{EngineState, Proof};
use rekindle::protocol::ids::TaskId;
use rekindle::protocol::task::{AttemptResult, TaskState};

use super::engine::Engine;
use super::rig::{Rig, SOON, uptime, wait_or};
use crate::support::proxy::{Cut, Moment, Proxy, Weather};

/// T of the fast profile.
const TAKEOVER_S: f64 = 3.2;

/// L + K of it.
const DEAD_AFTER_S: f64 = 3.0;

/// What a network may do for less than L − 1.1h − 2q − h/8 = 1.08 s.
const SHORT: Duration = Duration::from_millis(900);

/// Who must still be the same afterwards.
fn who(rig: &Rig, engine: &Engine) -> (i64, usize, i32, i32) {
    let lives = rig.lives(&engine.name);
    (lives[0].incarnation.as_i64(), lives.len(), engine.guard, engine.proper())
}

/// Waits until two more beats were accepted.
fn settle(rig: &Rig, engine: &Engine) {
    let from = rig.life(&engine.name).beat;
    wait_or(SOON, || rig.life(&engine.name).beat >= from + 2, || engine.log());
}

pub fn a_cut_that_is_shorter_than_the_lease_allows_disturbs_nothing(rig: &Rig) {
    let proxy = rig.proxy();
    let a = rig.engine("a").through(&proxy).start();
    let task = rig.add_to("sh", "alone r; wait_go", &["r"]);
    rig.wait_starts(task, 1, SOON);
    let before = who(rig, &a);
    for weather in [Weather::held(), Weather::blackhole(), Weather::requests_lost(), Weather::replies_lost()] {
        proxy.set(weather);
        SystemClock.pause(SHORT);
        proxy.heal();
        settle(rig, &a);
        assert_eq!(who(rig, &a), before, "after {weather:?}\n{}", a.log());
    }
    rig.go();
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!((rig.results(task), rig.task(task).attempt), (vec![AttemptResult::Done], 1));
    a.stop();
}

pub fn a_delay_below_q_disturbs_nothing(rig: &Rig) {
    let proxy = rig.proxy();
    let a = rig.engine("a").through(&proxy).start();
    let task = rig.add_to("sh", "alone r; ticks 90", &["r"]);
    rig.wait_starts(task, 1, SOON);
    settle(rig, &a);
    let before = who(rig, &a);
    // 300 ms for all the ways there and back of one beat; q is 400.
    proxy.set(Weather::late(Duration::from_millis(150) / rig.trips_of_a_beat()));
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!((rig.results(task), rig.task(task).attempt), (vec![AttemptResult::Done], 1));
    assert_eq!(who(rig, &a), before, "{}", a.log());
    proxy.heal();
    a.stop();
}

pub fn a_delay_above_q_ends_the_life_and_its_tasks_in_time(rig: &Rig) {
    let proxy = rig.proxy();
    let a = rig.engine("a").through(&proxy).start();
    let task = rig.add_to("sh", "alone r; if first; then escape; forever; fi; ticks 2", &["r"]);
    rig.wait_starts(task, 1, SOON);
    let (b, late_at) = (rig.engine("b").start(), uptime());
    let first = rig.life("a").incarnation;
    proxy.set(Weather::late(Duration::from_millis(250)));
    wait_or(SOON, || a.log().contains("all clear"), || a.log());
    // A registration in many small steps does not get far on such a way, and need not.
    wait_or(SOON, || uptime() - late_at > 6.0, String::new);
    assert_dead_in_time(rig, &a, task, late_at);
    proxy.heal();
    rig.wait_state(task, TaskState::Done, Duration::from_secs(15));
    // Beats that arrive too late for their engine still arrive: whoever ends the life has the right to.
    let ended = rig.results(task);
    assert!(matches!(ended[..], [AttemptResult::HandedBack | AttemptResult::Lost, AttemptResult::Done]), "{ended:?}");
    wait_or(SOON, || rig.life("a").incarnation != first && is_beating(rig, "a"), || a.log());
    a.stop();
    b.stop();
}

fn is_beating(rig: &Rig, name: &str) -> bool {
    let row = rig.life(name);
    row.state == EngineState::Live && row.beat > 1
}

/// Nothing of the first attempt acted after L + K.
fn assert_dead_in_time(rig: &Rig, engine: &Engine, task: TaskId, since: f64) {
    let lines: Vec<_> = rig.oracle().into_iter().filter(|line| line.task == task.as_i64()).collect();
    let last = lines.iter().rfind(|line| line.token == lines[0].token).unwrap();
    assert!(last.at - since <= DEAD_AFTER_S + 0.1, "{:.2}s later: {last:?}\n{}", last.at - since, engine.log());
}

pub fn an_engine_in_a_black_hole_is_fenced_after_t_and_comes_back(rig: &Rig) {
    cut_off(rig, Weather::blackhole());
}

pub fn an_engine_whose_requests_are_lost_is_fenced_after_t_and_comes_back(rig: &Rig) {
    cut_off(rig, Weather::requests_lost());
}

pub fn an_engine_whose_replies_are_lost_is_fenced_after_t_and_comes_back(rig: &Rig) {
    cut_off(rig, Weather::replies_lost());
}

pub fn an_engine_whose_bytes_arrive_too_late_is_fenced_after_t_and_comes_back(rig: &Rig) {
    cut_off(rig, Weather::held());
}

/// For longer than T.
fn cut_off(rig: &Rig, weather: Weather) {
    let proxy = rig.proxy();
    let a = rig.engine("a").through(&proxy).start();
    let task = rig.add_to("sh", "alone r; if first; then escape; forever; fi; ticks 2", &["r"]);
    let behind = rig.add_to("sh", "alone r; ticks 1", &["r"]);
    rig.wait_starts(task, 1, SOON);
    // Its end comes within the lease, and cannot be written.
    let ending = rig.add("alone e; if first; then ticks 12; fi");
    rig.wait_starts(ending, 1, SOON);
    let (first, processes) = (rig.life("a").incarnation, (a.guard, a.proper()));
    let cut_at = uptime();
    proxy.set(weather);
    let b = rig.engine("b").start();
    rig.wait_starts(task, 2, SOON);
    let took = rig.said(task, "START")[1].at - cut_at;
    assert!(took >= TAKEOVER_S - 0.55, "a peer was too fast: {took:.2}s\n{}", b.log());
    assert_dead_in_time(rig, &a, task, cut_at);
    assert_eq!(
        rig.said(ending, "END").first().map(|line| line.at - cut_at < 2.0),
        Some(true),
        "it did not end in time"
    );
    let row = rig.life("a");
    let stood = row.ended_at.unwrap().since(row.last_beat_at).as_secs_f64();
    assert_eq!((row.incarnation, row.state, row.proof), (first, EngineState::Fenced, Some(Proof::Expiry)));
    assert!((TAKEOVER_S..=6.0).contains(&stood), "fenced after {stood:.2}s");

    proxy.heal();
    wait_or(SOON, || rig.life("a").incarnation != first && is_beating(rig, "a"), || a.log());
    assert_eq!((a.guard, a.proper()), processes, "it came back as another process");
    for each in [task, behind, ending] {
        rig.wait_state(each, TaskState::Done, SOON);
    }
    assert_eq!(rig.results(task), [AttemptResult::Lost, AttemptResult::Done]);
    assert_eq!((rig.task(task).lost, rig.results(behind)), (1, vec![AttemptResult::Done]));
    late_result(rig, &a, ending, first.as_i64(), weather == Weather::replies_lost());
    assert_eq!(rig.lives("a").len(), 2, "{:?}", rig.lives("a"));
    a.stop();
    b.stop();
}

/// Of a task that ended while its engine was cut off: refused and counted where a peer has raised the token
/// meanwhile. Only where requests arrive it may have reached the server in time.
fn late_result(rig: &Rig, a: &Engine, ending: TaskId, first: i64, may_arrive: bool) {
    let refused = || rig.lives("a").into_iter().find(|row| row.incarnation.as_i64() == first).map(|row| row.refused);
    if may_arrive && rig.results(ending) == [AttemptResult::Done] {
        assert_eq!((refused(), rig.said(ending, "START").len()), (Some(0), 1), "{}", a.log());
        return;
    }
    wait_or(SOON, || refused() == Some(1), || format!("{:?}: not refused\n{}", refused(), a.log()));
    assert_eq!(rig.results(ending), [AttemptResult::Lost, AttemptResult::Done]);
}

/// Tasks that run while connections break: each runs once, and nobody comes back as a new life.
fn disturbed(rig: &Rig, seed: u64, disturb: impl Fn(&Proxy, &mut fastrand::Rng)) {
    println!("seed {seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let proxies = [rig.proxy(), rig.proxy()];
    let engines = [rig.engine("a").through(&proxies[0]).start(), rig.engine("b").through(&proxies[1]).start()];
    let before = engines.each_ref().map(|engine| who(rig, engine));
    let long = rig.add("alone long; ticks 100");
    let names = [&[][..], &["r"], &["s"], &["r", "s"]];
    let tasks: Vec<_> = (0..30).map(|n| rig.add_to("sh", "ticks 3", names[n % 4])).collect();
    rig.wait_starts(long, 1, SOON);
    let began = uptime();
    while uptime() - began < 6.0 {
        for proxy in &proxies {
            disturb(proxy, &mut dice);
        }
        SystemClock.pause(Duration::from_millis(dice.u64(100..400)));
    }
    for task in tasks.iter().chain([&long]) {
        rig.wait_state(*task, TaskState::Done, SOON);
        let runs = (rig.said(*task, "START").len(), rig.said(*task, "END").len(), rig.task(*task).attempt);
        assert_eq!((runs, rig.results(*task)), ((1, 1, 1), vec![AttemptResult::Done]), "task {task}");
    }
    assert_eq!(engines.each_ref().map(|engine| who(rig, engine)), before, "somebody came back as a new life");
    engines.iter().for_each(Engine::stop);
}

pub fn connections_that_are_reset_disturb_nothing(rig: &Rig) {
    disturbed(rig, fastrand::u64(..), |proxy, _| proxy.reset_all());
}

pub fn connections_that_break_inside_of_a_frame_disturb_nothing(rig: &Rig) {
    disturbed(rig, fastrand::u64(..), |proxy, dice| {
        let bytes = dice.usize(0..60);
        let moment = if dice.bool() { Moment::InRequest(bytes) } else { Moment::InAnswer(bytes) };
        proxy.cut(Cut::at("", moment).nth(dice.usize(1..6)));
    });
}

/// For half a minute both engines are cut off and let back, for about as long as a beat takes.
pub fn flapping_networks_fence_nobody_whose_beats_arrive(rig: &Rig) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let proxies = [rig.proxy(), rig.proxy()];
    let engines = [rig.engine("a").through(&proxies[0]).start(), rig.engine("b").through(&proxies[1]).start()];
    let names = [&[][..], &["r"], &["s"], &["r", "s"]];
    let tasks: Vec<_> = (0..60).map(|n| rig.add_to("sh", "alone $REKINDLE_TASK; ticks 12", names[n % 4])).collect();
    let until = uptime() + 31.0;
    std::thread::scope(|scope| {
        for (n, proxy) in proxies.iter().enumerate() {
            scope.spawn(move || flap(proxy, seed.wrapping_add(n as u64), until));
        }
    });
    for task in &tasks {
        rig.wait_state(*task, TaskState::Done, Duration::from_secs(30));
        once_accepted(rig, *task);
    }
    for life in ["a", "b"].into_iter().flat_map(|name| rig.lives(name)) {
        let stood = life.ended_at.map_or(f64::MAX, |ended| ended.since(life.last_beat_at).as_secs_f64());
        assert!(life.proof != Some(Proof::Expiry) || stood >= TAKEOVER_S, "fenced after {stood:.2}s: {life:?}");
    }
    println!("{} lives, {} refused", rig.lives("a").len() + rig.lives("b").len(), refused(rig));
    engines.iter().for_each(Engine::stop);
}

fn refused(rig: &Rig) -> u64 {
    ["a", "b"].into_iter().flat_map(|name| rig.lives(name)).map(|row| row.refused).sum()
}

fn flap(proxy: &Proxy, seed: u64, until: f64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    // Around q = 400 ms and h = 500 ms.
    let mut span = || Duration::from_millis(dice.u64(150..900));
    let weathers = [Weather::held(), Weather::blackhole(), Weather::requests_lost(), Weather::replies_lost()];
    for weather in weathers.iter().cycle() {
        if uptime() >= until {
            return;
        }
        proxy.set(*weather);
        SystemClock.pause(span());
        proxy.heal();
        SystemClock.pause(span());
    }
}

/// Its attempts are numbered without gaps, and each has one end; the last of them is the accepted one.
fn once_accepted(rig: &Rig, task: TaskId) {
    let attempts = rig.attempts(task);
    let numbers: Vec<u32> = attempts.iter().map(|attempt| attempt.attempt).collect();
    let wanted: Vec<u32> = (1..=rig.task(task).attempt).collect();
    assert_eq!(numbers, wanted, "{attempts:?}");
    assert!(attempts.windows(2).all(|pair| pair[0].token < pair[1].token), "{attempts:?}");
    let done: Vec<_> = attempts.iter().filter(|a| a.result == Some(AttemptResult::Done)).collect();
    assert_eq!(done.len(), 1, "{attempts:?}");
    let accepted = rig.said(task, "END").iter().filter(|line| line.token == done[0].token.as_i64()).count();
    assert_eq!(accepted, 1, "what was accepted did not run to its end: {attempts:?}");
}

// ---- several URLs ---------------------------------------------------------------------------------------

pub fn an_engine_starts_by_its_second_url_and_changes_over(rig: &Rig) {
    let proxies = [rig.proxy(), rig.proxy()];
    proxies[0].set(Weather::refusing());
    let urls = proxies.each_ref().map(|proxy| proxy.url(rig.way()));
    let a = rig.engine("a").urls(&urls).start();
    let task = rig.add("alone r; wait_go");
    rig.wait_starts(task, 1, SOON);
    let before = who(rig, &a);
    // The first comes back, and the second dies.
    proxies[0].heal();
    proxies[1].set(Weather::refusing());
    proxies[1].reset_all();
    settle(rig, &a);
    rig.go();
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!((who(rig, &a), rig.task(task).attempt), (before, 1), "{}", a.log());
    assert!(proxies[0].connections() > 0 && proxies[1].connections() == 0);
    a.stop();
}

pub fn an_engine_starts_by_its_second_url_where_the_first_is_a_black_hole(rig: &Rig) {
    let proxies = [rig.proxy(), rig.proxy()];
    proxies[0].set(Weather::blackhole());
    let urls = proxies.each_ref().map(|proxy| proxy.url(rig.way()));
    let a = rig.engine("a").urls(&urls).with("[database]\nconnect_timeout = \"1s\"").launch();
    let is_up = || rig.lives("a").first().is_some_and(|row| row.beat > 1);
    wait_or(Duration::from_secs(20), is_up, || a.log());
    let task = rig.add("ticks 30");
    rig.wait_state(task, TaskState::Done, SOON);
    // A registration whose first beat was not accepted within L is made anew: there may be two lives.
    assert_eq!(rig.results(task), [AttemptResult::Done], "{}", a.log());
    a.stop();
}
