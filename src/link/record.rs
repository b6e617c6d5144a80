//! The record protocol: what a source and a sink that acknowledges say to each
//! other. Wire format only, no I/O.
//!
//! A **record** carries a message, or a piece of one, from source to sink. It
//! is at most [`RECORD_MAX`] bytes, so that one `write` writes it as a whole or not
//! at all, even under SIGKILL (pipe(7), PIPE_BUF). Several small
//! records share one write. A long message is sent as several records, which
//! follow each other in the pipe with no other record between them.
//!
//! All numbers are little-endian:
//!
//! | at | size | what |
//! |---|---|---|
//! | 0 | 4 | [`MAGIC`] |
//! | 4 | 4 | CRC-32 (IEEE) of everything from byte 8 to the end of the record |
//! | 8 | 2 | length of the whole record |
//! | 10 | 1 | [`Flags`] |
//! | 11 | 1 | kind of the peer: 0 none, 1 local process, 4 IPv4, 6 IPv6 |
//! | 12 | 4 | connection, a number of the source's choosing |
//! | 16 | 8 | epoch: one running instance of the source |
//! | 24 | 8 | sequence: the message's number in its epoch, from 1, without gaps |
//! | 32 | 8 | time of receipt: microseconds since 1970-01-01 UTC, signed |
//! | 40 | 0, 4, 6 or 18 | peer: nothing; process id; address and port; address and port |
//! | .. | .. | payload |
//!
//! An **acknowledgement** goes the other way and is cumulative: every message
//! of that epoch up to that sequence is saved (and on the disk, if a record
//! asked for it). It may be repeated.
//!
//! | at | size | what |
//! |---|---|---|
//! | 0 | 4 | [`ACK_MAGIC`] |
//! | 4 | 4 | CRC-32 of bytes 8 to 24 |
//! | 8 | 8 | epoch |
//! | 16 | 8 | sequence |

use std::net::{IpAddr, SocketAddr};

/// The most bytes that a record takes, including its header: PIPE_BUF of Linux (pipe(7)).
pub const RECORD_MAX: usize = 4096;
/// The most bytes that a message may have, in all its records together. A source
/// cuts longer ones into parts.
pub const MESSAGE_MAX: usize = 1 << 20;
/// The most bytes that a header takes.
pub const HEADER_MAX: usize = FIXED + 18;
/// The first four bytes of a record. The first of them occurs in no UTF-8 text.
pub const MAGIC: u32 = u32::from_le_bytes([0xf8, b'p', b'd', 0x01]);
/// The first four bytes of an acknowledgement.
pub const ACK_MAGIC: u32 = u32::from_le_bytes([0xf8, b'p', b'a', 0x01]);
/// The size of an acknowledgement.
pub const ACK_LEN: usize = 24;

const FIXED: usize = 40;

/// A record's flag byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u8);

impl Flags {
    /// The message begins in this record.
    pub const FIRST: Flags = Flags(1);
    /// The message ends in this record.
    pub const LAST: Flags = Flags(2);
    /// The message is a part of a longer one, and not its last part.
    pub const MORE: Flags = Flags(4);
    /// The message is to be acknowledged only once it is on the disk.
    pub const SYNC: Flags = Flags(8);
    /// No acknowledgement is wanted: it is enough that the message is in the queue.
    pub const QUIET: Flags = Flags(16);
    const ALL: u8 = 31;

    /// Whether every flag of `other` is set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags together with those of `other`.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// Who sent a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A sender without an address.
    None,
    /// A local process, by its id.
    Process(u32),
    /// An address on the network.
    Net(SocketAddr),
}

/// What each record of a message says about the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The flags.
    pub flags: Flags,
    /// Who sent it.
    pub peer: Peer,
    /// The connection that it arrived on.
    pub connection: u32,
    /// The running instance of the source.
    pub epoch: u64,
    /// The message's number in its epoch.
    pub sequence: u64,
    /// Microseconds since 1970-01-01 UTC.
    pub time: i64,
}

/// A record, in the bytes that it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it says about its message.
    pub head: Head,
    /// The message's bytes, or some of them.
    pub payload: &'a [u8],
    /// How many bytes the record took.
    pub len: usize,
}

/// What was found at the head of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A whole record.
    Record(Record<'a>),
    /// The start of a record; the rest has yet to come.
    Incomplete,
    /// Not a record: this many bytes are to be passed over before one may start.
    Garbage(usize),
}

impl Head {
    /// How many bytes of payload fit into one record with this head.
    pub fn room(&self) -> usize {
        RECORD_MAX - FIXED - self.peer.wire_len()
    }

    /// Appends one record. The payload is at most [`Head::room`] bytes.
    ///
    /// # Panics
    /// If it is longer.
    pub fn encode(&self, payload: &[u8], out: &mut Vec<u8>) {
        let len = FIXED + self.peer.wire_len() + payload.len();
        assert!(len <= RECORD_MAX, "a record is at most {RECORD_MAX} bytes");
        let start = out.len();
        let mut fixed = [0u8; FIXED];
        fixed[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        #[expect(clippy::cast_possible_truncation, reason = "at most RECORD_MAX")]
        fixed[8..10].copy_from_slice(&(len as u16).to_le_bytes());
        fixed[10] = self.flags.0;
        fixed[11] = self.peer.kind();
        fixed[12..16].copy_from_slice(&self.connection.to_le_bytes());
        fixed[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        fixed[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        fixed[32..40].copy_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&fixed);
        self.peer.put(out);
        out.extend_from_slice(payload);
        let crc = crc32fast::hash(&out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Appends a whole message as one or more records. Calls `cut` with the length of
    /// `out` at each place where a write may end.
    pub fn encode_message(&self, mut message: &[u8], out: &mut Vec<u8>, mut cut: impl FnMut(usize)) {
        let room = self.room();
        let mut flags = self.flags.with(Flags::FIRST);
        while message.len() > room {
            let (piece, rest) = message.split_at(room);
            Head { flags, ..*self }.encode(piece, out);
            cut(out.len());
            flags = self.flags;
            message = rest;
        }
        Head { flags: flags.with(Flags::LAST), ..*self }.encode(message, out);
        cut(out.len());
    }
}

/// Reads the record at the head of `bytes`.
pub fn decode(bytes: &[u8]) -> Decoded<'_> {
    let Some(fixed) = bytes.first_chunk::<FIXED>() else {
        let magic = MAGIC.to_le_bytes();
        let known = bytes.len().min(4);
        return if bytes[..known] == magic[..known] { Decoded::Incomplete } else { garbage(bytes) };
    };
    let len = usize::from(u16::from_le_bytes([fixed[8], fixed[9]]));
    let flags = fixed[10];
    let Some(peer_len) = Peer::len_of_kind(fixed[11]) else {
        return garbage(bytes);
    };
    let body = FIXED + peer_len;
    if u32_at(fixed, 0) != MAGIC || len < body || len > RECORD_MAX || flags & !Flags::ALL != 0 {
        return garbage(bytes);
    }
    let Some(record) = bytes.get(..len) else {
        return Decoded::Incomplete;
    };
    if u32_at(fixed, 4) != crc32fast::hash(&record[8..]) {
        return garbage(bytes);
    }
    let head = Head {
        flags: Flags(flags),
        peer: Peer::get(fixed[11], &record[FIXED..body]),
        connection: u32_at(fixed, 12),
        epoch: u64_at(fixed, 16),
        sequence: u64_at(fixed, 24),
        time: i64::from_le_bytes(u64_at(fixed, 32).to_le_bytes()),
    };
    Decoded::Record(Record { head, payload: &record[body..], len })
}

/// Passes over the bytes up to where the next record may start, past the first byte.
fn garbage(bytes: &[u8]) -> Decoded<'_> {
    let magic = MAGIC.to_le_bytes();
    let rest = bytes.get(1..).unwrap_or_default();
    let skip = memchr::memmem::find(rest, &magic).unwrap_or_else(|| {
        // The last bytes may be the start of a magic number that has not all arrived.
        let tail = (1..magic.len()).rev().find(|&n| rest.ends_with(&magic[..n])).unwrap_or(0);
        rest.len() - tail
    });
    Decoded::Garbage((1 + skip).min(bytes.len()))
}

/// An acknowledgement: everything up to here is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The running instance of the source that it is for.
    pub epoch: u64,
    /// The last message that is saved.
    pub sequence: u64,
}

impl Ack {
    /// The bytes that go into the replies pipe, in one write.
    pub fn encode(&self) -> [u8; ACK_LEN] {
        let mut out = [0u8; ACK_LEN];
        out[0..4].copy_from_slice(&ACK_MAGIC.to_le_bytes());
        out[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        let crc = crc32fast::hash(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads one acknowledgement; `None` if the bytes are not one.
    pub fn decode(bytes: &[u8; ACK_LEN]) -> Option<Ack> {
        if u32_at(bytes, 0) != ACK_MAGIC || u32_at(bytes, 4) != crc32fast::hash(&bytes[8..]) {
            return None;
        }
        Some(Ack { epoch: u64_at(bytes, 8), sequence: u64_at(bytes, 16) })
    }
}

impl Peer {
    const fn kind(&self) -> u8 {
        match self {
            Peer::None => 0,
            Peer::Process(_) => 1,
            Peer::Net(SocketAddr::V4(_)) => 4,
            Peer::Net(SocketAddr::V6(_)) => 6,
        }
    }

    const fn len_of_kind(kind: u8) -> Option<usize> {
        match kind {
            0 => Some(0),
            1 => Some(4),
            4 => Some(6),
            6 => Some(18),
            _ => None,
        }
    }

    const fn wire_len(&self) -> usize {
        match Peer::len_of_kind(self.kind()) {
            Some(len) => len,
            None => 0,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Peer::None => {}
            Peer::Process(pid) => out.extend_from_slice(&pid.to_le_bytes()),
            Peer::Net(address) => {
                match address.ip() {
                    IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
                }
                out.extend_from_slice(&address.port().to_le_bytes());
            }
        }
    }

    /// Reads a peer. `bytes` has the length that goes with `kind`.
    fn get(kind: u8, bytes: &[u8]) -> Peer {
        fn net<const N: usize>(bytes: &[u8]) -> Option<([u8; N], u16)> {
            let (ip, port) = bytes.split_first_chunk::<N>()?;
            Some((*ip, u16::from_le_bytes(port.try_into().ok()?)))
        }
        let peer = match kind {
            1 => bytes.try_into().ok().map(|b| Peer::Process(u32::from_le_bytes(b))),
            4 => net::<4>(bytes).map(|(ip, port)| Peer::Net((ip, port).into())),
            6 => net::<16>(bytes).map(|(ip, port)| Peer::Net((ip, port).into())),
            _ => None,
        };
        peer.unwrap_or(Peer::None)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peer() -> impl Strategy<Value = Peer> {
        prop_oneof![
            Just(Peer::None),
            any::<u32>().prop_map(Peer::Process),
            any::<([u8; 4], u16)>().prop_map(|(ip, port)| Peer::Net((ip, port).into())),
            any::<([u8; 16], u16)>().prop_map(|(ip, port)| Peer::Net((ip, port).into())),
        ]
    }

    fn head() -> impl Strategy<Value = Head> {
        (peer(), any::<(bool, bool, u32, u64, u64, i64)>()).prop_map(
            |(peer, (more, sync, connection, epoch, sequence, time))| {
                let mut flags = Flags::default();
                if more {
                    flags = flags.with(Flags::MORE);
                }
                if sync {
                    flags = flags.with(Flags::SYNC);
                }
                Head { flags, peer, connection, epoch, sequence, time }
            },
        )
    }

    proptest! {
        #[test]
        fn a_message_comes_back_however_its_bytes_are_split(
            head in head(),
            message in proptest::collection::vec(any::<u8>(), 0..20_000),
            noise in proptest::collection::vec(any::<u8>(), 0..50),
            split in any::<proptest::sample::Index>(),
        ) {
            // Noise that looks like the start of a record may hide what follows, until as many
            // bytes as its length says have arrived.
            prop_assume!(!noise.contains(&MAGIC.to_le_bytes()[0]));
            let mut bytes = noise.clone();
            let mut cuts = vec![bytes.len()];
            head.encode_message(&message, &mut bytes, |at| cuts.push(at));
            prop_assert!(cuts.windows(2).all(|pair| pair[1] - pair[0] <= RECORD_MAX));
            let mut got = Vec::new();
            let mut flags = Vec::new();
            let mut at = 0;
            let mut passed = 0;
            for end in [split.index(bytes.len() + 1), bytes.len()] {
                while at < end {
                    match decode(&bytes[at..end]) {
                        Decoded::Incomplete => break,
                        Decoded::Garbage(n) => {
                            prop_assert!(n > 0);
                            passed += n;
                            at += n;
                        }
                        Decoded::Record(record) => {
                            let flag = record.head.flags;
                            prop_assert_eq!(Head { flags: head.flags, ..record.head }, head);
                            flags.push((flag.has(Flags::FIRST), flag.has(Flags::LAST)));
                            got.extend_from_slice(record.payload);
                            at += record.len;
                        }
                    }
                }
            }
            prop_assert_eq!((at, passed, got), (bytes.len(), noise.len(), message));
            let count = flags.len();
            for (i, flags) in flags.into_iter().enumerate() {
                prop_assert_eq!(flags, (i == 0, i + 1 == count));
            }
        }

        #[test]
        fn garbage_never_causes_a_panic_and_is_always_passed_over(bytes in proptest::collection::vec(any::<u8>(), 0..9000), start in 0usize..3) {
            let mut all = MAGIC.to_le_bytes()[..start].to_vec();
            all.extend_from_slice(&bytes);
            let mut at = 0;
            while at < all.len() {
                match decode(&all[at..]) {
                    Decoded::Incomplete => break,
                    Decoded::Garbage(n) => {
                        prop_assert!(n > 0 && n <= all.len() - at);
                        at += n;
                    }
                    Decoded::Record(record) => at += record.len,
                }
            }
        }

        #[test]
        fn a_record_with_a_changed_bit_is_not_a_record(head in head(), message in "[a-z]{0,100}", at in any::<proptest::sample::Index>(), bit in 0u8..8) {
            let mut bytes = Vec::new();
            head.encode_message(message.as_bytes(), &mut bytes, |_| {});
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(!matches!(decode(&bytes), Decoded::Record(_)));
        }

        #[test]
        fn an_acknowledgement_comes_back(epoch: u64, sequence: u64, at in 0usize..ACK_LEN, bit in 0u8..8) {
            let ack = Ack { epoch, sequence };
            let mut bytes = ack.encode();
            prop_assert_eq!(Ack::decode(&bytes), Some(ack));
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(Ack::decode(&bytes), None);
        }
    }
}
