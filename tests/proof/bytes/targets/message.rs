//! Messages in the message file: text that stays in its line, and from which
//! every byte can be restored.

use super::{Verdict, hold, is_one_line};
use plumbd::plugin::logger::body::Body;
use plumbd::plugin::logger::escape::{GROWTH, escape, unescape};

/// Tries plumbd's own function.
pub fn target(bytes: &[u8]) -> Verdict {
    look(bytes, escape)
}

/// Tries a message. `escape` writes it as text.
pub fn look(message: &[u8], escape: fn(&[u8], &mut Body<'_>)) -> Verdict {
    let mut room = vec![0; GROWTH * message.len()];
    let mut out = Body::new(&mut room);
    escape(message, &mut out);
    let len = out.len();
    let text = std::str::from_utf8(&room[..len]).map_err(|error| error.to_string())?;
    hold!(is_one_line(text) && !text.contains('\t'), "controls a terminal: {text:?}");
    hold!(unescape(text.as_bytes()).as_deref() == Some(message), "other bytes come back from {text:?}");
    // Text that no logger wrote is refused, or does not become much longer.
    let right = unescape(message).is_none_or(|plain| GROWTH * message.len() >= plain.len());
    hold!(right, "more comes out than was in it");
    Ok(())
}
