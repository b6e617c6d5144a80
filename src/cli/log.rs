//! `plumbd log`.

use super::socket::Socket;
use super::table::{Colour, Paper};
use super::{Failure, ask, output};
use crate::control::entry::{Entry, Level, Lost};
use crate::control::{Request, Response};
use crate::sys::text::counted;

/// Shows entries of the log as they come, until the daemon has no more.
pub(super) fn log(socket: &Socket, request: &Request, paper: Paper) -> Result<u8, Failure> {
    ask::follow(socket, request, |response| match response {
        Response::Entry(entry) => Some(shown(&entry, paper)),
        Response::Lost(lost) => {
            output::tell(&missed(&lost));
            None
        }
        _ => None,
    })
}

fn missed(lost: &Lost) -> String {
    let (entries, child) = (counted(lost.entries, "entry", "entries"), &lost.child);
    format!("plumbd: {entries} of {child} went before they could be read: raise log_keep, or see the daemon's log")
}

/// An entry as the daemon's own log has it.
fn shown(entry: &Entry, paper: Paper) -> String {
    let Entry { at, child, level, text, .. } = entry;
    let colour = match level {
        Level::Error => Colour::Bad,
        Level::Warn => Colour::Wait,
        Level::Info => Colour::None,
        Level::Debug => Colour::Quiet,
    };
    let time = paper.paint(Colour::Quiet, &format!("{at:.3}"));
    let level = paper.paint(colour, &level.to_string());
    format!("{time} {level} {}: {}\n", paper.name(child), paper.paint(colour, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(level: Level) -> Entry {
        let at = "2026-11-22T15:04:05.123456Z".parse().unwrap();
        Entry { seq: 1, at, child: "echo".to_owned(), level, text: "no room".to_owned() }
    }

    #[test]
    fn an_entry_looks_as_it_does_in_the_log() {
        let paper = Paper { width: None, colours: false };
        assert_eq!(shown(&entry(Level::Error), paper), "2026-11-22T15:04:05.123Z ERROR echo: no room\n");
    }

    #[test]
    fn on_a_terminal_each_child_has_a_colour_of_its_own_and_trouble_stands_out() {
        let paper = Paper { width: Some(80), colours: true };
        let line = shown(&entry(Level::Error), paper);
        assert!(line.contains("\x1b[1;31mno room\x1b[0m"), "{line:?}");
        assert_ne!(paper.name("echo"), paper.name("logger"));
        assert_eq!(paper.name("echo"), paper.name("echo"));
    }

    #[test]
    fn what_was_missed_is_counted() {
        let lost = Lost { child: "echo".to_owned(), entries: 2 };
        assert!(missed(&lost).starts_with("plumbd: 2 entries of echo went"));
    }
}
