//! Chains of a source, one to three slow filters and a logger, under stops,
//! kills and reloads of any of them while lines wait between them.
//!
//! The filters lose nothing when they are killed ([`program`](crate::program)),
//! so each line that the source wrote is in the file at the end exactly once,
//! or the end names what was lost and its exit status is 1.

use crate::daemon::{Daemon, kill, wait_for};
use crate::model::random::Random;
use crate::model::saved::{self, Expected, Found};
use crate::program::{LENGTH, Program, told};
use crate::trial::{Tried, scaled};
use nix::libc::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM};
use plumbd::control::Request;
use plumbd::control::status::DaemonState;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many chains there are with `--times 1`.
const CHAINS: u32 = 120;
/// How many run at a time, because they mostly wait.
const AT_ONCE: u32 = 4;
const LINES: u32 = 300;
const SEED: u64 = 0x5eed_c4a1;
/// How long a whole shutdown may take: `daemon.stop_timeout`, the longest
/// `stop_timeout`, and some more on a loaded machine.
const END: Duration = Duration::from_secs(10 + 10 + 5);

/// What is done to a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    /// A filter is stopped, then the daemon is shut down.
    Stop,
    /// All filters are stopped, then the daemon is shut down.
    StopAll,
    /// The logger is stopped, then the daemon is shut down.
    StopLogger,
    /// A filter is killed, and the daemon is shut down.
    Kill,
    /// A filter is killed, twice at most, while the daemon ends.
    KillInEnd,
    /// A filter is killed while it is being stopped, and the daemon is shut down.
    KillInStop,
    /// A reload takes one filter out; it is killed meanwhile.
    TakeOut,
    /// A reload removes the whole chain except the logger, which gets another source; filters
    /// are killed meanwhile.
    TakeAway,
    /// A reload takes one filter out, while it is stopped.
    TakeOutStopped,
    /// A reload takes one filter out, and is undone; it is killed meanwhile.
    Undone,
    /// A filter hangs, and goes on while the daemon ends.
    Hang,
    /// A reload inserts another filter behind one, which is therefore restarted.
    PutIn,
    /// A reload inserts a filter while the daemon ends, and waits for a child that ignores its
    /// stop signal.
    EndInReload,
}

const DEEDS: &[Deed] = &[
    Deed::Stop,
    Deed::StopAll,
    Deed::StopLogger,
    Deed::Kill,
    Deed::KillInEnd,
    Deed::KillInStop,
    Deed::TakeOut,
    Deed::TakeAway,
    Deed::TakeOutStopped,
    Deed::Undone,
    Deed::Hang,
    Deed::PutIn,
    Deed::EndInReload,
    Deed::EndInReload,
];

/// The outcome of one chain.
struct Came {
    deed: Deed,
    lines: u64,
    kills: u32,
    named: bool,
}

pub(crate) fn attempt(times: f64) -> Tried {
    let chains = scaled(CHAINS, times);
    let seed = crate::model::seed().unwrap_or(SEED);
    let came: Vec<Came> = crate::model::side_by_side(AT_ONCE, chains, |number| one(seed.wrapping_add(number.into())));
    let mut by_deed: BTreeMap<Deed, u32> = BTreeMap::new();
    came.iter().for_each(|came| *by_deed.entry(came.deed).or_default() += 1);
    let lines: u64 = came.iter().map(|came| came.lines).sum();
    let kills: u32 = came.iter().map(|came| came.kills).sum();
    let named = came.iter().filter(|came| came.named).count();
    Tried {
        count: format!("{chains} chains of 1 to 3 filters in {} ways, {kills} kills, {lines} lines", by_deed.len()),
        outcome: format!(
            "{} ended with 0 and each line saved once, in order; {named} ended with 1 and named what was left; no line in the log",
            came.len() - named
        ),
        control: control(),
    }
}

/// A chain's configuration: its members in order, source first.
fn config(names: &[String], filters: &[Program], extra: &str) -> String {
    let mut text = "[daemon]\nlog_level = \"info\"\n".to_owned();
    let logger = names.last().unwrap();
    let at_once =
        "backoff = { first = \"0ms\", factor = 1.0, max = \"1ms\" }\nstart_limit = { burst = 1000, within = \"1s\" }\n";
    for (place, name) in names.iter().enumerate() {
        text += &format!("[children.{name}]\n");
        text += &match place {
            _ if name == logger => "plugin = \"logger\"\nsettings = { file = \"m.raw\", format = \"raw\" }".to_owned(),
            0 => Program::Source { lines: LINES, pace: 0 }.command(),
            _ => filters[place - 1].command(),
        };
        text += &format!("\n{at_once}");
    }
    for pair in names.windows(2) {
        text += &format!("[[links]]\nfrom = \"{}\"\nto = \"{}\"\ncapacity = \"64KiB\"\n", pair[0], pair[1]);
    }
    text + extra
}

/// Distinct names of one letter, in any order.
fn letters(random: &mut Random, count: usize) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    while names.len() < count {
        let name = char::from(b'a' + u8::try_from(random.below(26)).unwrap()).to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// A child that takes a moment to stop.
fn deaf(umask: u32) -> String {
    let command = Program::Deaf.command();
    format!("[children.deaf]\n{command}\nready = \"fd\"\nstop_timeout = \"300ms\"\numask = \"{umask:04o}\"\n")
}

fn named(name: &str) -> Vec<String> {
    vec![name.to_owned()]
}

fn one(seed: u64) -> Came {
    let mut random = Random::new(seed);
    let deed = random.pick(DEEDS).unwrap();
    let count = 1 + random.below(3) as usize;
    let names = letters(&mut random, count + 2);
    let filters: Vec<Program> = (0..count)
        .map(|_| Program::Filter { pace: 200 + random.below(1800), polite: random.one_in(2), swallow: 0 })
        .collect();
    let what = format!("seed {seed}: {deed:?}, {} of {filters:?}", names.join(" -> "));
    let slow_to_stop = if deed == Deed::EndInReload { deaf(0o22) } else { String::new() };
    let mut daemon = Daemon::start(&config(&names, &filters, &slow_to_stop));
    wait_for("some lines", || (!daemon.read("m.raw").is_empty()).then_some(()));
    std::thread::sleep(Duration::from_millis(random.below(200).into()));
    let place = 1 + random.below(u32::try_from(count).unwrap()) as usize;
    let filter = &names[place];
    let mut kills = 0;
    do_it(deed, &daemon, &mut random, (&names, &filters, place), &mut kills);
    let began = Instant::now();
    daemon.signal(SIGTERM);
    if matches!(deed, Deed::KillInEnd) {
        for _ in 0..=random.below(2) {
            std::thread::sleep(Duration::from_millis(random.below(150).into()));
            kills += kill_child(&daemon, filter);
        }
    }
    if deed == Deed::Hang {
        std::thread::sleep(Duration::from_millis(100));
        crate::daemon::strays(daemon.dir.path()).into_iter().for_each(|pid| kill(pid, SIGCONT));
    }
    let status = daemon.wait_end();
    assert!(began.elapsed() < END, "{what}: the end took {:?}", began.elapsed());
    let found = compare(&daemon);
    let log = daemon.log();
    let is_named = status.code() == Some(1) && log.contains("nobody took");
    let only_lost =
        Found { lost: 0, problems: Vec::new(), ..found } == Found { lines: found.lines, ..Found::default() };
    assert!(
        found_is_right(&status, found.lost, is_named, only_lost),
        "{what}: {status}, {}\n{}",
        compare(&daemon),
        daemon.dir.path().display()
    );
    let astray = log.lines().filter(|line| line.contains(".0000")).count();
    assert_eq!(astray, 0, "{what}: lines went to the log");
    // All the filters are lossless and quick, so nothing has to be given up.
    assert!(!is_named, "{what}: {status}\n{log}");
    Came { deed, lines: found.lines, kills, named: is_named }
}

/// Whether the files are right. With exit status 0 everything is saved; with 1 what is lost is
/// named. Either way, nothing is there twice, torn or out of order.
fn found_is_right(status: &std::process::ExitStatus, lost: u64, is_named: bool, only_lost: bool) -> bool {
    only_lost && (status.success() && lost == 0 || is_named)
}

fn do_it(
    deed: Deed,
    daemon: &Daemon,
    random: &mut Random,
    (names, filters, place): (&[String], &[Program], usize),
    kills: &mut u32,
) {
    let filter = &names[place];
    match deed {
        Deed::Stop => {
            daemon.done(&Request::Stop { children: named(filter) });
        }
        Deed::StopAll => {
            daemon.done(&Request::Stop { children: names[1..names.len() - 1].to_vec() });
        }
        Deed::StopLogger => {
            daemon.done(&Request::Stop { children: named(names.last().unwrap()) });
        }
        Deed::Kill => *kills += kill_child(daemon, filter),
        Deed::KillInEnd => {}
        Deed::KillInStop => {
            let stop = daemon.ask_meanwhile(Request::Stop { children: named(filter) });
            *kills += kill_child(daemon, filter);
            assert_eq!(stop.join().unwrap().unwrap().0, 0);
        }
        Deed::TakeOut | Deed::TakeOutStopped | Deed::TakeAway | Deed::Undone => {
            if deed == Deed::TakeOutStopped {
                daemon.done(&Request::Stop { children: named(filter) });
            }
            let (mut fewer, mut others) = (names.to_vec(), filters.to_vec());
            fewer.remove(place);
            others.remove(place - 1);
            if deed == Deed::TakeAway {
                fewer.splice(..fewer.len() - 1, ["other".to_owned()]);
                others.clear();
            }
            let never =
                "[children.never]\ncommand = [\"sleep\", \"1000\"]\nready = \"fd\"\nready_timeout = \"200ms\"\n";
            daemon.configure(&config(&fewer, &others, if deed == Deed::Undone { never } else { "" }));
            let reload = daemon.ask_meanwhile(Request::Reload);
            if deed != Deed::TakeOutStopped {
                for _ in 0..=random.below(2) {
                    std::thread::sleep(Duration::from_millis(random.below(150).into()));
                    *kills += kill_child(daemon, filter);
                }
            }
            let (status, out, err) = reload.join().unwrap().unwrap();
            // A reload that would lose something may be refused.
            assert!(deed == Deed::Undone || status == 0 || err.contains("nobody took"), "{status}: {out}{err}");
            assert!(deed != Deed::Undone || status == 1, "{status}: {out}{err}");
            daemon.wait_state(DaemonState::Running);
        }
        Deed::PutIn | Deed::EndInReload => {
            let (mut more, mut others) = (names.to_vec(), filters.to_vec());
            more.insert(place + 1, "other".to_owned());
            others.insert(place, Program::Filter { pace: 100, polite: true, swallow: 0 });
            let extra = if deed == Deed::EndInReload { deaf(0o77) } else { String::new() };
            daemon.configure(&config(&more, &others, &extra));
            let reload = daemon.ask_meanwhile(Request::Reload);
            if deed == Deed::PutIn {
                *kills += kill_child(daemon, filter);
                let (status, out, err) = reload.join().unwrap().unwrap();
                assert_eq!(status, 0, "{out}{err}");
            } else {
                std::thread::sleep(Duration::from_millis(random.below(200).into()));
            }
        }
        Deed::Hang => {
            if let Some(pid) = pid_of(daemon, filter) {
                kill(pid, SIGSTOP);
            }
        }
    }
}

fn pid_of(daemon: &Daemon, name: &str) -> Option<i32> {
    let children = daemon.try_status()?.children;
    children.into_iter().find(|child| child.name == name)?.pid
}

fn kill_child(daemon: &Daemon, name: &str) -> u32 {
    let Some(pid) = pid_of(daemon, name) else { return 0 };
    kill(pid, SIGKILL);
    1
}

/// Compares all that sources noted with all that is saved.
fn compare(daemon: &Daemon) -> Found {
    let dir = daemon.dir.path();
    let expected: Vec<Expected> = told(dir)
        .into_iter()
        .map(|told| Expected { number: told.number, length: LENGTH, certain: told.lines, possible: told.lines + 1 })
        .collect();
    assert!(!expected.is_empty());
    saved::check(&saved::read(dir), &expected)
}

/// A filter that swallows a line in a hundred, and a source without a link.
fn control() -> String {
    let names = ["c", "b", "a"].map(str::to_owned);
    let swallows = Program::Filter { pace: 0, polite: false, swallow: 100 };
    let mut daemon = Daemon::start(&config(&names, &[swallows], ""));
    wait_for("the last line", || daemon.read("m.raw").windows(9).any(|bytes| bytes == b".0000012b").then_some(()));
    daemon.stop();
    let swallowed = compare(&daemon);
    assert_eq!(swallowed.lost, 3, "{swallowed}");

    let source = Program::Source { lines: LINES, pace: 0 }.command();
    let without = config(&["b", "a"].map(str::to_owned), &[], &format!("[children.c]\n{source}\n"));
    let mut daemon = Daemon::start(&without);
    wait_for("lines in the log", || daemon.log().contains(".0000").then_some(()));
    daemon.stop();
    let astray = compare(&daemon);
    assert!(astray.lost > 0, "{astray}");
    format!(
        "a filter that swallows a line in a hundred: {} found lost; a source without a link: {} found lost, and some in the log",
        swallowed.lost, astray.lost
    )
}
