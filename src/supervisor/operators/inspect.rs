//! What only the daemon knows of a child, for `plumbd status CHILD`. The command that shows it
//! looks at everything else by itself.

use crate::config::effective;
use crate::control::Response;
use crate::control::details::{End, Known};
use crate::control::entry::Entry;
use crate::journal;
use crate::journal::ring::Piece;
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::supervised::{Supervised, ended};
use crate::supervisor::operators::readers::entry;
use crate::sys::pipe;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

/// How many of its last log entries are sent.
const LINES: usize = 10;

impl Supervisor {
    /// Answers with what is known of these children.
    pub(super) fn inspect(&mut self, connection: u32, children: &[String]) {
        let Some((_, names)) = self.children_named(connection, children) else { return };
        self.figures.wall.look();
        let known: Vec<Known> =
            names.iter().filter_map(|name| self.children.named(name)).map(|child| self.known(child)).collect();
        for known in known {
            self.operators.server.answer(connection, &Response::Known(Box::new(known)));
        }
        self.operators.finish(Some(connection), 0);
    }

    fn known(&self, child: &Supervised) -> Known {
        let ends = child.last_ends.iter().map(|end| End {
            how: ended(end.exit),
            at: self.figures.wall.time(end.at),
            ran_ms: u64::try_from(end.ran.as_millis()).unwrap_or(u64::MAX),
            asked: end.asked,
            reason: end.reason.clone(),
            last_line: end.last_line.clone(),
        });
        Known {
            child: child.config.name.clone(),
            config: effective::child(self.model(), &child.config),
            ends: ends.collect(),
            lines: lines(&child.config.name),
            pipes: self.pipes(child),
        }
    }

    /// What the pipes are that this child was given.
    fn pipes(&self, child: &Supervised) -> BTreeMap<String, String> {
        let name = &child.config.name;
        let mut pipes = BTreeMap::new();
        let mut add = |fd: &OwnedFd, what: String| {
            if let Ok(name) = pipe::name(fd) {
                pipes.insert(name, what);
            }
        };
        add(&child.holdings.log.read, "log".to_owned());
        let mut into = BTreeMap::new();
        for held in self.kept.links.iter().filter(|held| held.config.from == *name || held.config.to == *name) {
            let title = held.config.title();
            // Several links may share the queue of an ordinary program.
            into.entry(&held.queue).or_insert((self.kept.links.queue(held), Vec::new())).1.push(title.clone());
            if let Some(intake) = &held.intake {
                add(&intake.intake.staging.read, format!("staging of {title}"));
            }
            if let Some(replies) = &held.replies {
                add(&replies.read, format!("replies of {title}"));
            }
        }
        for (queue, titles) in into.into_values() {
            add(&queue.read, format!("link {}", titles.join(", ")));
        }
        pipes
    }
}

/// The last entries of that child's log.
fn lines(name: &str) -> Vec<Entry> {
    let is_its = |child: &str| child == name;
    let mut lines = Vec::new();
    let mut cursor = journal::cursor(&is_its, Some(LINES), false);
    journal::read(&mut cursor, &is_its, |piece| {
        if let Piece::Entry(child, kept) = piece {
            lines.push(entry(child, kept));
        }
        true
    });
    lines
}
