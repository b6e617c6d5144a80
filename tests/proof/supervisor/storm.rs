//! Signals in any order, many of them at the same instant: SIGHUP after each of
//! several configurations, SIGCHLD although no child ended, SIGUSR1, and finally
//! SIGTERM or SIGINT, once or twice.

use crate::daemon::{DEADLINE, Daemon, kill, wait_for};
use crate::trial::Tried;
use nix::libc::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use plumbd::control::status::DaemonState;
use std::time::{Duration, Instant};

/// How many rounds there are with `--times 1`.
pub(super) const ROUNDS: u32 = 40;
/// How many configurations there are in a round.
const CONFIGS: u32 = 20;
/// If something does not happen within this time, it does not happen.
const LONG: Duration = Duration::from_millis(500);

/// The name of child `generation-N` shows which configuration holds. The other child is
/// asked to reopen, and notes that in a file of its name.
fn config(generation: u32, told: &str) -> String {
    format!(
        r#"
        [children.{told}]
        command = ["/bin/sh", "-c", "trap 'echo x >> {told}' USR1; echo up > {told}; while :; do sleep 1000 & wait; done"]
        [children.generation-{generation}]
        command = ["sleep", "1000"]
        "#
    )
}

pub(super) fn attempt(rounds: u32) -> Tried {
    let (mut signals, mut held_last, mut reopened, mut ends) = (0, 0, 0, [0; 4]);
    for round in 0..rounds {
        let mut daemon = Daemon::start(&config(0, "told"));
        wait_trap(&daemon, "told");
        signals += storm(&daemon, round);
        held(&daemon, CONFIGS, DEADLINE).unwrap_or_else(|why| panic!("{why}\nlog:\n{}", daemon.log()));
        held_last += 1;
        has_a_newcomer(&daemon);
        daemon.signal(SIGUSR1);
        wait_for("a reopen comes through", || is_told(&daemon, "late").then_some(()));
        reopened += 1;
        // It is stopped in the middle of another storm.
        let end = round as usize % ends.len();
        signals += match end {
            0 | 1 => storm_and_stop(&daemon, round, [SIGTERM, SIGINT][end]),
            _ => storm_and_stop_at_once(&daemon, round, [SIGTERM, SIGINT][end - 2]),
        };
        let status = daemon.wait_end();
        assert!(status.success(), "{status}, log:\n{}", daemon.log());
        ends[end] += 1;
    }
    let [term, int, terms, ints] = ends;
    Tried {
        count: format!("{rounds} rounds, {signals} signals, {} configurations", rounds * CONFIGS),
        outcome: format!(
            "{held_last} times the last configuration held, {reopened} times a reopen came through; stopped by {term} \
             SIGTERM and {int} SIGINT, and at once by a second one ({terms} SIGTERM, {ints} SIGINT) where a child ends not"
        ),
        control: control(),
    }
}

fn wait_trap(daemon: &Daemon, told: &str) {
    wait_for("its trap is set", || daemon.read(told).starts_with(b"up\n").then_some(()));
}

fn is_told(daemon: &Daemon, told: &str) -> bool {
    daemon.read(told).ends_with(b"x\n")
}

/// Makes sure that no earlier signal is passed on to the child that is started next: the
/// supervisor must have seen all of them before.
fn has_a_newcomer(daemon: &Daemon) {
    // It answers one request in each round of its loop, and each round begins with the signals that
    // have arrived.
    for _ in 0..2 {
        daemon.status();
    }
    daemon.reload(&config(CONFIGS + 1, "late"));
    wait_trap(daemon, "late");
}

/// Waits up to this long until the configuration of that number holds.
fn held(daemon: &Daemon, generation: u32, bound: Duration) -> Result<(), String> {
    let name = format!("generation-{generation}");
    let until = Instant::now() + bound;
    while Instant::now() < until {
        let status = daemon.status();
        let running = status.state == DaemonState::Running;
        if running && status.children.iter().any(|child| child.name == name) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let names: Vec<String> = daemon.status().children.into_iter().map(|child| child.name).collect();
    Err(format!("a reload was lost: {name} is not among {names:?}"))
}

/// Three threads send signals at once. The last SIGHUP comes after the last configuration.
fn storm(daemon: &Daemon, round: u32) -> u32 {
    let pid = daemon.pid();
    let noise = |signal: i32, count: u32| {
        move || {
            for i in 0..count {
                kill(pid, signal);
                std::thread::sleep(Duration::from_micros(u64::from((i * 37 + round * 11) % 400)));
            }
            count
        }
    };
    std::thread::scope(|scope| {
        let chld = scope.spawn(noise(SIGCHLD, 300));
        let usr1 = scope.spawn(noise(SIGUSR1, 100));
        for generation in 1..=CONFIGS {
            replace(daemon, &config(generation, "told"));
            daemon.signal(SIGHUP);
            std::thread::sleep(Duration::from_micros(u64::from((generation * 997 + round * 131) % 4000)));
        }
        chld.join().unwrap() + usr1.join().unwrap() + CONFIGS
    })
}

fn storm_and_stop(daemon: &Daemon, round: u32, stop: i32) -> u32 {
    let pid = daemon.pid();
    let order = [SIGHUP, SIGCHLD, SIGUSR1, SIGHUP, stop, SIGCHLD, SIGHUP, SIGUSR1];
    for i in 0..order.len() {
        // The stop is sometimes the first of them, sometimes the last.
        kill(pid, order[(i + round as usize) % order.len()]);
    }
    u32::try_from(order.len()).unwrap()
}

/// A child ignores a stop for longer than this trial waits, so two stops are needed.
fn storm_and_stop_at_once(daemon: &Daemon, round: u32, stop: i32) -> u32 {
    has_a_deaf_child(daemon);
    let first = storm_and_stop(daemon, round, stop);
    daemon.wait_state(DaemonState::Stopping);
    first + storm_and_stop(daemon, round + 1, stop)
}

fn has_a_deaf_child(daemon: &Daemon) {
    let deaf = r#"
        [daemon]
        stop_timeout = "10m"
        [children.deaf]
        command = ["/bin/sh", "-c", "trap '' TERM; echo up > deaf; while :; do sleep 1000; done"]
        stop_timeout = "10m"
    "#;
    daemon.reload(deaf);
    wait_trap(daemon, "deaf");
}

/// Replaces the configuration by a rename, so that no reload reads half a file.
fn replace(daemon: &Daemon, config: &str) {
    let next = daemon.path("next.toml");
    std::fs::write(&next, config).unwrap();
    std::fs::rename(next, daemon.path("plumbd.toml")).unwrap();
}

/// The control: a signal is left out, and its effect must be missing. It is a SIGHUP, the SIGUSR1
/// after a storm of them, or the second SIGTERM.
fn control() -> String {
    let mut daemon = Daemon::start(&config(0, "told"));
    wait_trap(&daemon, "told");
    storm(&daemon, 0);
    held(&daemon, CONFIGS, DEADLINE).unwrap();
    has_a_newcomer(&daemon);
    replace(&daemon, &config(CONFIGS + 2, "late"));
    daemon.signal(SIGCHLD);
    let why = held(&daemon, CONFIGS + 2, LONG).expect_err("a reload that nobody asked for");
    assert!(!is_told(&daemon, "late"), "a reopen that nobody asked for");
    has_a_deaf_child(&daemon);
    daemon.signal(SIGTERM);
    daemon.wait_state(DaemonState::Stopping);
    std::thread::sleep(LONG);
    assert_eq!(daemon.status().state, DaemonState::Stopping);
    daemon.signal(SIGTERM);
    daemon.wait_end();
    format!(
        "a SIGHUP left out: {}; the SIGUSR1 left out: no reopen; the second SIGTERM left out: it goes on stopping",
        why.split(':').next().unwrap_or_default()
    )
}
