//! All connections, and whose turn is next.

use super::client::{Client, Output};
use super::memory::{Memory, Needs};
use super::slots::{Id, Slots};
use std::collections::VecDeque;

/// The lists that a client is in, each at most once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lists {
    line: bool,
    memory: bool,
    due: bool,
}

impl Lists {
    /// Whether the client waits for its turn.
    pub(super) fn in_line(self) -> bool {
        self.line
    }
}

/// The connections, and the lists of those that need something done.
#[derive(Debug)]
pub(super) struct Clients {
    all: Slots<Client>,
    /// The memory that they hold together.
    pub(super) memory: Memory,
    /// Those whose turn comes in the next round, or when the outbox takes more. They have
    /// bytes that are not in a message yet, or a socket that was not read until empty.
    line: VecDeque<Id>,
    /// Those that are due an echo.
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

    /// The client, and the memory that its buffer belongs to.
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

    /// Puts the client at the end of the line.
    pub(super) fn stand_in_line(&mut self, id: Id) {
        let Some(client) = self.all.get(id) else { return };
        if !std::mem::replace(&mut client.lists.line, true) {
            self.line.push_back(id);
        }
    }

    /// How many clients are in line.
    pub(super) fn in_line(&self) -> usize {
        self.line.len()
    }

    /// Takes the first client out of the line.
    pub(super) fn next_in_line(&mut self) -> Option<Id> {
        let id = self.line.pop_front()?;
        if let Some(client) = self.all.get(id) {
            client.lists.line = false;
        }
        Some(id)
    }

    /// Puts the client at the end of the line for this much memory.
    pub(super) fn wait_for_memory(&mut self, id: Id, needs: Needs) {
        let Some(client) = self.all.get(id) else { return };
        if !std::mem::replace(&mut client.lists.memory, true) {
            self.memory.waiting.push(needs, id);
        }
    }

    /// Takes the first client out of that line for memory if there is enough for it now, and
    /// returns whether it is to be read. A client that has room now, or will have when its
    /// own echoes leave, is taken out without being read.
    pub(super) fn next_for_memory(&mut self, line: usize) -> Option<(Id, bool)> {
        let Clients { all, memory, .. } = self;
        let id = memory.waiting.first(line)?;
        let mut reads = false;
        if let Some(client) = all.get(id) {
            reads = client.reading.lacks_memory() && !client.stream.is_under_way();
            if reads {
                match client.stream.needs(memory) {
                    needs if memory.has(needs) => {}
                    Needs::More(_) if client.stream.lengthen(memory) => {}
                    _ => return None,
                }
                client.reading.on_memory();
            }
            client.lists.memory = false;
        }
        memory.waiting.pop(line);
        Some((id, reads))
    }

    /// The client's message was settled, so its echo is due up to `end`.
    pub(super) fn release(&mut self, id: Id, end: u64) {
        let Some(client) = self.all.get(id) else { return };
        if client.output != Output::Gone {
            client.stream.release(end);
            if !std::mem::replace(&mut client.lists.due, true) {
                self.due.push_back(id);
            }
        }
    }

    /// Takes the next client that is due an echo off the list.
    pub(super) fn next_due(&mut self) -> Option<Id> {
        let id = self.due.pop_front()?;
        if let Some(client) = self.all.get(id) {
            client.lists.due = false;
        }
        Some(id)
    }
}
