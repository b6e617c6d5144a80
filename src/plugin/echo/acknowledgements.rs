//! Acknowledgements that the sink writes into the replies pipe.

use crate::link::record::{ACK_LEN, Ack};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The read end of the replies pipe, O_NONBLOCK.
#[derive(Debug)]
pub(super) struct Acknowledgements {
    pipe: std::fs::File,
    /// This run of the instance. Acknowledgements with another epoch don't count.
    epoch: u64,
    buffer: Vec<u8>,
    kept: usize,
}

/// What the pipe had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acknowledged {
    /// Everything up to this message is saved.
    UpTo(u64),
    /// Nothing for this epoch.
    Nothing,
    /// No process can acknowledge any more.
    End,
}

impl Acknowledgements {
    pub(super) fn new(pipe: OwnedFd, epoch: u64) -> Acknowledgements {
        Acknowledgements { pipe: pipe.into(), epoch, buffer: vec![0; 1024 * ACK_LEN], kept: 0 }
    }

    /// Reads once. Acknowledgements are cumulative, so only the last one counts.
    ///
    /// # Errors
    /// From read(2), except EAGAIN and EINTR.
    pub(super) fn read(&mut self) -> io::Result<Acknowledged> {
        let count = match self.pipe.read(&mut self.buffer[self.kept..]) {
            Ok(0) => return Ok(Acknowledged::End),
            Ok(count) => count,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(Acknowledged::Nothing);
            }
            Err(e) => return Err(e),
        };
        let filled = self.kept + count;
        let (last, used) = last(&self.buffer[..filled], self.epoch);
        self.buffer.copy_within(used..filled, 0);
        self.kept = filled - used;
        Ok(last.map_or(Acknowledged::Nothing, Acknowledged::UpTo))
    }
}

impl AsFd for Acknowledgements {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// The last sequence number for this epoch, and how many of the bytes were used.
/// Acknowledgements for the previous epoch may come first. Bytes that are not an
/// acknowledgement are skipped.
fn last(bytes: &[u8], epoch: u64) -> (Option<u64>, usize) {
    let (mut at, mut last) = (0, None);
    while let Some(head) = bytes[at..].first_chunk::<ACK_LEN>() {
        match Ack::decode(head) {
            Some(ack) => {
                at += ACK_LEN;
                if ack.epoch == epoch {
                    last = last.max(Some(ack.sequence));
                }
            }
            None => at += 1,
        }
    }
    (last, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pipe::{Pipe, set_nonblocking};
    use proptest::prelude::*;
    use std::io::Write;

    fn acks(of: &[(u64, u64)]) -> Vec<u8> {
        of.iter().flat_map(|&(epoch, sequence)| Ack { epoch, sequence }.encode()).collect()
    }

    #[test]
    fn the_last_acknowledgement_of_this_epoch_counts() {
        let pipe = Pipe::new(65536).expect("a pipe");
        set_nonblocking(&pipe.read, true).expect("a pipe");
        let (mut replies, mut sink) = (Acknowledgements::new(pipe.read, 2), std::fs::File::from(pipe.write));
        assert_eq!(replies.read().expect("readable"), Acknowledged::Nothing);
        sink.write_all(&acks(&[(1, 90), (2, 3), (2, 5), (1, 99)])).expect("room");
        assert_eq!(replies.read().expect("readable"), Acknowledged::UpTo(5));
        sink.write_all(&acks(&[(1, 100)])).expect("room");
        assert_eq!(replies.read().expect("readable"), Acknowledged::Nothing);
        drop(sink);
        assert_eq!(replies.read().expect("readable"), Acknowledged::End);
    }

    proptest! {
        #[test]
        fn neither_splits_nor_garbage_change_the_result(
            parts in prop::collection::vec((0u64..100, prop::collection::vec(any::<u8>(), 0..30)), 1..20),
            split in 1usize..60,
        ) {
            let bytes: Vec<u8> = parts.iter().flat_map(|(n, garbage)| [garbage.as_slice(), &acks(&[(2, *n)])].concat()).collect();
            let (mut kept, mut best) = (Vec::new(), None);
            for chunk in bytes.chunks(split) {
                kept.extend_from_slice(chunk);
                let (found, used) = last(&kept, 2);
                best = best.max(found);
                kept.drain(..used);
                prop_assert!(kept.len() < ACK_LEN);
            }
            prop_assert_eq!(best, parts.iter().map(|(n, _)| *n).max());
        }
    }
}
