//! What goes to the sink, and which echo waits for what. No I/O.
//!
//! Messages gather as records (or lines) and leave in writes of at most PIPE_BUF bytes,
//! each with as many whole records as fit. Whichever process is killed, each write is in
//! the pipe whole or not at all (pipe(7)).
//!
//! An echo leaves once its message is *settled*: written to the queue, or
//! acknowledged by the sink.

use super::peer::Peer;
use super::slots::Id;
use crate::link::record::{Flags, Head, RECORD_MAX};
use std::collections::VecDeque;

/// If more than this many bytes wait to be written, no more messages are taken.
const HIGH: usize = 256 * 1024;
/// From this many down, messages are taken again.
const LOW: usize = HIGH / 2;

/// How a message is put into the queue.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// As a line, for any program.
    Lines,
    /// As records of this epoch, all with these flags.
    Records {
        /// Identifies this run of the instance.
        epoch: u64,
        /// SYNC, QUIET or none.
        flags: Flags,
    },
}

/// When a message is settled, so that its echo may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// Its message was written to the queue.
    Written,
    /// The sink acknowledged it.
    Acknowledged,
}

/// One message, or a part of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    /// Without its line end.
    pub(super) payload: &'a [u8],
    /// Whether it is a part with more to follow.
    pub(super) more: bool,
    /// Who sent it.
    pub(super) peer: Peer,
    /// The connection's number.
    pub(super) connection: u32,
    /// Microseconds since 1970.
    pub(super) time: i64,
}

/// An echo that waits: up to this position of that connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Echo {
    sequence: u64,
    /// The connection, if it is still there.
    pub(super) id: Id,
    /// A position in its stream.
    pub(super) end: u64,
}

/// One write to come.
#[derive(Debug, Clone, Copy)]
struct Write {
    len: usize,
    /// The last message that is completely in the queue after this write.
    last: u64,
}

/// Messages on their way to the sink.
#[derive(Debug)]
pub(super) struct Outbox {
    form: Form,
    settled: Settled,
    bytes: Vec<u8>,
    /// How many of the bytes are written.
    begun: usize,
    /// How many of the bytes belong to a write.
    cut: usize,
    writes: VecDeque<Write>,
    full: bool,
    /// The last message's number.
    sequence: u64,
    written: u64,
    acknowledged: u64,
    echoes: VecDeque<Echo>,
}

impl Outbox {
    pub(super) fn new(form: Form, settled: Settled) -> Outbox {
        Outbox {
            form,
            settled,
            bytes: Vec::new(),
            begun: 0,
            cut: 0,
            writes: VecDeque::new(),
            full: false,
            sequence: 0,
            written: 0,
            acknowledged: 0,
            echoes: VecDeque::new(),
        }
    }

    /// Whether messages go as lines.
    pub(super) fn has_lines(&self) -> bool {
        matches!(self.form, Form::Lines)
    }

    /// Adds a message. Its echo, up to `end`, waits for it.
    pub(super) fn push(&mut self, message: Message<'_>, id: Id, end: u64) {
        self.sequence += 1;
        let sequence = self.sequence;
        self.echoes.push_back(Echo { sequence, id, end });
        let Outbox { bytes, cut, writes, .. } = self;
        let mut cut_at = |to: usize| {
            let len = to - *cut;
            *cut = to;
            match writes.back_mut() {
                Some(write) if write.len + len <= RECORD_MAX => write.len += len,
                last => {
                    let last = last.map_or(0, |write| write.last);
                    writes.push_back(Write { len, last });
                }
            }
        };
        match self.form {
            Form::Records { epoch, flags } => {
                let head = Head {
                    flags: if message.more { flags.with(Flags::MORE) } else { flags },
                    peer: message.peer.in_record(),
                    connection: message.connection,
                    epoch,
                    sequence,
                    time: message.time,
                };
                head.encode_message(message.payload, bytes, cut_at);
            }
            Form::Lines => {
                let from = bytes.len();
                bytes.extend_from_slice(message.payload);
                bytes.push(b'\n');
                let to = bytes.len();
                (from..to).step_by(RECORD_MAX).for_each(|at| cut_at(to.min(at + RECORD_MAX)));
            }
        }
        if let Some(write) = self.writes.back_mut() {
            write.last = sequence;
        }
        self.full |= self.waiting() > HIGH;
    }

    /// Makes an echo wait for the last message. Returns false if that is already settled, so
    /// the echo may leave now.
    pub(super) fn attach(&mut self, id: Id, end: u64) -> bool {
        let waits = self.sequence > self.settled_up_to();
        if waits {
            self.echoes.push_back(Echo { sequence: self.sequence, id, end });
        }
        waits
    }

    /// The bytes of the next write.
    pub(super) fn next_write(&self) -> Option<&[u8]> {
        self.writes.front().map(|write| &self.bytes[self.begun..self.begun + write.len])
    }

    /// This many bytes of it were written. If the queue is a pipe, that is all of them
    /// (pipe(7)).
    pub(super) fn wrote(&mut self, count: usize) {
        let Some(write) = self.writes.front_mut() else { return };
        self.begun += count;
        write.len -= count;
        if write.len > 0 {
            return;
        }
        self.written = self.written.max(write.last);
        self.writes.pop_front();
        if self.begun == self.bytes.len() {
            self.bytes.clear();
            (self.begun, self.cut) = (0, 0);
        } else if self.begun > HIGH {
            self.bytes.drain(..self.begun);
            self.cut -= self.begun;
            self.begun = 0;
        }
        self.full &= self.waiting() > LOW;
    }

    /// The sink saved everything up to this message.
    pub(super) fn acknowledge(&mut self, sequence: u64) {
        // A message that was not written can't have been saved, whatever the sink says.
        self.acknowledged = self.acknowledged.max(sequence.min(self.written));
    }

    /// The next echo that may leave.
    pub(super) fn settled(&mut self) -> Option<Echo> {
        let next = self.echoes.front()?;
        if next.sequence > self.settled_up_to() {
            return None;
        }
        self.echoes.pop_front()
    }

    /// Whether too much waits to take more.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Whether everything is written.
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// How many bytes wait to be written.
    fn waiting(&self) -> usize {
        self.bytes.len() - self.begun
    }

    fn settled_up_to(&self) -> u64 {
        match self.settled {
            Settled::Written => self.written,
            Settled::Acknowledged => self.acknowledged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::record::{Decoded, decode};
    use proptest::prelude::*;
    use std::net::SocketAddr;

    const RECORDS: Form = Form::Records { epoch: 7, flags: Flags::SYNC };

    fn id() -> Id {
        Id::from(3u64)
    }

    fn push(outbox: &mut Outbox, payload: &[u8], end: u64) {
        let peer = Peer::from(SocketAddr::from(([127, 0, 0, 1], 7)));
        outbox.push(Message { payload, more: false, peer, connection: 1, time: 0 }, id(), end);
    }

    fn wrote(outbox: &mut Outbox) {
        let count = outbox.next_write().map_or(0, <[u8]>::len);
        outbox.wrote(count);
    }

    fn ends(outbox: &mut Outbox) -> Vec<u64> {
        std::iter::from_fn(|| outbox.settled()).map(|echo| echo.end).collect()
    }

    #[test]
    fn an_echo_waits_for_the_write_or_for_the_acknowledgement() {
        for (settled, after_write) in [(Settled::Written, vec![5, 9]), (Settled::Acknowledged, vec![])] {
            let mut outbox = Outbox::new(RECORDS, settled);
            push(&mut outbox, b"one", 5);
            push(&mut outbox, b"two", 9);
            outbox.acknowledge(2);
            assert!(ends(&mut outbox).is_empty(), "nothing is written yet");
            wrote(&mut outbox);
            assert_eq!(ends(&mut outbox), after_write);
            outbox.acknowledge(1);
            let first = ends(&mut outbox);
            outbox.acknowledge(2);
            let second = ends(&mut outbox);
            assert_eq!([after_write, first, second].concat(), [5, 9]);
        }
    }

    #[test]
    fn an_attached_echo_leaves_with_the_last_message() {
        let mut outbox = Outbox::new(RECORDS, Settled::Acknowledged);
        assert!(!outbox.attach(id(), 1), "nothing to wait for");
        push(&mut outbox, b"one", 5);
        assert!(outbox.attach(id(), 6));
        wrote(&mut outbox);
        outbox.acknowledge(1);
        assert_eq!(ends(&mut outbox), [5, 6]);
        assert!(!outbox.attach(id(), 7));
    }

    #[test]
    fn a_long_message_is_settled_with_its_last_record() {
        let mut outbox = Outbox::new(RECORDS, Settled::Written);
        push(&mut outbox, &[b'x'; 10_000], 10_001);
        for _ in 0..2 {
            wrote(&mut outbox);
            assert!(ends(&mut outbox).is_empty());
        }
        wrote(&mut outbox);
        assert_eq!(ends(&mut outbox), [10_001]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn it_is_full_until_half_of_it_is_written() {
        let mut outbox = Outbox::new(Form::Lines, Settled::Written);
        let mut pushed = 0;
        while !outbox.is_full() {
            push(&mut outbox, &[b'x'; 1023], 0);
            pushed += 1024;
        }
        assert!(pushed > HIGH && pushed <= HIGH + 1024);
        while outbox.is_full() {
            pushed -= outbox.next_write().expect("full").len();
            wrote(&mut outbox);
        }
        assert!(pushed <= LOW && pushed > LOW - RECORD_MAX - 1);
    }

    /// Each step is a message of this many bytes, or this many writes.
    fn steps() -> impl Strategy<Value = Vec<Result<usize, usize>>> {
        let length = prop_oneof![3 => 0usize..200, 1 => 0usize..20_000];
        prop::collection::vec(prop_oneof![3 => length.prop_map(Ok), 1 => (1usize..6).prop_map(Err)], 1..200)
    }

    fn written(form: Form, steps: &[Result<usize, usize>]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut outbox, mut messages, mut writes) = (Outbox::new(form, Settled::Written), Vec::new(), Vec::new());
        let finish = std::iter::once(&Err(usize::MAX));
        for step in steps.iter().chain(finish) {
            match *step {
                Ok(length) => {
                    let byte = b'a' + u8::try_from(messages.len() % 26).expect("small");
                    messages.push(vec![byte; length]);
                    push(&mut outbox, &messages[messages.len() - 1], 0);
                }
                Err(count) => {
                    for _ in 0..count {
                        let Some(write) = outbox.next_write() else { break };
                        writes.push(write.to_vec());
                        wrote(&mut outbox);
                    }
                }
            }
        }
        (messages, writes)
    }

    proptest! {
        #[test]
        fn writes_hold_whole_records_and_all_messages(steps in steps()) {
            let (messages, writes) = written(RECORDS, &steps);
            let (mut got, mut sequence) = (Vec::<Vec<u8>>::new(), 0);
            for write in &writes {
                prop_assert!(write.len() <= RECORD_MAX);
                let mut rest = write.as_slice();
                while !rest.is_empty() {
                    let Decoded::Record(record) = decode(rest) else { panic!("a torn record") };
                    rest = &rest[record.len..];
                    prop_assert!(record.head.flags.has(Flags::SYNC));
                    if record.head.flags.has(Flags::FIRST) {
                        sequence += 1;
                        got.push(Vec::new());
                    }
                    prop_assert_eq!(record.head.sequence, sequence);
                    got.last_mut().expect("begun").extend_from_slice(record.payload);
                }
            }
            prop_assert!(got == messages);
        }

        #[test]
        fn lines_are_the_messages_and_a_newline_each(steps in steps()) {
            let (messages, writes) = written(Form::Lines, &steps);
            prop_assert!(writes.iter().all(|write| write.len() <= RECORD_MAX));
            let lines: Vec<u8> = messages.iter().flat_map(|m| [m.as_slice(), b"\n"].concat()).collect();
            prop_assert!(writes.concat() == lines);
        }

        #[test]
        fn small_records_share_writes(count in 1usize..500) {
            let (_, writes) = written(RECORDS, &vec![Ok(128); count]);
            let per_write = RECORD_MAX / (128 + 46);
            prop_assert_eq!(writes.len(), count.div_ceil(per_write));
        }
    }
}
