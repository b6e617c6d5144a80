//! Random kills of 20 children, and what the supervisor does after each.
//!
//! A kill counts if it ended a process of a child: the process is seen alive
//! as such, killed, and seen dead. Nothing else kills, and no child ends by itself, so
//! no other process can have got its pid meanwhile, and each child has exactly as many
//! restarts as kills.

use crate::daemon::{DEADLINE, Daemon, children_of, descriptors, state, wait_for};
use crate::trial::Tried;
use nix::errno::Errno;
use nix::libc::{SIGCONT, SIGSTOP};
use nix::sys::signal::Signal;
use plumbd::control::status::ChildState;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::{Duration, Instant};

/// How many kills there are with `--times 1`.
pub(super) const KILLS: u32 = 10_000;
const CHILDREN: usize = 20;

/// Some children have a process of their own, which must not outlive them, or one that they do
/// not reap.
fn config() -> String {
    let mut text = String::new();
    for i in 0..CHILDREN {
        let program = match i % 4 {
            0 => "exec sleep 1000",
            1 => "sleep 1000 & exec sleep 1000",
            2 => "true & exec sleep 1000",
            _ => "echo a line; exec sleep 1000",
        };
        let _never_fails = write!(
            text,
            "[children.c{i}]\ncommand = [\"/bin/sh\", \"-c\", \"{program}\"]\n\
             backoff = {{ first = \"0ms\", factor = 1.0, max = \"1ms\", reset_after = \"0s\" }}\n\
             start_limit = {{ burst = 1000000, within = \"1s\" }}\n"
        );
    }
    text
}

/// What was found when all was quiet. All of it must be zero.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    zombies: usize,
    strays: usize,
    /// How many more there are than at first.
    descriptors: usize,
    /// Children whose restarts differ from their kills.
    miscounted: usize,
}

impl Found {
    fn add(&mut self, other: &Found) {
        self.zombies += other.zombies;
        self.strays += other.strays;
        self.descriptors += other.descriptors;
        self.miscounted += other.miscounted;
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { zombies, strays, descriptors, miscounted } = self;
        write!(
            f,
            "{zombies} zombies, {strays} strays, {descriptors} descriptors left over, {miscounted} children miscounted"
        )
    }
}

pub(super) fn attempt(kills: u32) -> Tried {
    let mut daemon = Daemon::start(&config());
    let mut killed = BTreeMap::new();
    // After the first kills, a supervisor has all that it needs. Its descriptors are counted only
    // then.
    batter(&daemon, 100, &mut killed);
    settle(&daemon, &killed);
    let before = descriptors(daemon.pid());
    let (mut quiet, mut all) = (0, Found::default());
    let mut left = kills.saturating_sub(100);
    while left > 0 {
        let now = left.min(500);
        batter(&daemon, now, &mut killed);
        settle(&daemon, &killed);
        let found = look(&daemon, before, &killed);
        assert_eq!(found, Found::default(), "log:\n{}", daemon.log());
        all.add(&found);
        left -= now;
        quiet += 1;
    }
    let control = control(&daemon, before, &mut killed);
    let total: u64 = killed.values().sum();
    let restarts: u64 = daemon.status().children.iter().map(|child| child.restarts).sum();
    assert_eq!(restarts, total);
    daemon.stop();
    Tried {
        count: format!("{total} kills of {CHILDREN} children, looked at {quiet} times"),
        outcome: format!("{restarts} restarts counted; {all}"),
        control,
    }
}

/// Kills random children at random moments. Those that are down just then are passed over.
fn batter(daemon: &Daemon, kills: u32, killed: &mut BTreeMap<String, u64>) {
    let mut done = 0;
    while done < kills {
        let status = daemon.status();
        for child in &status.children {
            // Only some of them, so that others are just starting.
            if done == kills || below(3) == 0 {
                continue;
            }
            let Some(pid) = child.pid else { continue };
            if below(8) == 0 {
                std::thread::sleep(Duration::from_micros(below(2000)));
            }
            if kill(pid, daemon.pid()) {
                *killed.entry(child.name.clone()).or_default() += 1;
                done += 1;
            }
        }
    }
}

/// Kills that process if it is still a living child of the supervisor. Returns whether this
/// signal was what ended it.
fn kill(pid: i32, supervisor: i32) -> bool {
    let Some(stat) = stat(pid).filter(|stat| stat.parent == supervisor && stat.state != 'Z') else {
        return false;
    };
    match nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL) {
        Ok(()) => {}
        Err(Errno::ESRCH) => return false,
        Err(error) => panic!("{error}"),
    }
    // Wait until it is seen dead, so that it is killed only once.
    let until = Instant::now() + DEADLINE;
    while !is_over(pid, stat.started) {
        assert!(Instant::now() < until, "{pid} does not die");
        std::thread::sleep(Duration::from_micros(50));
    }
    true
}

pub(super) struct Stat {
    state: char,
    parent: i32,
    /// In clock ticks since boot. Together with the pid, this identifies a process.
    pub(super) started: u64,
}

/// Reads proc_pid_stat(5).
pub(super) fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some(Stat { state: fields[0].chars().next()?, parent: fields[1].parse().ok()?, started: fields[19].parse().ok()? })
}

fn is_over(pid: i32, started: u64) -> bool {
    stat(pid).is_none_or(|now| now.started != started || now.state == 'Z' || now.state == 'X')
}

/// Waits until every child is up and every restart is counted.
fn settle(daemon: &Daemon, killed: &BTreeMap<String, u64>) {
    let total: u64 = killed.values().sum();
    wait_for("every child is up again", || {
        let status = daemon.status();
        let up = status.children.iter().all(|child| child.state == ChildState::Up);
        let restarts: u64 = status.children.iter().map(|child| child.restarts).sum();
        (up && restarts >= total).then_some(())
    });
    // What a killed child left in its group dies with it, and what has left its
    // group ends soon. The supervisor then has to reap it.
    wait_for("what was left is reaped", || (children_of(daemon.pid()).len() <= CHILDREN).then_some(()));
}

fn look(daemon: &Daemon, before: usize, killed: &BTreeMap<String, u64>) -> Found {
    let status = daemon.status();
    let pids: Vec<i32> = status.children.iter().filter_map(|child| child.pid).collect();
    let of_children = |pid: i32| stat(pid).is_some_and(|stat| pids.contains(&stat.parent));
    let strays = crate::daemon::strays(daemon.dir.path()).into_iter();
    let strays = strays.filter(|pid| *pid != daemon.pid() && !pids.contains(pid) && !of_children(*pid)).count();
    let wrong =
        |child: &&plumbd::control::status::Child| child.restarts != killed.get(&child.name).copied().unwrap_or(0);
    // The connection of the status request is closed soon.
    let more = || descriptors(daemon.pid()).saturating_sub(before);
    let until = Instant::now() + Duration::from_secs(1);
    while more() > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
    Found {
        zombies: zombies(daemon),
        strays,
        descriptors: more(),
        miscounted: status.children.iter().filter(wrong).count(),
    }
}

fn zombies(daemon: &Daemon) -> usize {
    children_of(daemon.pid()).into_iter().filter(|&pid| state(pid) == Some('Z')).count()
}

/// The control: a child that is not reaped, a stray that belongs to no child, a kill that
/// was not counted, and an extra descriptor. Each must be found.
fn control(daemon: &Daemon, before: usize, killed: &mut BTreeMap<String, u64>) -> String {
    let mut stray = std::process::Command::new("sleep").arg("1000").current_dir(daemon.dir.path()).spawn().unwrap();
    let operator = std::os::unix::net::UnixStream::connect(daemon.path("plumbd.sock")).unwrap();
    wait_for("the operator is let in", || (descriptors(daemon.pid()) > before).then_some(()));
    let uncounted = daemon.status().children[0].pid.unwrap();
    // While the supervisor is stopped, it reaps nothing.
    daemon.signal(SIGSTOP);
    assert!(kill(uncounted, daemon.pid()));
    let zombies = zombies(daemon);
    daemon.signal(SIGCONT);
    assert_eq!(zombies, 1);
    wait_for("it is up again", || {
        let first = &daemon.status().children[0];
        (first.state == ChildState::Up && first.pid != Some(uncounted)).then_some(())
    });
    let found = look(daemon, before, killed);
    assert_eq!((found.strays, found.miscounted), (1, 1), "{found:?}");
    assert!(found.descriptors > 0, "{found:?}");
    drop(operator);
    stray.kill().unwrap();
    stray.wait().unwrap();
    *killed.entry(daemon.status().children[0].name.clone()).or_default() += 1;
    "a supervisor that reaps nothing, a stray, an extra descriptor, a kill left out of the count: each found".to_owned()
}

pub(super) fn below(bound: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) % bound
}
