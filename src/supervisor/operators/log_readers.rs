//! Operators who read the log: `plumbd log`.
//!
//! Nothing is queued for a reader. It gets as much as it takes from the [rings](crate::journal),
//! so one that does not read holds up nobody, and learns afterwards what it missed.

use super::Operators;
use crate::config::model::base_name;
use crate::control::Response;
use crate::control::entry::{Entry, Lost};
use crate::journal;
use crate::journal::ring::{Cursor, Piece};

/// A reader gets more once less than this waits for it, in bytes.
const AHEAD: usize = 64 << 10;

/// An operator who reads the log.
#[derive(Debug)]
pub(super) struct LogReader {
    connection: u32,
    /// The names of children, as they were given; none: all of them, and the daemon.
    names: Vec<String>,
    cursor: Cursor,
    follows: bool,
    /// The number of the first entry that it has not been offered; `None`: it has not read
    /// all that there was.
    seen: Option<u64>,
}

fn wanted(names: &[String], speaker: &str) -> bool {
    names.is_empty() || names.iter().any(|name| name == speaker || name == base_name(speaker))
}

impl Operators {
    /// Somebody wants to read the log.
    pub(crate) fn read_log(&mut self, connection: u32, names: Vec<String>, lines: Option<usize>, follows: bool) {
        let cursor = journal::cursor(&|speaker| wanted(&names, speaker), lines, follows);
        self.log_readers.push(LogReader { connection, names, cursor, follows, seen: None });
    }

    /// Hands on what was logged meanwhile to those who read it.
    pub(crate) fn feed_log_readers(&mut self) {
        if self.log_readers.is_empty() {
            return;
        }
        let next = journal::next_seq();
        let mut readers = std::mem::take(&mut self.log_readers);
        readers.retain_mut(|reader| reader.seen == Some(next) || self.feed(reader, next));
        self.log_readers = readers;
    }

    /// Feeds one reader; whether it may want more later.
    fn feed(&mut self, reader: &mut LogReader, next: u64) -> bool {
        let connection = reader.connection;
        let Some(waiting) = self.server.unread(connection) else { return false };
        let mut bytes = Vec::new();
        let names = &reader.names;
        let all = waiting < AHEAD
            && journal::read(&mut reader.cursor, &|speaker| wanted(names, speaker), |piece| {
                bytes.extend_from_slice(&response(piece).line());
                waiting + bytes.len() < AHEAD
            });
        reader.seen = all.then_some(next);
        let done = all && !reader.follows;
        if done {
            bytes.extend_from_slice(&Response::Exit(0).line());
        }
        if !bytes.is_empty() {
            self.server.send(connection, &bytes, done);
            self.watch(connection);
        }
        !done
    }

    /// The daemon ends, and so does its log.
    pub(crate) fn end_log_readers(&mut self) {
        self.feed_log_readers();
        for reader in std::mem::take(&mut self.log_readers) {
            self.finish(Some(reader.connection), 0);
        }
    }
}

fn response(piece: Piece<'_>) -> Response {
    match piece {
        Piece::Entry(child, kept) => Response::Entry(Entry {
            seq: kept.seq,
            at: kept.at,
            child: child.to_owned(),
            level: kept.level().into(),
            text: kept.text.to_string(),
        }),
        Piece::Lost(child, entries) => Response::Lost(Lost { child: child.to_owned(), entries }),
    }
}
