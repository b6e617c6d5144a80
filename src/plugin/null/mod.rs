//! A sink that discards every message. It exists for tests only: they show that a plugin
//! is this folder and its row in the table, and nothing else.

use super::Metric;
use super::check::{Asks, Check};
use super::start::{self, Metrics, Start, take};
use crate::link::handover::{Inbound, Protocol};
use crate::link::record::{Ack, Decoded, Flags, decode};
use crate::link::replies::Replies;
use crate::schema::kind::{Keys, Kind, key};
use crate::schema::settings::{millis, read};
use crate::sys::stream::Stream;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Deserialize;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// `[children.NAME.settings]` of a null.
pub const KEYS: Keys = &[key(
    "pause",
    Kind::Duration(Duration::ZERO, Duration::from_secs(3600)),
    r#""0s""#,
    "wait before each read",
    "How long to wait before each read, so that a link fills up.",
)];

/// The slots of its metrics page, in order.
pub const METRICS: &[Metric] = &[
    Metric::counter("messages", "messages", "Messages that were discarded.").rated(),
    Metric::counter("bytes", "bytes", "Bytes that were read."),
];
const MESSAGES: usize = 0;
const BYTES: usize = 1;

#[derive(Debug, Deserialize)]
struct Settings {
    #[serde(deserialize_with = "millis")]
    pause: u64,
}

/// Each key's own range is the only check, and it is not a source.
pub(crate) fn check(_check: &mut Check<'_, '_>) -> Asks {
    Asks::default()
}

/// An inbound link. The plugin saves nothing, so it needs no staging and no ledger.
struct Input {
    queue: File,
    replies: Option<Replies>,
    protocol: Protocol,
    /// Bytes that were read but are not a whole record yet.
    rest: Vec<u8>,
}

/// Discards messages until its links end or it is asked to stop.
///
/// # Errors
/// The reason why it ended, for the log.
pub fn run(mut start: Start) -> Result<(), String> {
    let settings: Settings = read(KEYS, &start.settings).map_err(|e| format!("cannot read PLUMBD_SETTINGS: {e}"))?;
    let mut inputs: Vec<Input> = start.links.inbound.iter().map(Input::new).collect();
    start::notify("READY=1");
    while !inputs.is_empty() && start.signals.pending().next().is_none() {
        std::thread::sleep(Duration::from_millis(settings.pause));
        let ready = wait(&inputs).map_err(|error| format!("cannot wait for links: {error}"))?;
        let mut ready = ready.into_iter();
        inputs.retain_mut(|input| !ready.next().unwrap_or(false) || input.discard(&start.metrics));
    }
    Ok(())
}

/// Waits, and returns for each input whether it has data or has ended. Empty after a signal.
fn wait(inputs: &[Input]) -> nix::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> =
        inputs.iter().map(|input| PollFd::new(input.queue.as_fd(), PollFlags::POLLIN)).collect();
    match poll(&mut polled, PollTimeout::NONE) {
        Ok(_) => Ok(polled.iter().map(|polled| polled.any().unwrap_or(false)).collect()),
        Err(nix::Error::EINTR) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

impl Input {
    fn new(link: &Inbound) -> Input {
        Input {
            queue: take(link.queue).into(),
            replies: link.replies.map(|fd| Replies::new(take(fd))),
            protocol: link.protocol,
            rest: Vec::new(),
        }
    }

    /// Reads once. Returns false if nothing more can come.
    fn discard(&mut self, metrics: &Metrics) -> bool {
        let mut bytes = [0; 64 * 1024];
        let count = match self.queue.read(&mut bytes) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        metrics.add(BYTES, count as u64);
        let messages = match self.protocol {
            Protocol::Lines => memchr::memchr_iter(b'\n', &bytes[..count]).count() as u64,
            Protocol::Records => {
                self.rest.extend_from_slice(&bytes[..count]);
                self.records()
            }
        };
        metrics.add(MESSAGES, messages);
        metrics.keep_rates(METRICS, Instant::now());
        true
    }

    /// Acknowledges the whole messages, and returns how many there are.
    fn records(&mut self) -> u64 {
        let (mut at, mut messages, mut last) = (0, 0, None);
        loop {
            match decode(&self.rest[at..]) {
                Decoded::Record(record) => {
                    at += record.len;
                    if record.head.flags.has(Flags::LAST) {
                        messages += 1;
                        last = Some(Ack { epoch: record.head.epoch, sequence: record.head.sequence });
                    }
                }
                Decoded::Garbage(count) if count > 0 => at += count,
                Decoded::Garbage(_) | Decoded::Incomplete => break,
            }
        }
        self.rest.drain(..at);
        if let (Some(replies), Some(ack)) = (&mut self.replies, last) {
            replies.send(ack);
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::handover::Links;
    use crate::link::record::{ACK_LEN, Head, Peer};
    use crate::sys::pipe::Pipe;
    use crate::sys::signals::Signals;
    use nix::unistd::getppid;
    use std::io::Write;
    use std::os::fd::IntoRawFd;

    #[test]
    fn it_acknowledges_every_message_until_its_link_ends() {
        let [queue, replies] = [(); 2].map(|()| Pipe::new(4096).unwrap());
        let mut records = Vec::new();
        for sequence in 1..=3 {
            let flags = Flags::FIRST.with(Flags::LAST);
            let head = Head { flags, peer: Peer::None, connection: 0, epoch: 7, sequence, time: 0 };
            head.encode(b"message", &mut records);
        }
        File::from(queue.write).write_all(&records).unwrap();
        let inbound = Inbound {
            from: "source".to_owned(),
            stream: Stream::Stdout,
            protocol: Protocol::Records,
            queue: queue.read.into_raw_fd(),
            staging: [-1, -1],
            ledger: -1,
            replies: Some(replies.write.into_raw_fd()),
        };
        let start = Start {
            child: "null".to_owned(),
            settings: "{}".to_owned(),
            listeners: Vec::new(),
            links: Links { inbound: vec![inbound], outbound: None },
            metrics: Metrics::private(),
            shared: None,
            signals: Signals::catch(&[]).unwrap(),
            supervisor: getppid(),
        };
        run(start).unwrap();
        let mut ack = [0; ACK_LEN];
        File::from(replies.read).read_exact(&mut ack).unwrap();
        assert_eq!(Ack::decode(&ack), Some(Ack { epoch: 7, sequence: 3 }));
    }
}
