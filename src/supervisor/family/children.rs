//! Every child, and what follows from their states alone.

use super::beside::Purpose;
use super::child::{State, Want};
use super::outcome::{Family, Seen};
use super::supervised::Supervised;
use crate::config::order::{self, Needs};
use crate::journal;
use crate::supervisor::poll::Id;
use crate::sys::process::Exit;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Every child.
#[derive(Debug, Default)]
pub(crate) struct Children {
    by_id: BTreeMap<Id, Box<Supervised>>,
    by_name: HashMap<String, Id>,
    pub(super) by_pid: HashMap<Pid, Id>,
    /// Processes of checks and hooks, each with the number of its start, as for a child's own process.
    pub(super) beside: HashMap<Pid, (Purpose, u64)>,
    /// The nearest deadline of each.
    timers: BTreeSet<(Instant, Id)>,
    /// Children whose process was reaped while others that it had started are not gone yet.
    pub(super) leaving: Vec<Leaving>,
    next_id: Id,
    /// Which children must be up before which.
    pub(crate) needs: Needs,
}

/// A child whose process was reaped, so its process id may be reused.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(super) id: Id,
    /// Its process group and session.
    pub(super) group: Pid,
    /// The number of its start.
    pub(super) number: u64,
    pub(super) exit: Exit,
    pub(super) until: Instant,
    pub(super) last: Instant,
}

impl Children {
    /// No children yet; `needs` says which must be up before which.
    pub(crate) fn new(needs: Needs) -> Children {
        Children { needs, ..Children::default() }
    }

    /// A number that no other child has had.
    pub(crate) fn next_id(&mut self) -> Id {
        self.next_id += 1;
        self.next_id
    }

    /// Adds a child.
    pub(crate) fn add(&mut self, id: Id, child: Box<Supervised>) {
        child.listen();
        journal::keep(&child.config.name, child.config.log_keep);
        self.by_name.insert(child.config.name.clone(), id);
        self.by_id.insert(id, child);
    }

    /// Removes a child.
    pub(crate) fn remove(&mut self, id: Id) -> Option<Box<Supervised>> {
        let child = self.by_id.remove(&id)?;
        self.by_name.remove(&child.config.name);
        if let Some(at) = child.timer {
            self.timers.remove(&(at, id));
        }
        Some(child)
    }

    /// The child of that number.
    pub(crate) fn get(&self, id: Id) -> Option<&Supervised> {
        self.by_id.get(&id).map(Box::as_ref)
    }

    /// The child of that number.
    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut Supervised> {
        self.by_id.get_mut(&id).map(Box::as_mut)
    }

    /// The number of the child of that name.
    pub(crate) fn id_of(&self, name: &str) -> Option<Id> {
        self.by_name.get(name).copied()
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.by_name.keys()
    }

    /// The child of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&Supervised> {
        self.by_name.get(name).and_then(|&id| self.get(id))
    }

    /// The child that has this process.
    pub(crate) fn of_process(&self, pid: Pid) -> Option<&Supervised> {
        self.by_pid.get(&pid).and_then(|&id| self.get(id))
    }

    /// All of them, in the order in which they were added.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Supervised> {
        self.by_id.values().map(Box::as_ref)
    }

    /// All of them, each with its number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id, &Supervised)> {
        self.by_id.iter().map(|(&id, child)| (id, child.as_ref()))
    }

    /// All of them, each with its number.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Id, &mut Supervised)> {
        self.by_id.iter_mut().map(|(&id, child)| (id, child.as_mut()))
    }

    /// The children of that name: an instance, or all instances of a child.
    pub(crate) fn ids_of(&self, name: &str) -> Vec<Id> {
        if let Some(&id) = self.by_name.get(name) {
            return vec![id];
        }
        let instance = |child: &str| child.rsplit_once('.').is_some_and(|(base, _)| base == name);
        self.by_id.iter().filter(|(_, c)| instance(&c.config.name)).map(|(&id, _)| id).collect()
    }

    /// Their names, as a sentence.
    pub(crate) fn known(&self) -> String {
        let names: Vec<&str> = self.all().map(|child| child.config.name.as_str()).collect();
        if names.is_empty() { "there is none".to_owned() } else { format!("there are {}", names.join(", ")) }
    }

    /// The longest time that one of them may take to stop when it is asked.
    pub(crate) fn longest_stop(&self) -> Duration {
        self.all().map(|child| child.config.policy.stop_timeout).max().unwrap_or_default()
    }

    /// Whether that process is a child's, or that of a check or a hook.
    pub(super) fn has(&self, pid: Pid) -> bool {
        self.by_pid.contains_key(&pid) || self.beside.contains_key(&pid)
    }

    /// The nearest deadline, and the child that has it.
    pub(crate) fn next_timer(&self) -> Option<(Instant, Id)> {
        self.timers.first().copied()
    }

    /// Notes the current deadline of that child.
    pub(crate) fn set_timer(&mut self, id: Id) {
        let Some(child) = self.by_id.get_mut(&id) else { return };
        let deadline = child.deadline();
        if deadline != child.timer {
            if let Some(at) = child.timer {
                self.timers.remove(&(at, id));
            }
            if let Some(at) = deadline {
                self.timers.insert((at, id));
            }
            child.timer = deadline;
        }
    }

    /// Whether its process was reaped while others that it had started are not gone yet.
    pub(crate) fn is_leaving(&self, id: Id) -> bool {
        self.leaving.iter().any(|leaving| leaving.id == id)
    }

    /// Whether no other process, such as another instance, has that child's listening sockets.
    pub(crate) fn is_alone(&self, id: Id) -> bool {
        let listens = |id: Id| self.get(id).map_or(&[][..], |child| &child.config.listen);
        let own = listens(id);
        let shares = |other: Id| listens(other).iter().any(|address| own.contains(address));
        own.is_empty()
            || !self.by_id.iter().any(|(&other, child)| other != id && child.machine.pid().is_some() && shares(other))
    }

    /// The children that wait, but only for others that are up.
    pub(crate) fn startable(&self) -> Vec<Id> {
        let waits = |child: &Supervised| child.machine.state == State::Waiting;
        let able = self.iter().filter(|(_, child)| waits(child) && self.may_start(&child.config.name));
        able.map(|(id, _)| id).collect()
    }

    /// The children that an operator stopped and whose sources are gone.
    pub(crate) fn stoppable(&self) -> Vec<Id> {
        let later = |child: &Supervised| child.machine.want == Want::HeldLater;
        if !self.all().any(later) {
            return Vec::new();
        }
        let needed_by = order::needed_by(&self.needs);
        let due = self.iter().filter(|(_, child)| self.may_stop(&child.config.name, &needed_by));
        due.map(|(id, _)| id).collect()
    }
}

impl Family for Children {
    fn child(&self, name: &str) -> Option<Seen<'_>> {
        let id = self.id_of(name)?;
        let child = self.get(id)?;
        Some(Seen {
            machine: &child.machine,
            stuck: child.stuck(),
            is_looked_for: child.held_back.is_open,
            is_reaped: self.is_leaving(id),
        })
    }

    fn needs(&self) -> &Needs {
        &self.needs
    }
}
