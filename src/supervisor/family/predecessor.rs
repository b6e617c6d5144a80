//! The processes that a supervisor left behind when it was killed, if there is no service
//! manager to end them. They are found by their marks
//! ([`mark`](crate::supervisor::family::mark)) and ended before anything is started, so that
//! no server runs twice and no port is taken.
//!
//! | what is left | what is done |
//! |---|---|
//! | a child | it is waited for, because it got its stop signal when its supervisor died (PR_SET_PDEATHSIG); halfway it gets the signal again, because an executable with rights of its own (setuid) does not get the first |
//! | what a child had started, if the child is dead | it is sent the child's stop signal at once |
//! | any of these after the child's `stop_timeout`, at most 15 s; a built-in plugin always has 15 s, because it saves what its pipes hold | SIGKILL |
//!
//! A process below one with a mark, or in its session, belongs to it, whatever its own
//! environment says. A process is not found if neither its environment nor its session nor
//! its parent shows where it comes from. Processes in this process's own session, and those
//! above it, are never touched.

use crate::config::model::{Model, Program};
use crate::supervisor::family::environments::Environments;
use crate::supervisor::family::mark::{Mark, Own};
use crate::sys::descendants::{self, Process};
use crate::sys::process::with_continue;
use crate::sys::signals::Signals;
use nix::libc::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::unistd::{Pid, getpid, getsid};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// SIGKILL is sent after this long at the latest.
const MOST: Duration = Duration::from_secs(15);
/// A process that SIGKILL has not ended after this much longer is reported and left alone.
const AFTER_KILL: Duration = Duration::from_secs(2);
/// The `stop_timeout` of a child that is no longer in the configuration: the default.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Processes whose environment can't be read are looked at again for this long: most of
/// them are just reading from a disk.
const UNSEEN: Duration = Duration::from_secs(1);
/// How often to check whether they are gone, in milliseconds.
const LOOK: u16 = 20;
/// Signals that tell this process to end.
const ENDS: [i32; 3] = [SIGTERM, SIGINT, SIGQUIT];

/// How a child is stopped.
#[derive(Debug, Clone, Copy)]
struct Stop {
    signal: Signal,
    within: Duration,
}

/// Ends what a killed supervisor has left behind, and waits until it is gone.
///
/// # Errors
/// A signal told this process to end while something was left; EMFILE, ENFILE, ENOMEM.
pub(crate) fn end(own: &Own, model: &Model, signals: &mut Signals) -> Result<(), String> {
    let began = Instant::now();
    let mut told: BTreeSet<Mark> = BTreeSet::new();
    let mut asked: BTreeSet<(Pid, u64)> = BTreeSet::new();
    let mut killed: BTreeSet<(Pid, u64)> = BTreeSet::new();
    let mut others = BTreeSet::new();
    let mut quiet = false;
    loop {
        let (left, unseen) =
            left_of(own).map_err(|e| format!("cannot look for what a supervisor that was killed has left: {e}"))?;
        // A process that keeps starting others may have been missed once.
        let is_over = left.is_empty() && (quiet || told.is_empty());
        if is_over && (!unseen || began.elapsed() > UNSEEN) {
            break;
        }
        quiet = left.is_empty();
        let elapsed = began.elapsed();
        for (mark, processes) in &left {
            let stop = stop_of(model, &mark.child);
            if told.insert(mark.clone()) {
                log::warn!(target: &mark.child, "a supervisor that was killed has left {}: ending it", list(processes));
            }
            for process in processes {
                let key = (process.pid, process.start);
                let lives = processes.iter().any(|other| other.pid == mark.leader);
                let is_due = if lives { process.pid == mark.leader && elapsed > stop.within / 2 } else { true };
                if elapsed > stop.within {
                    send(process, Signal::SIGKILL, mark);
                    if killed.insert(key) {
                        let within = stop.within.as_secs_f64();
                        log::warn!(target: &mark.child, "{} did not stop within {within} s; killed", list(&[*process]));
                    }
                } else if is_due && asked.insert(key) {
                    with_continue(stop.signal).into_iter().for_each(|signal| send(process, signal, mark));
                }
            }
        }
        if elapsed > MOST + AFTER_KILL {
            for (mark, processes) in &left {
                log::error!(target: &mark.child, "cannot end {}, which a supervisor that was killed has left", list(processes));
            }
            break;
        }
        wait(signals, &mut others);
        if others.iter().any(|signal| ENDS.contains(signal)) {
            if !told.is_empty() {
                return Err(
                    "cannot start: told to stop while ending what a supervisor that was killed has left".to_owned()
                );
            }
            // Nothing is known to be left, so the event loop can start and handle the signal.
            break;
        }
    }
    for signal in others {
        // The event loop handles it later.
        let _raised = Signal::try_from(signal).map(raise);
    }
    Ok(())
}

fn stop_of(model: &Model, name: &str) -> Stop {
    match model.children.iter().find(|child| child.name == name) {
        Some(child) if matches!(child.program, Program::Plugin(_)) => {
            Stop { signal: child.policy.stop_signal, within: MOST }
        }
        Some(child) => Stop { signal: child.policy.stop_signal, within: child.policy.stop_timeout.min(MOST) },
        None => Stop { signal: Signal::SIGTERM, within: STOP_TIMEOUT },
    }
}

fn send(process: &Process, signal: Signal, mark: &Mark) {
    if let Err(error) = process.signal(signal) {
        log::error!(target: &mark.child, "cannot send {signal} to {}: {error}", list(&[*process]));
    }
}

/// "process 12 (sh), 13 (server)"
fn list(processes: &[Process]) -> String {
    let each: Vec<String> = processes.iter().map(|process| format!("{} ({})", process.pid, process.name())).collect();
    format!("process {}", each.join(", "))
}

/// Waits a moment, or until a signal arrives; notes the signals that mean something.
fn wait(signals: &mut Signals, others: &mut BTreeSet<i32>) {
    // EINTR is fine: it means that a signal arrived.
    let _came = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], PollTimeout::from(LOOK));
    others.extend(signals.pending().filter(|signal| ENDS.contains(signal) || [SIGHUP, SIGUSR1].contains(signal)));
}

/// The processes left by children whose supervisor had this one's control socket and is dead;
/// and whether there are processes whose environment can't be read just now.
fn left_of(own: &Own) -> io::Result<(BTreeMap<Mark, Vec<Process>>, bool)> {
    let mut all = descendants::all()?;
    all.retain(|process| !process.is_dead());
    let parents: BTreeMap<Pid, Pid> = all.iter().map(|process| (process.pid, process.parent)).collect();
    let session = getsid(None).unwrap_or(getpid());
    let mut around = BTreeSet::new();
    let mut next = Some(getpid());
    while let Some(pid) = next.filter(|pid| around.insert(*pid)) {
        next = parents.get(&pid).copied();
    }
    all.retain(|process| process.session != session && !around.contains(&process.pid));

    let mut supervised: BTreeMap<(Pid, u64), bool> = BTreeMap::new();
    let mut owners: BTreeMap<Pid, Mark> = BTreeMap::new();
    let mut unseen = false;
    let environments = Environments::of(&all)?;
    for process in &all {
        let Some(marks) = environments.marks(process.pid) else {
            // Kernel threads have no session; they don't count.
            unseen |= process.session.as_raw() != 0;
            continue;
        };
        for mark in marks.iter().cloned() {
            if mark.origin != own.origin || mark.supervisor == own.process {
                continue;
            }
            if let Entry::Vacant(entry) = supervised.entry(mark.supervisor) {
                entry.insert(mark.is_supervised()?);
            }
            if supervised.get(&mark.supervisor) == Some(&false) {
                owners.insert(process.pid, mark);
            }
        }
    }
    belonging(&all, &mut owners);
    let mut left: BTreeMap<Mark, Vec<Process>> = BTreeMap::new();
    for process in all {
        if let Some(mark) = owners.remove(&process.pid) {
            left.entry(mark).or_default().push(process);
        }
    }
    Ok((left, unseen))
}

/// Adds the processes below these, and those in their sessions.
fn belonging(all: &[Process], owners: &mut BTreeMap<Pid, Mark>) {
    loop {
        let of_session: BTreeMap<Pid, Mark> = all
            .iter()
            .filter(|process| process.session.as_raw() != 0)
            .filter_map(|process| Some((process.session, owners.get(&process.pid)?.clone())))
            .collect();
        let more: Vec<(Pid, Mark)> = all
            .iter()
            .filter(|process| !owners.contains_key(&process.pid))
            .filter_map(|process| {
                let mark = owners.get(&process.parent).or_else(|| of_session.get(&process.session))?;
                Some((process.pid, mark.clone()))
            })
            .collect();
        if more.is_empty() {
            return;
        }
        owners.extend(more);
    }
}
