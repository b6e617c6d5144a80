//! The terminal's alternate screen. The terminal is restored at the end, at an
//! error, and at every signal that ends or halts this process.

use super::Failure;
use super::output;
use crate::sys::cause::cause;
use crate::sys::signals::Signals;
use nix::errno::Errno;
use nix::libc::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use terminal_size::terminal_size;

/// Shows the alternate screen, hides the cursor, and turns line wrapping off.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
/// Undoes [`ENTER`].
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// The height of a terminal if it is unknown.
const ROWS: usize = 24;

/// The alternate screen, while it is shown.
#[derive(Debug)]
pub(super) struct Screen {
    signals: Signals,
}

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// The time has passed.
    Time,
    /// The screen has another size, or was not shown for a while.
    Redraw,
}

impl Screen {
    /// Switches to the alternate screen.
    ///
    /// # Errors
    /// Signals can't be caught, or the terminal can't be written to.
    pub(super) fn enter() -> Result<Screen, Failure> {
        let signals = Signals::catch(&[SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH])
            .map_err(|e| format!("cannot catch signals: {}", cause(&e)))?;
        let screen = Screen { signals };
        output::print(ENTER)?;
        Ok(screen)
    }

    /// Shows a text from the top left, as much of it as there are rows.
    ///
    /// # Errors
    /// The terminal can't be written to.
    pub(super) fn show(&mut self, text: &str) -> Result<(), Failure> {
        let rows = terminal_size().map_or(ROWS, |(_, height)| usize::from(height.0));
        output::print(placed(text, rows))?;
        Ok(())
    }

    /// Waits this long, or until the screen must be redrawn. At a signal that ends a
    /// process, restores the terminal and ends by that signal.
    ///
    /// # Errors
    /// From poll(2).
    pub(super) fn wait(&mut self, time: Duration) -> Result<Woken, Failure> {
        let end = Instant::now() + time;
        loop {
            for signal in self.signals.pending().collect::<Vec<_>>() {
                match signal {
                    SIGWINCH => return Ok(Woken::Redraw),
                    SIGCONT => {
                        output::print(ENTER)?;
                        return Ok(Woken::Redraw);
                    }
                    // The process ends here, or halts and continues at SIGCONT.
                    other => {
                        leave();
                        let _ended = signal_hook::low_level::emulate_default_handler(other);
                    }
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Woken::Time);
            }
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let mut watched = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(Failure::from(format!("cannot wait: {}", error.desc()))),
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn leave() {
    // A terminal that is gone needs no restoring.
    let _gone = output::print(LEAVE);
}

/// Writes a text over what was there before. Each line is cleared before it is written,
/// not after: after a line as wide as the screen, the cursor is still on its last letter.
fn placed(text: &str, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let shown = match lines.len() {
        all if all <= rows => lines,
        _ => lines[..rows.saturating_sub(1)].iter().copied().chain(["... a taller window shows the rest"]).collect(),
    };
    // `\r` makes a line begin in the first column in raw mode too. There is no newline after
    // the last row, because it would scroll a full screen.
    let below = match shown.len() {
        0 => "\x1b[J",
        some if some < rows => "\r\n\x1b[J",
        _ => "",
    };
    let shown: Vec<String> = shown.into_iter().map(|line| format!("\x1b[2K{line}")).collect();
    format!("\x1b[H{}{below}", shown.join("\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_before_is_cleared() {
        assert_eq!(placed("a\nb\n", 5), "\x1b[H\x1b[2Ka\r\n\x1b[2Kb\r\n\x1b[J");
    }

    /// What a terminal shows that does not wrap lines and was filled with `before`. In the
    /// last column, the cursor stays on the letter just written (ECMA-48, and xterm's ?7l).
    fn terminal(before: char, columns: usize, rows: usize, written: &str) -> Vec<String> {
        let mut cells = vec![vec![before; columns]; rows];
        let (mut row, mut column) = (0, 0);
        let mut rest = written.chars();
        while let Some(letter) = rest.next() {
            match letter {
                '\x1b' => match rest.by_ref().find(|c| c.is_ascii_alphabetic()) {
                    Some('H') => (row, column) = (0, 0),
                    Some('K') => cells[row].fill(' '),
                    Some('J') => {
                        cells[row][column..].fill(' ');
                        cells[row + 1..].iter_mut().for_each(|row| row.fill(' '));
                    }
                    other => panic!("{other:?}"),
                },
                '\r' => column = 0,
                '\n' => row += 1,
                letter => {
                    cells[row][column] = letter;
                    column = (column + 1).min(columns - 1);
                }
            }
        }
        cells.into_iter().map(|row| row.into_iter().collect::<String>().trim_end().to_owned()).collect()
    }

    #[test]
    fn a_line_that_is_as_wide_as_the_screen_keeps_its_last_letter() {
        for (text, shown) in [
            ("abcde\nfghij\nklmno\n", ["abcde", "fghij", "klmno"]),
            ("abcde\n\nx\n", ["abcde", "", "x"]),
            ("abcde\nfghij\n", ["abcde", "fghij", ""]),
            ("abcde\n", ["abcde", "", ""]),
            ("", ["", "", ""]),
        ] {
            assert_eq!(terminal('?', 5, 3, &placed(text, 3)), shown, "{text:?}");
        }
    }

    #[test]
    fn nothing_scrolls() {
        assert_eq!(placed("1\n2\n3\n", 3).matches("\r\n").count(), 2);
        let shown = placed("1\n2\n3\n4\n", 3);
        assert_eq!(shown.matches("\r\n").count(), 2);
        assert!(shown.contains("... a taller window"), "{shown:?}");
        assert_eq!(placed("1\n2\n3\n", 3).matches("...").count(), 0);
    }
}
