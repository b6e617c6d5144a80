//! Logs how clients end, many of them in one line. Pure.
//!
//! The first client of a fate is logged at once, and later ones together: at first one
//! line a second for each fate, and fewer while it goes on, down to one a minute.

use super::peer::Peer;
use std::time::{Duration, Instant};

/// The shortest and the longest pause between two lines of one fate.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How a client ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// It took none of its echoes for `send_timeout`.
    TookNothing,
    /// It took none of its echoes while a stop waited for it.
    TookNothingAtTheEnd,
    /// Its address is in no network of `allow`.
    NotAllowed,
    /// Its address has `max_connections_per_address` clients already.
    TooManyOfItsAddress,
    /// Its connection broke.
    Broke,
}

impl Fate {
    pub(super) const ALL: [Fate; 5] =
        [Fate::TookNothing, Fate::TookNothingAtTheEnd, Fate::NotAllowed, Fate::TooManyOfItsAddress, Fate::Broke];

    /// As it is logged.
    pub(super) fn text(self) -> &'static str {
        match self {
            Fate::TookNothing => "closed: took no echoes for as long as send_timeout says",
            Fate::TookNothingAtTheEnd => "given up at the stop: takes no echoes",
            Fate::NotAllowed => "refused: allow has no network of its address",
            Fate::TooManyOfItsAddress => "refused: max_connections_per_address of its address are served",
            Fate::Broke => "gone: the connection broke",
        }
    }

    /// Broken connections and refused clients are normal; only clients that took nothing
    /// deserve a warning.
    pub(super) fn level(self) -> log::Level {
        match self {
            Fate::TookNothing | Fate::TookNothingAtTheEnd => log::Level::Warn,
            Fate::NotAllowed | Fate::TooManyOfItsAddress => log::Level::Info,
            Fate::Broke => log::Level::Debug,
        }
    }
}

/// What has not been logged yet of one fate.
#[derive(Debug, Clone, Copy)]
struct Row {
    count: u64,
    last: Option<Peer>,
    /// No line is logged before this time; `None` if there was no line yet.
    quiet_until: Option<Instant>,
    pause: Duration,
}

/// What is to be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// One client.
    One(Peer),
    /// This many clients since the last line, and the last of them.
    Many(u64, Peer),
    /// They are logged together at that time. The caller must set a timer for it.
    Later(Instant),
    /// Nothing now.
    Nothing,
}

/// All fates.
#[derive(Debug)]
pub(super) struct Fates {
    rows: [Row; Fate::ALL.len()],
}

impl Default for Fates {
    fn default() -> Fates {
        let row = Row { count: 0, last: None, quiet_until: None, pause: PAUSES.0 };
        Fates { rows: [row; Fate::ALL.len()] }
    }
}

impl Fates {
    /// A client met that fate.
    pub(super) fn met(&mut self, fate: Fate, peer: Peer, now: Instant) -> Line {
        let row = &mut self.rows[fate as usize];
        row.last = Some(peer);
        match row.quiet_until.filter(|until| now < *until) {
            Some(until) => {
                row.count += 1;
                if row.count == 1 { Line::Later(until) } else { Line::Nothing }
            }
            None => {
                row.pause = PAUSES.0;
                row.quiet_until = Some(now + row.pause);
                Line::One(peer)
            }
        }
    }

    /// It is time to log those that have not been logged yet.
    pub(super) fn due(&mut self, fate: Fate, now: Instant) -> Line {
        let row = &mut self.rows[fate as usize];
        let (count, Some(last)) = (std::mem::take(&mut row.count), row.last) else { return Line::Nothing };
        row.pause = (2 * row.pause).min(PAUSES.1);
        row.quiet_until = Some(now + row.pause);
        match count {
            0 => Line::Nothing,
            1 => Line::One(last),
            count => Line::Many(count, last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    fn the_first_is_logged_at_once_and_the_others_together() {
        let (mut fates, start) = (Fates::default(), Instant::now());
        let peer = |port| Peer::from(SocketAddr::from(([127, 0, 0, 1], port)));
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(fates.met(Fate::TookNothing, peer(1), start), Line::One(peer(1)));
        assert_eq!(fates.met(Fate::TookNothing, peer(2), after(1)), Line::Later(after(1000)));
        assert_eq!(fates.met(Fate::TookNothing, peer(3), after(2)), Line::Nothing);
        // Another fate has its own lines.
        assert_eq!(fates.met(Fate::Broke, peer(4), after(3)), Line::One(peer(4)));
        assert_eq!(fates.due(Fate::TookNothing, after(1000)), Line::Many(2, peer(3)));
        assert_eq!(fates.due(Fate::TookNothing, after(1000)), Line::Nothing);
    }

    #[test]
    fn while_it_goes_on_lines_become_rarer_and_after_a_pause_one_comes_at_once() {
        let (mut fates, start) = (Fates::default(), Instant::now());
        let peer = Peer::from(SocketAddr::from(([127, 0, 0, 1], 1)));
        let (mut now, mut lines, mut logged) = (start, 0, 0);
        let mut later = None;
        while now < start + Duration::from_secs(600) {
            if let Some(at) = later.filter(|at| now >= *at) {
                let Line::Many(count, _) = fates.due(Fate::NotAllowed, at) else { panic!("many came") };
                (lines, logged, later) = (lines + 1, logged + count, None);
            }
            match fates.met(Fate::NotAllowed, peer, now) {
                Line::One(_) => (lines, logged) = (lines + 1, logged + 1),
                Line::Later(at) => later = Some(at),
                _ => {}
            }
            now += Duration::from_millis(100);
        }
        assert!((10..=20).contains(&lines) && logged > 5000, "{lines} lines of {logged}");
        assert_eq!(fates.met(Fate::NotAllowed, peer, now + Duration::from_secs(120)), Line::One(peer));
    }
}
