//! What the loop waits for, and what each descriptor belongs to.

use crate::sys::poll;

pub use poll::Watched;

/// The descriptors that the loop watches.
pub type Poll = poll::Poll<Token>;

/// The number of a child; it is never reused.
pub type Id = u32;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// Signals have arrived.
    Signals,
    /// An operator connects.
    Control,
    /// An operator's connection.
    Connection(u32),
    /// A child's exec has succeeded or failed.
    Exec(Id),
    /// A child wrote to its log pipe.
    Log(Id),
    /// A child says something about itself.
    Notify(Id),
    /// A child may be ready.
    Ready(Id),
    /// A process that looks at the system has ended.
    Look(u32),
    /// There is room in the log's output again.
    Journal,
    /// Something comes from a check of a child.
    Check(Id),
    /// Bytes wait in a queue, or it has room.
    Link(u32),
    /// A hook has written something.
    Hook(Id),
}

impl poll::Token for Token {
    fn encode(self) -> u64 {
        let (kind, id) = match self {
            Token::Signals => (0, 0),
            Token::Control => (1, 0),
            Token::Connection(id) => (2, id),
            Token::Exec(id) => (3, id),
            Token::Log(id) => (4, id),
            Token::Notify(id) => (5, id),
            Token::Ready(id) => (6, id),
            Token::Look(id) => (7, id),
            Token::Journal => (8, 0),
            Token::Check(id) => (9, id),
            Token::Link(id) => (10, id),
            Token::Hook(id) => (11, id),
        };
        (kind << 32) | u64::from(id)
    }

    fn decode(bits: u64) -> Token {
        #[expect(clippy::cast_possible_truncation, reason = "the low half is the id")]
        let id = bits as u32;
        match bits >> 32 {
            0 => Token::Signals,
            1 => Token::Control,
            2 => Token::Connection(id),
            3 => Token::Exec(id),
            4 => Token::Log(id),
            5 => Token::Notify(id),
            6 => Token::Ready(id),
            7 => Token::Look(id),
            8 => Token::Journal,
            9 => Token::Check(id),
            10 => Token::Link(id),
            _ => Token::Hook(id),
        }
    }
}
