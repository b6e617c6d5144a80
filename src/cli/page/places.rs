//! Where children listen, and which files they write.

use super::{bytes, or_dash, short, size};
use crate::cli::table::{Colour, Column, DETAIL};
use crate::control::status::{Listener, MessageFile};
use crate::sys::text::masked;
use std::time::Duration;

/// A line for each listening socket.
pub(in crate::cli) fn listeners(listeners: &[Listener]) -> Vec<Column> {
    let waits = |listener: &Listener| match (listener.backlog, listener.backlog_max, listener.queued_bytes) {
        (Some(now), most, _) => {
            let is_full = most.is_some_and(|most| now >= most);
            (format!("backlog {now}"), if is_full { Colour::Bad } else { Colour::None })
        }
        (None, _, Some(queued)) => (format!("queued {}", bytes(queued)), Colour::None),
        (None, _, None) => (String::new(), Colour::None),
    };
    let address = |listener: &Listener| (format!("LISTEN {}", masked(&listener.address)), Colour::None);
    vec![
        Column::text("", listeners.iter().map(address)).keeps_end(),
        Column::text("", listeners.iter().map(|listener| (listener.child.clone(), Colour::None))).gives_way(DETAIL),
        Column::text("", listeners.iter().map(waits)).gives_way(1),
    ]
}

/// A line for each message file.
pub(in crate::cli) fn files(files: &[MessageFile]) -> Vec<Column> {
    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;
    /// Later than that is no news.
    const SOON: u64 = 100 * DAY;
    let full = |file: &MessageFile| match file.full_in_s.filter(|&seconds| seconds < SOON) {
        None => (String::new(), Colour::None),
        Some(seconds) => {
            let colour = match seconds {
                0..HOUR => Colour::Bad,
                HOUR..DAY => Colour::Wait,
                _ => Colour::None,
            };
            (format!("full in {}", short(Duration::from_secs(seconds))), colour)
        }
    };
    vec![
        Column::text("", files.iter().map(|file| (format!("FILE {}", masked(&file.path)), Colour::None))).keeps_end(),
        Column::text("", files.iter().map(|file| (file.child.clone(), Colour::None))).gives_way(DETAIL + 1),
        Column::number("", files.iter().map(|file| file.size.map_or("size unknown".to_owned(), bytes))).gives_way(2),
        Column::number("", files.iter().map(|file| format!("{}/s", size(file.rate)))).gives_way(DETAIL),
        Column::number("", files.iter().map(|file| or_dash(file.free.map(|free| bytes(free) + " free")))).gives_way(1),
        Column::text("", files.iter().map(full)).gives_way(4),
    ]
}
