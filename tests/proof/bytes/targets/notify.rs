//! What children report about themselves: nothing is understood that was not sent.

use super::{Verdict, hold, is_one_line};
use plumbd::supervisor::notify::{Said, parse};

/// Tries plumbd's own function.
pub fn target(bytes: &[u8]) -> Verdict {
    look(bytes, parse)
}

/// Tries a datagram. `parse` reads what it says.
pub fn look(bytes: &[u8], parse: fn(&[u8]) -> Vec<Said>) -> Verdict {
    let lines = |begin: &[u8]| bytes.split(|&byte| byte == b'\n').filter(|line| line.starts_with(begin)).count();
    let said = parse(bytes);
    let ready = bytes.split(|&byte| byte == b'\n').filter(|line| *line == b"READY=1").count();
    hold!(said.iter().filter(|said| **said == Said::Ready).count() == ready, "it says {ready} times that it is ready");
    let extend = said.iter().filter(|said| matches!(said, Said::Extend(_))).count();
    hold!(extend <= lines(b"EXTEND_TIMEOUT_USEC="), "nobody asked for more time");
    let problems: Vec<&Option<String>> =
        said.iter().filter_map(|said| if let Said::Problem(text) = said { Some(text) } else { None }).collect();
    hold!(problems.len() == lines(b"X_PLUMBD_PROBLEM="), "{} problems", problems.len());
    for text in problems.into_iter().flatten() {
        hold!(!text.is_empty() && text.chars().count() <= 500, "a problem of {} bytes", text.len());
        hold!(is_one_line(text) && !text.contains('\t'), "a problem controls a terminal: {text:?}");
    }
    Ok(())
}
