//! Faults that the checks must find: some are planted in what they look at, others
//! made in a running daemon behind the model's back.

use super::clients::Clients;
use super::operations::End;
use super::saved;
use super::shape::{Kind, Part};
use super::world::{Checked, DEADLINE, World};
use crate::daemon::{alive, free_port, kill, wait_for};
use crate::program::Program;
use nix::libc::{SIGKILL, SIGSTOP};
use plumbd::control::Request;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command};
use std::time::Duration;

/// After this many tries, wiped ledgers must have been found out.
const TRIES: u64 = 40;
/// The seed of the controls' daemons, which no other daemon has.
const SEED: u64 = 0xc0_4701;

/// Makes all of them. Returns what they were.
///
/// # Panics
/// If one of them is not found out.
pub(super) fn all() -> String {
    let mut world = World::start(SEED).unwrap();
    let planted = [in_processes(&mut world), in_answers(&mut world)].concat();
    let doctored = in_files(&mut world);
    let clients = Clients::start(free_port(), 0);
    wait_for("a client that is not let in", || (!clients.wrong().is_empty()).then_some(()));
    format!(
        "{}; a client that nobody lets in; in the files {}: each found; {}",
        planted.join(", "),
        doctored.join(", "),
        wiped_ledgers()
    )
}

/// A check must have found that fault.
fn must_find(what: &'static str, found: Checked, word: &str) -> &'static str {
    let why = found.expect_err(what);
    assert!(why.contains(word), "{what}: found another: {why}");
    what
}

fn must_find_in(world: &mut World, what: &'static str, word: &str) -> &'static str {
    world.patience = Duration::from_secs(2);
    let found = world.settle();
    world.patience = DEADLINE;
    must_find(what, found, word)
}

fn plant(world: &World, name: &str) -> Child {
    let dir = world.daemon.dir.path();
    Command::new("sleep").arg("1000").current_dir(dir).env("PLUMBD_CHILD", name).spawn().unwrap()
}

fn remove(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn in_processes(world: &mut World) -> Vec<&'static str> {
    let mut found = Vec::new();
    let name = world.pids.keys().next().unwrap().clone();
    for (what, of) in [("a second process of a child", &*name), ("a process of a child that went", "gone")] {
        let second = plant(world, of);
        found.push(must_find_in(world, what, "that no status tells"));
        remove(second);
    }
    world.settle().unwrap();

    let late = format!("late {} {}\n", 1, u32::MAX);
    let path = world.daemon.path("starts");
    let starts = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, starts.clone() + &late).unwrap();
    found.push(must_find("a child started in an end", world.nothing_started_late(u64::from(u32::MAX) - 100), "late"));
    let stray = plant(world, "stray");
    found.push(must_find("a stray", world.nothing_is_left(Duration::ZERO), "left behind"));
    remove(stray);

    world.may_run.insert("late".to_owned(), 0);
    found.push(must_find_in(world, "a job that ran once more", "ran 1 times"));
    world.may_run.remove("late");
    std::fs::write(&path, starts).unwrap();

    let before = world.pids.clone();
    kill(before[&name], SIGKILL);
    wait_for("it is dead", || (!alive(before[&name])).then_some(()));
    world.settle().unwrap();
    let shape = world.shape.clone();
    found.push(must_find("a process that was not kept", world.kept(&before, &shape, &BTreeSet::new()), "is no longer"));
    found
}

fn in_answers(world: &mut World) -> Vec<&'static str> {
    let mut found = Vec::new();
    let right = world.shape.clone();
    let name = right.names(|part| part.file().is_some()).remove(0);
    world.shape.parts.get_mut(&name).unwrap().umask ^= 0o55;
    found.push(must_find_in(world, "a reload that left a child as it was", "should have Umask"));
    world.shape = right.clone();
    world.shape.parts.get_mut(&name).unwrap().kind = Kind::Logger { file: "m99.raw".to_owned() };
    found.push(must_find_in(world, "a logger with another file", "does not have m99.raw open"));
    world.shape = right.clone();
    let gone = right.names(|part| !part.is_sink() && !part.is_job()).remove(0);
    world.shape.parts.remove(&gone);
    found.push(must_find_in(world, "a child that a reload should have removed", "its children are"));
    world.shape = right;

    // This happens behind the model's back.
    world.daemon.done(&Request::Stop { children: vec![name.clone()] });
    found.push(must_find(
        "a start that did not start",
        world.are_up(std::slice::from_ref(&name), &BTreeSet::new()),
        "is down",
    ));
    found.push(must_find_in(world, "a child that is down", "is down"));
    world.daemon.done(&Request::Start { children: vec![name.clone()] });
    world.settle().unwrap();
    world.held.insert(name.clone());
    found.push(must_find_in(world, "a stop that did not stop", "should be Down"));
    world.held.remove(&name);
    found
}

/// A line removed, doubled, moved, cut and made up in what a daemon saved.
fn in_files(world: &mut World) -> Vec<&'static str> {
    let source = |part: &Part| matches!(part.kind, Kind::Own(Program::Source { .. }));
    assert!(!world.shape.names(source).is_empty(), "this seed has a source");
    wait_for("some lines", || {
        (crate::program::told(world.daemon.dir.path()).iter().any(|told| told.lines > 50)).then_some(())
    });
    world.end(End::Command).unwrap();
    let expected = world.expected();
    let files = saved::read(world.daemon.dir.path());
    assert!(saved::check(&files, &expected).is_clean());
    let (at, _) = files.iter().enumerate().max_by_key(|(_, (_, bytes))| bytes.len()).unwrap();
    let lines: Vec<&[u8]> = files[at].1.split_inclusive(|&byte| byte == b'\n').collect();
    // The lines may be of several sources. These two are of the same one.
    let number = |line: &[u8]| {
        line.windows(9)
            .position(|bytes| bytes[8] == b'.' && bytes[..8].iter().all(u8::is_ascii_hexdigit))
            .map(|at| line[at..at + 8].to_vec())
    };
    let first = lines.len() / 2;
    let second = (first + 1..lines.len()).find(|&at| number(lines[at]) == number(lines[first])).unwrap();
    let with = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut changed: Vec<Vec<u8>> = lines.iter().map(|line| line.to_vec()).collect();
        change(&mut changed);
        let mut files = files.clone();
        files[at].1 = changed.concat();
        saved::check(&files, &expected)
    };
    let removed = with(&|lines| drop(lines.remove(first)));
    assert_eq!((removed.lost, removed.doubled), (1, 0), "{removed}");
    let doubled = with(&|lines| lines.insert(second, lines[first].clone()));
    assert_eq!((doubled.lost, doubled.doubled), (0, 1), "{doubled}");
    let moved = with(&|lines| lines.swap(first, second));
    assert!(moved.disordered > 0 && moved.lost == 0, "{moved}");
    let cut = with(&|lines| drop(lines[first].drain(20..30)));
    assert_eq!((cut.lost, cut.torn), (1, 1), "{cut}");
    let forged = with(&|lines| lines.insert(0, b"2026-11-22T15:04:05.123456Z 127.0.0.1:4 nobody\n".to_vec()));
    assert_eq!((forged.lost, forged.torn), (0, 1), "{forged}");
    vec!["a line removed", "doubled", "moved", "cut", "made up"]
}

/// Kills of loggers whose ledgers forget what was saved, until one saves twice.
fn wiped_ledgers() -> String {
    for tries in 1..=TRIES {
        let mut world = World::start(SEED + tries).unwrap();
        for _ in 0..12 {
            let loggers = world.shape.names(|part| part.file().is_some());
            for pid in loggers.iter().filter_map(|name| world.daemon.child(name).pid) {
                kill(pid, SIGSTOP);
                wipe_ledgers(pid);
                kill(pid, SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // It need not end cleanly.
        let end = world.end(End::Terminate);
        if let Err(why) = end.as_ref().map_err(|why| why.lines().next().unwrap_or_default()) {
            return format!("loggers killed with their ledgers wiped, found at the {tries}. try: {why}");
        }
    }
    panic!("wiped ledgers were not found out");
}

fn wipe_ledgers(pid: i32) {
    let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return };
    for path in fds.filter_map(|fd| Some(fd.ok()?.path())) {
        let is_ledger = std::fs::read_link(&path).is_ok_and(|link| link.to_string_lossy().contains("plumbd-ledger"));
        if let (true, Ok(ledger)) = (is_ledger, File::options().write(true).open(&path)) {
            ledger.write_all_at(&[0; 4096], 0).unwrap();
        }
    }
}
