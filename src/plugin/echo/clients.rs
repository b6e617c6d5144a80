//! All connections, and which of them has its turn next.

use super::client::{Client, Output};
use super::memory::{Memory, Needs};
use super::slots::{Id, Slots};
use std::collections::VecDeque;

/// The connections, and the lists of those that something is to be done for.
#[derive(Debug)]
pub(super) struct Clients {
    all: Slots<Client>,
    /// What all of them hold.
    pub(super) memory: Memory,
    /// Those whose turn comes in the next round, or when the outbox takes more: they have
    /// bytes that are in no message yet, or a socket that was not read empty.
    line: VecDeque<Id>,
    /// Those that an echo is due to.
    due: VecDeque<Id>,
}

impl Clients {
    pub(super) fn new(memory: Memory) -> Clients {
        Clients { all: Slots::new(), memory, line: VecDeque::new(), due: VecDeque::new() }
    }

    pub(super) fn insert(&mut self, client: Client) -> Id {
        self.all.insert(client)
    }

    /// The client, if it is still there.
    pub(super) fn get(&mut self, id: Id) -> Option<&mut Client> {
        self.all.get(id)
    }

    /// The client, and the memory that its buffer is from.
    pub(super) fn get_with_memory(&mut self, id: Id) -> Option<(&mut Client, &mut Memory)> {
        Some((self.all.get(id)?, &mut self.memory))
    }

    pub(super) fn contains(&self, id: Id) -> bool {
        self.all.contains(id)
    }

    /// Takes a client out. Its entries in the lists are skipped when they come up.
    pub(super) fn remove(&mut self, id: Id) -> Option<Client> {
        let mut client = self.all.remove(id)?;
        client.stream.end(&mut self.memory);
        Some(client)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn ids(&self) -> Vec<Id> {
        self.all.ids()
    }

    /// Has the client wait for its turn, behind all others.
    pub(super) fn stand_in_line(&mut self, id: Id) {
        let Some(client) = self.all.get(id) else { return };
        if !std::mem::replace(&mut client.lists.line, true) {
            self.line.push_back(id);
        }
    }

    /// How many have their turn next.
    pub(super) fn in_line(&self) -> usize {
        self.line.len()
    }

    /// The next one; it leaves the line.
    pub(super) fn next_in_line(&mut self) -> Option<Id> {
        let id = self.line.pop_front()?;
        if let Some(client) = self.all.get(id) {
            client.lists.line = false;
        }
        Some(id)
    }

    /// Has the client wait for as much memory, behind all others that do.
    pub(super) fn wait_for_memory(&mut self, id: Id, needs: Needs) {
        let Some(client) = self.all.get(id) else { return };
        if !std::mem::replace(&mut client.lists.memory, true) {
            self.memory.waiting.push(needs, id);
        }
    }

    /// The client's message was settled: its echo is due up to there.
    pub(super) fn release(&mut self, id: Id, end: u64) {
        let Some(client) = self.all.get(id) else { return };
        if client.output != Output::Gone {
            client.stream.release(end);
            if !std::mem::replace(&mut client.lists.due, true) {
                self.due.push_back(id);
            }
        }
    }

    /// The next one that an echo is due to; it leaves the list.
    pub(super) fn next_due(&mut self) -> Option<Id> {
        let id = self.due.pop_front()?;
        if let Some(client) = self.all.get(id) {
            client.lists.due = false;
        }
        Some(id)
    }
}
