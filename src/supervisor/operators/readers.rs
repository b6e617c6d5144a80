//! Operators who read what comes: `plumbd log` and `plumbd events`.
//!
//! Nothing is queued for a reader. It gets as much as it takes from what is kept anyway, so
//! one that does not read holds up nobody, and learns afterwards what it missed.

use super::Operators;
use crate::config::model::base_name;
use crate::control::Response;
use crate::control::entry::{Entry, Lost};
use crate::journal;
use crate::journal::ring::{Cursor, Kept, Piece};
use crate::supervisor::events::Events;
use std::time::{Duration, Instant};

/// A reader gets more once less than this waits for it, in bytes.
const AHEAD: usize = 64 << 10;
/// How long readers may take for what is left when the daemon ends.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// An operator who reads.
#[derive(Debug)]
pub(super) struct Reader {
    connection: u32,
    reads: Reads,
    /// The number of the first entry or event that it has not been offered; `None`: it has
    /// not read all that there was.
    seen: Option<u64>,
}

/// What an operator reads.
#[derive(Debug)]
enum Reads {
    Log {
        /// The names of children, as they were given; none: all of them, and the daemon.
        names: Vec<String>,
        cursor: Cursor,
        follows: bool,
    },
    Events {
        /// The name of a child, as it was given; `None`: all of them, and the daemon.
        child: Option<String>,
        next: u64,
    },
}

/// Whether a child of that name is meant, which may be an instance.
fn is_called(name: &str, child: &str) -> bool {
    name == child || name == base_name(child)
}

fn wanted(names: &[String], speaker: &str) -> bool {
    names.is_empty() || names.iter().any(|name| is_called(name, speaker))
}

impl Reads {
    /// The number of the next entry or event that will come.
    fn end(&self, events: &Events) -> u64 {
        match self {
            Reads::Log { .. } => journal::next_seq(),
            Reads::Events { .. } => events.next(),
        }
    }

    /// Hands on lines until there is no room for more. Returns whether all was read.
    fn read(&mut self, events: &Events, mut line: impl FnMut(&Response) -> bool) -> bool {
        match self {
            Reads::Log { names, cursor, .. } => {
                journal::read(cursor, &|speaker| wanted(names, speaker), |piece| line(&response(piece)))
            }
            Reads::Events { child, next } => {
                while let Some((event, after)) = events.read(*next) {
                    *next = after;
                    // That events are lost concerns everybody: it is not known whose they were.
                    let is_wanted = match (&child, &event.about.child, &event.about.from) {
                        (None, _, _) => true,
                        (Some(name), Some(child), from) => {
                            is_called(name, child) || from.as_ref().is_some_and(|from| is_called(name, from))
                        }
                        (Some(_), None, _) => event.about.count.is_some(),
                    };
                    if is_wanted && !line(&Response::Event(event)) {
                        return false;
                    }
                }
                true
            }
        }
    }

    fn goes_on(&self) -> bool {
        match self {
            Reads::Log { follows, .. } => *follows,
            Reads::Events { .. } => true,
        }
    }
}

impl Operators {
    /// Somebody wants to read the log.
    pub(crate) fn read_log(&mut self, connection: u32, names: Vec<String>, lines: Option<usize>, follows: bool) {
        let cursor = journal::cursor(&|speaker| wanted(&names, speaker), lines, follows);
        self.readers.push(Reader { connection, reads: Reads::Log { names, cursor, follows }, seen: None });
    }

    /// Somebody wants to read events, from that number on.
    pub(crate) fn read_events(&mut self, connection: u32, child: Option<String>, next: u64) {
        self.readers.push(Reader { connection, reads: Reads::Events { child, next }, seen: None });
    }

    /// Hands on what came meanwhile to those who read it.
    pub(crate) fn feed_readers(&mut self, events: &Events) {
        if self.readers.is_empty() {
            return;
        }
        let mut readers = std::mem::take(&mut self.readers);
        readers.retain_mut(|reader| self.feed(reader, events));
        self.readers = readers;
    }

    /// Whether some reader has not read all that there is, although it takes more. Nothing else
    /// would have the loop come back to it, because its socket took all that it was given.
    pub(crate) fn has_hungry_reader(&self) -> bool {
        let takes_more = |reader: &Reader| self.server.unread(reader.connection).is_some_and(|waiting| waiting < AHEAD);
        self.readers.iter().any(|reader| reader.seen.is_none() && takes_more(reader))
    }

    /// Feeds one reader; whether it may want more later.
    fn feed(&mut self, reader: &mut Reader, events: &Events) -> bool {
        let connection = reader.connection;
        let Some(waiting) = self.server.unread(connection) else { return false };
        let end = reader.reads.end(events);
        if reader.seen == Some(end) {
            return true;
        }
        let mut bytes = Vec::new();
        let all = waiting < AHEAD
            && reader.reads.read(events, |response| {
                bytes.extend_from_slice(&response.line());
                waiting + bytes.len() < AHEAD
            });
        reader.seen = all.then_some(end);
        let done = all && !reader.reads.goes_on();
        if done {
            bytes.extend_from_slice(&Response::Exit(0).line());
        }
        if !bytes.is_empty() {
            self.server.send(connection, &bytes, done);
            self.watch(connection);
        }
        !done
    }

    /// The daemon ends: nothing more will come. Readers have a moment to take what is left, unless
    /// it ends `at_once`. One that does not take all of it gets no last word, so its command knows
    /// that it lacks some.
    pub(crate) fn end_readers(&mut self, events: &Events, at_once: bool) {
        let until = Instant::now() + if at_once { Duration::ZERO } else { LAST_MOMENT };
        let mut told = Vec::new();
        loop {
            self.feed_readers(events);
            if self.has_hungry_reader() {
                continue;
            }
            let readers = std::mem::take(&mut self.readers);
            let (all, some): (Vec<Reader>, Vec<Reader>) = readers.into_iter().partition(|reader| reader.seen.is_some());
            self.readers = some;
            for reader in all {
                self.finish(Some(reader.connection), 0);
                told.push(reader.connection);
            }
            let all = told.iter().copied().chain(self.readers.iter().map(|reader| reader.connection));
            let behind: Vec<u32> = all.filter(|&id| self.server.unread(id).is_some_and(|bytes| bytes > 0)).collect();
            if !self.server.write_later(&behind, until) {
                return;
            }
        }
    }
}

fn response(piece: Piece<'_>) -> Response {
    match piece {
        Piece::Entry(child, kept) => Response::Entry(entry(child, kept)),
        Piece::Lost(child, entries) => Response::Lost(Lost { child: child.to_owned(), entries }),
    }
}

/// An entry as it is sent.
pub(super) fn entry(child: &str, kept: &Kept) -> Entry {
    Entry {
        seq: kept.seq,
        at: kept.at,
        child: child.to_owned(),
        level: kept.level().into(),
        text: kept.text.to_string(),
    }
}
