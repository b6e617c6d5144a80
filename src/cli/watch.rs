//! `plumbd status --watch`.

use super::output::{self, Reader};
use super::status::{Look, Subject, line};
use super::{Failure, screen};
use std::io::IsTerminal;
use std::time::Duration;

/// How often it is refreshed.
const EVERY: Duration = Duration::from_secs(1);

/// Shows the status again and again, until nobody reads it any more or a signal comes. If
/// the daemon ends, it goes on, because someone who watches wants to see it come back.
pub(super) fn watch(subject: &Subject, first: Look, json: bool) -> Result<u8, Failure> {
    if !json && std::io::stdout().is_terminal() {
        return in_place(subject, first);
    }
    let mut seen: Result<Look, Failure> = Ok(first);
    loop {
        let text = match &seen {
            Ok(Look { status, .. }) if json => line(status),
            // With an empty line between one table and the next.
            Ok(Look { status, .. }) => subject.shown(status).print + "\n",
            Err(failure) => {
                output::tell(&failure.to_string());
                String::new()
            }
        };
        if output::print(text)? == Reader::Gone || output::wait(EVERY) == Reader::Gone {
            return Ok(0);
        }
        seen = subject.look(seen.as_ref().ok());
    }
}

/// On a terminal: one page, refreshed in place.
fn in_place(subject: &Subject, first: Look) -> Result<u8, Failure> {
    let mut screen = screen::Screen::enter()?;
    let mut seen: Result<Look, Failure> = Ok(first);
    loop {
        let text = || match &seen {
            Ok(Look { status, .. }) => subject.shown(status).watch,
            Err(failure) => format!("{failure}\nlooking again each second; Ctrl-C ends\n"),
        };
        screen.show(&text())?;
        while let screen::Woken::Redraw = screen.wait(EVERY)? {
            screen.show(&text())?;
        }
        seen = subject.look(seen.as_ref().ok());
    }
}
