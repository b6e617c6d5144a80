//! Signals in any order, many of them at the same instant: SIGHUP after each of
//! several configurations, SIGCHLD that nobody's end explains, SIGUSR1, and at
//! last SIGTERM.

use crate::daemon::{DEADLINE, Daemon, kill, wait_for};
use crate::trial::Tried;
use nix::libc::{SIGCHLD, SIGHUP, SIGTERM, SIGUSR1};
use plumbd::control::status::DaemonState;
use std::time::{Duration, Instant};

/// At `--times 1`.
pub(super) const ROUNDS: u32 = 40;
/// Configurations a round.
const CONFIGS: u32 = 20;

/// Child `generation-N` says by its name which configuration holds; the other is
/// told to reopen and counts that.
fn config(generation: u32) -> String {
    format!(
        r#"
        [children.counts]
        command = ["/bin/sh", "-c", "trap 'echo x >> reopened' USR1; echo up > counts; while :; do sleep 1000 & wait; done"]
        [children.generation-{generation}]
        command = ["sleep", "1000"]
        "#
    )
}

pub(super) fn attempt(rounds: u32) -> Tried {
    let (mut signals, mut stops) = (0, 0);
    for round in 0..rounds {
        let mut daemon = Daemon::start(&config(0));
        wait_for("its trap is set", || (daemon.read("counts") == b"up\n").then_some(()));
        signals += storm(&daemon, round);
        held(&daemon, CONFIGS, DEADLINE).unwrap_or_else(|why| panic!("{why}\nlog:\n{}", daemon.log()));
        let before = daemon.read("reopened").len();
        daemon.signal(SIGUSR1);
        wait_for("a reopen comes through", || (daemon.read("reopened").len() > before).then_some(()));
        // The end, in the middle of another storm.
        signals += storm_and_stop(&daemon, round);
        assert!(daemon.wait_end().success(), "log:\n{}", daemon.log());
        stops += 1;
    }
    Tried {
        count: format!("{rounds} rounds, {signals} signals, {} configurations", rounds * CONFIGS),
        outcome: format!("{rounds} times the last configuration held and a reopen came through, {stops} stops obeyed"),
        control: control(),
    }
}

/// Waits so long until the configuration of that number holds.
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

/// Three at once send them; the last SIGHUP comes after the last configuration.
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
            replace(daemon, &config(generation));
            daemon.signal(SIGHUP);
            std::thread::sleep(Duration::from_micros(u64::from((generation * 997 + round * 131) % 4000)));
        }
        chld.join().unwrap() + usr1.join().unwrap() + CONFIGS
    })
}

fn storm_and_stop(daemon: &Daemon, round: u32) -> u32 {
    let pid = daemon.pid();
    let order = [SIGHUP, SIGCHLD, SIGUSR1, SIGHUP, SIGTERM, SIGCHLD, SIGHUP, SIGUSR1];
    for i in 0..order.len() {
        // SIGTERM is now the first of them, now the last.
        kill(pid, order[(i + round as usize) % order.len()]);
    }
    u32::try_from(order.len()).unwrap()
}

/// By a rename: a reload never reads half a file.
fn replace(daemon: &Daemon, config: &str) {
    let next = daemon.path("next.toml");
    std::fs::write(&next, config).unwrap();
    std::fs::rename(next, daemon.path("plumbd.toml")).unwrap();
}

/// A configuration that no signal follows does not come to hold, and that is seen.
fn control() -> String {
    let mut daemon = Daemon::start(&config(0));
    replace(&daemon, &config(1));
    daemon.signal(SIGCHLD);
    let why = held(&daemon, 1, Duration::from_secs(1)).expect_err("a reload that nobody asked for");
    daemon.stop();
    format!("a SIGHUP left out: {}", why.split(':').next().unwrap_or_default())
}
