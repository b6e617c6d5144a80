//! Strays, the processes that a child started and left behind, end with the child.
//!
//! The supervisor is the subreaper of all of its children. So whatever a dead child has
//! left is, or is below, an orphan: a process that has become a child of the supervisor
//! without having been started by it. After each death the list of this process's
//! children is read once; if all of them are known, nothing was left.
//!
//! Only orphans are ever sent a signal, not the processes below them: an orphan's process
//! id can't be reused until this process reaps it, so no other process can be hit. A
//! process below an orphan becomes one itself as soon as its parent is dead.
//!
//! The first of these signs that applies decides which child an orphan belongs to:
//!
//! | sign | it belongs to |
//! |---|---|
//! | it is in the session of a child, of a check or of a hook | that child, check or hook |
//! | its environment has one of this supervisor's marks ([`mark`](crate::supervisor::family::mark)) | the child, check or hook whose start that was |
//! | it holds the log pipe or the notification socket of a child that ended | that child |
//! | it is older than every living child | some child that ended |
//!
//! An orphan with none of these signs is left alone until the last child that may have
//! started it has ended. The last sign does not count if processes other than descendants
//! of children may become orphans: if the supervisor is the first process of a pid
//! namespace, or had children when it began.

use crate::supervisor::family::children::Children;
use crate::supervisor::family::environments::Environments;
use crate::supervisor::family::mark::Own;
use crate::sys::descendants::{self, Process};
use crate::sys::process;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpid};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;

/// Orphans that keep starting others and ending may be hit only by looking again at once.
/// After this many times, everything else gets its turn first.
const LOOKS: usize = 32;

/// Which child an orphan belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    /// The child whose start has that number.
    Start(u64),
    /// Some child that has ended.
    Ended,
}

/// What is known of orphans.
#[derive(Debug)]
pub(crate) struct Strays {
    /// `None`: /proc can't be used.
    list: Option<descendants::Children>,
    own: Own,
    session: Pid,
    /// Children that this process had when it began; they are not strays.
    foreign: BTreeSet<Pid>,
    /// Whether every orphan is a descendant of a child.
    all_are_descendants: bool,
    /// Orphans that were looked at, until they are reaped.
    owners: HashMap<Pid, Owner>,
    /// Orphans that were sent SIGKILL.
    killed: HashSet<Pid>,
    /// Orphans that SIGKILL has not ended in time; they are no longer waited for.
    given_up: HashSet<Pid>,
    /// Orphans whose environment has no mark, or could not be read for too long; it is not
    /// read again.
    unmarked: HashSet<Pid>,
    /// The environments that were read last.
    seen: Environments,
}

/// The orphans that are not gone yet, by the child that they belong to.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pids: BTreeMap<Owner, Vec<Pid>>,
    /// Owners with orphans that were only just seen, and sent SIGKILL.
    new: BTreeSet<Owner>,
    /// Orphans that may belong to a child that has ended, but can't be looked at just now.
    unclear: BTreeSet<Pid>,
    /// Orphans that were dead when they were looked at: what they had started may have
    /// become an orphan only after the list was read.
    dead: BTreeSet<Pid>,
}

impl Left {
    /// Whether something is left of that start, or may be.
    pub(crate) fn is_of(&self, number: u64) -> bool {
        !self.unclear.is_empty() || owners(number).any(|owner| self.pids.contains_key(&owner))
    }

    /// Whether more orphans of that start were found just now.
    pub(crate) fn is_new(&self, number: u64) -> bool {
        owners(number).any(|owner| self.new.contains(&owner))
    }

    /// What is left of that start, including orphans that belong to some unknown child
    /// that ended.
    pub(crate) fn of(&self, number: u64) -> Vec<Pid> {
        owners(number).filter_map(|owner| self.pids.get(&owner)).flatten().copied().collect()
    }

    /// The orphans whose owner is not known yet.
    pub(crate) fn unclear(&self) -> impl Iterator<Item = Pid> {
        self.unclear.iter().copied()
    }
}

fn owners(number: u64) -> impl Iterator<Item = Owner> {
    [Owner::Start(number), Owner::Ended].into_iter()
}

impl Strays {
    /// For a supervisor that has started nothing yet, whose control socket is at that
    /// [origin](crate::supervisor::family::mark::origin).
    ///
    /// # Errors
    /// The children of this process can't be listed.
    pub(crate) fn new(origin: String) -> Result<Strays, String> {
        let own = Own::new(origin)?;
        let mut list = descendants::Children::open()
            .inspect_err(|error| {
                log::warn!("cannot find what children leave behind outside of their process groups: {error}");
            })
            .ok();
        let mut foreign = BTreeSet::new();
        if let Some(list) = &mut list {
            list.read().map_err(|e| format!("cannot list the children of this process: {e}"))?;
            foreign.extend(list.pids());
        }
        let all_are_descendants = foreign.is_empty() && getpid().as_raw() != 1;
        let session = nix::unistd::getsid(None).unwrap_or(Pid::from_raw(0));
        let (owners, killed, given_up, unmarked) = (HashMap::new(), HashSet::new(), HashSet::new(), HashSet::new());
        let seen = Environments::default();
        Ok(Strays { list, own, session, foreign, all_are_descendants, owners, killed, given_up, unmarked, seen })
    }

    /// Whether /proc can be used.
    pub(crate) fn can_look(&self) -> bool {
        self.list.is_some()
    }

    /// What makes and recognizes this supervisor's marks.
    pub(crate) fn own(&mut self) -> &mut Own {
        &mut self.own
    }

    /// Forgets a process that was reaped, because its process id may be reused soon. Returns
    /// whether it was a stray, so that what it had started is one now.
    pub(crate) fn reaped(&mut self, pid: Pid) -> bool {
        self.foreign.remove(&pid);
        self.owners.remove(&pid);
        let was_killed = self.killed.remove(&pid);
        self.given_up.remove(&pid);
        self.unmarked.remove(&pid);
        self.seen = Environments::default();
        was_killed
    }

    /// Stops waiting for these orphans.
    pub(crate) fn give_up(&mut self, pids: &[Pid]) {
        self.given_up.extend(pids);
    }

    /// Stops trying to read the environments of these orphans, except of those that hang:
    /// theirs may be readable later.
    pub(crate) fn give_up_unclear(&mut self, pids: impl IntoIterator<Item = Pid>) {
        let hangs = |pid: &Pid| matches!(Process::look(*pid), Ok(Some(process)) if process.state == 'D');
        self.unmarked.extend(pids.into_iter().filter(|pid| !hangs(pid)));
    }

    /// This process's children except those that are known, `count` of them, all of which are
    /// its children.
    fn orphans(&mut self, count: usize, is_known: impl Fn(Pid) -> bool) -> Vec<Pid> {
        let Some(list) = &mut self.list else { return Vec::new() };
        match list.read() {
            // Usually there are no orphans, and then nothing needs to be looked up.
            Ok(all) if all == count + self.foreign.len() => Vec::new(),
            Ok(_) => list.pids().filter(|pid| !is_known(*pid) && !self.foreign.contains(pid)).collect(),
            Err(error) => {
                log::error!("cannot look for what children have left behind: {error}");
                Vec::new()
            }
        }
    }

    /// Kills an orphan and its group. Returns whether this was its first SIGKILL.
    fn kill(&mut self, process: &Process) -> bool {
        let pid = process.pid;
        if process.session != self.session {
            // A group belongs to one session, and so to one child. A process that is being
            // started in it is hit too, because fork(2) waits for signals to a group.
            let _none_left = killpg(process.group, Signal::SIGKILL);
        }
        if process.is_dead() || !self.killed.insert(pid) {
            return false;
        }
        match kill(pid, Signal::SIGKILL) {
            Ok(()) => log::debug!("killed process {pid} ({}), which a child had left behind", process.name()),
            Err(errno) => log::error!(
                "cannot kill process {pid} ({}), which a child has left behind: {}",
                process.name(),
                errno.desc()
            ),
        }
        true
    }

    /// Kills all orphans, now that all children are down. Returns whether there are any.
    pub(crate) fn kill_all(&mut self) -> bool {
        if self.list.is_none() {
            return process::has_children();
        }
        let mut any = false;
        for pid in self.orphans(0, |_| false) {
            // If it can't be looked at just now, the caller tries again.
            let Ok(process) = Process::look(pid) else { return true };
            let Some(process) = process else { continue };
            // No process in this session belongs to a child, because each child begins a
            // session of its own.
            if process.session != self.session {
                any = true;
                self.kill(&process);
            }
        }
        any
    }
}

impl Strays {
    /// Kills what children that ended have left behind.
    pub(crate) fn kill_left(&mut self, children: &Children) -> Left {
        let (mut new, mut dead) = (BTreeSet::new(), BTreeSet::new());
        let mut left = Left::default();
        for _ in 0..=LOOKS {
            left = self.look(children);
            if left.new.is_empty() && left.dead.is_subset(&dead) {
                break;
            }
            new.append(&mut left.new);
            dead.append(&mut left.dead);
        }
        Left { new, ..left }
    }

    fn look(&mut self, children: &Children) -> Left {
        let orphans = self.orphans(children.by_pid.len() + children.beside.len(), |pid| children.has(pid));
        let mut left = Left::default();
        if orphans.is_empty() {
            return left;
        }
        let living = children.by_pid.values().filter_map(|&id| children.get(id)).map(|child| child.number);
        let living: HashSet<u64> = living.chain(children.beside.values().map(|&(_, number)| number)).collect();
        self.read_environments(&orphans, children);
        for pid in orphans {
            let known = self.owners.get(&pid).copied();
            let is_of_living = |owner: &Owner| matches!(owner, Owner::Start(number) if living.contains(number));
            if known.as_ref().is_some_and(is_of_living) {
                continue;
            }
            let is_waited_for = !self.given_up.contains(&pid);
            let seen = self.owner(pid, known, children);
            if matches!(&seen, Ok(Some((process, _))) if process.is_dead()) {
                left.dead.insert(pid);
            }
            let (process, owner) = match seen {
                Ok(Some((process, Some(owner)))) => (process, owner),
                Ok(_) => continue,
                Err(error) => {
                    log::debug!("cannot look at process {pid}, which a child has left behind: {error}");
                    // Another look may be able to tell.
                    left.unclear.extend(is_waited_for.then_some(pid));
                    continue;
                }
            };
            self.owners.insert(pid, owner);
            if is_of_living(&owner) {
                continue;
            }
            if is_waited_for {
                left.pids.entry(owner).or_default().push(pid);
            }
            if self.kill(&process) {
                left.new.insert(owner);
            }
        }
        left
    }

    /// Reads the environments of all orphans of which nothing is known yet, all at once.
    fn read_environments(&mut self, orphans: &[Pid], children: &Children) {
        let strays = &*self;
        let is_new = |pid: &&Pid| !strays.owners.contains_key(pid) && !strays.unmarked.contains(pid);
        let new: Vec<Process> =
            orphans.iter().filter(is_new).filter_map(|pid| Process::look(*pid).ok().flatten()).collect();
        let of_nobody_yet = |process: &Process| {
            !children.has(process.session)
                && !children.leaving.iter().any(|leaving| leaving.group == process.session)
                && process.session != strays.session
        };
        let new: Vec<Process> = new.into_iter().filter(of_nobody_yet).collect();
        // If that fails, each one is tried by itself.
        self.seen = if new.is_empty() { Environments::default() } else { Environments::of(&new).unwrap_or_default() };
    }

    /// That orphan, if it is not gone, and its owner; the owner is `None` if it may belong to
    /// one of several children.
    fn owner(
        &mut self,
        pid: Pid,
        known: Option<Owner>,
        children: &Children,
    ) -> io::Result<Option<(Process, Option<Owner>)>> {
        let Some(process) = Process::look(pid)? else { return Ok(None) };
        let owner = match known {
            Some(owner) => Some(owner),
            None => self.seen_owner(&process, children)?,
        };
        Ok(Some((process, owner)))
    }

    /// Whether that orphan, a child of this process, belongs to the start of that number.
    pub(crate) fn is_orphan_of(&mut self, orphan: &Process, number: u64, children: &Children) -> io::Result<bool> {
        if self.foreign.contains(&orphan.pid) || children.has(orphan.pid) {
            return Ok(false);
        }
        let known = self.owners.get(&orphan.pid).copied();
        let owner = if known.is_some() { known } else { self.seen_owner(orphan, children)? };
        if let Some(owner) = owner {
            self.owners.insert(orphan.pid, owner);
        }
        Ok(owner == Some(Owner::Start(number)))
    }

    fn seen_owner(&mut self, process: &Process, children: &Children) -> io::Result<Option<Owner>> {
        if let Some(child) = children.of_process(process.session) {
            return Ok(Some(Owner::Start(child.number)));
        }
        if let Some(&(_, number)) = children.beside.get(&process.session) {
            return Ok(Some(Owner::Start(number)));
        }
        if let Some(leaving) = children.leaving.iter().find(|leaving| leaving.group == process.session) {
            return Ok(Some(Owner::Start(leaving.number)));
        }
        if process.session == self.session {
            return Ok(None);
        }
        if !self.unmarked.contains(&process.pid) && !self.seen.has(process.pid) {
            self.seen = match Environments::of(std::slice::from_ref(process)) {
                Ok(seen) => seen,
                // No more processes can be started, perhaps because of those that are to be ended.
                Err(_) => Environments::here(process)?,
            };
        }
        let marks = self.seen.marks(process.pid).map(<[_]>::to_vec);
        let marks = marks.as_deref();
        if marks.is_some_and(<[_]>::is_empty) {
            self.unmarked.insert(process.pid);
        }
        if let Some(number) = self.own.number(marks.unwrap_or_default()) {
            return Ok(Some(Owner::Start(number)));
        }
        for leaving in &children.leaving {
            let Some(child) = children.get(leaving.id) else { continue };
            let notify = child.holdings.notify.as_ref().map(|socket| (**socket).as_fd());
            let mut files = Vec::new();
            for fd in [Some(child.holdings.log.write.as_fd()), notify].into_iter().flatten() {
                let file = nix::sys::stat::fstat(fd)?;
                files.push((file.st_dev, file.st_ino));
            }
            if process.holds(&files)? {
                return Ok(Some(Owner::Start(leaving.number)));
            }
        }
        let mut is_open = !self.all_are_descendants;
        let mut living = children.by_pid.keys();
        while let (false, Some(pid)) = (is_open, living.next()) {
            is_open = Process::look(*pid)?.is_none_or(|child| child.start <= process.start);
        }
        match marks {
            // Its memory is locked: by the process itself, for example while it forks, or by
            // one of its threads that hangs.
            None if is_open => Err(io::Error::other("its environment can't be read just now")),
            _ => Ok((!is_open).then_some(Owner::Ended)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_waits_for_its_own_strays_and_not_for_others() {
        let [one, two, three, four] = [1, 2, 3, 4].map(Pid::from_raw);
        let left = Left {
            pids: BTreeMap::from([(Owner::Start(7), vec![one, two]), (Owner::Start(8), vec![three])]),
            new: BTreeSet::from([Owner::Start(8)]),
            ..Left::default()
        };
        assert_eq!([7, 8, 9].map(|number| left.is_of(number)), [true, true, false]);
        assert_eq!([7, 8, 9].map(|number| left.is_new(number)), [false, true, false]);
        assert_eq!([7, 8, 9].map(|number| left.of(number)), [vec![one, two], vec![three], vec![]]);

        let left = Left { unclear: BTreeSet::from([four]), ..Left::default() };
        assert!(left.is_of(7), "it may belong to that start");
        assert_eq!((left.of(7), left.is_new(7)), (vec![], false));
        assert_eq!(left.unclear().collect::<Vec<_>>(), [four]);

        let left = Left {
            pids: BTreeMap::from([(Owner::Ended, vec![four])]),
            new: BTreeSet::from([Owner::Ended]),
            ..Left::default()
        };
        assert_eq!((left.is_of(7), left.is_new(7), left.of(7)), (true, true, vec![four]));
    }
}
