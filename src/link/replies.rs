//! The acknowledgements that the sink of a link sends.

use super::record::{ACK_LEN, Ack};
use super::words::kill_point;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The write end of a link's replies pipe, and what did not fit into it.
#[derive(Debug)]
pub struct Replies {
    pipe: File,
    /// The newest acknowledgement that is not sent yet. It includes all earlier ones.
    waiting: Option<Ack>,
}

impl Replies {
    /// `pipe` is O_NONBLOCK.
    pub fn new(pipe: OwnedFd) -> Replies {
        Replies { pipe: pipe.into(), waiting: None }
    }

    /// Step 8: sends an acknowledgement, or keeps it until there is room.
    pub fn send(&mut self, ack: Ack) {
        self.waiting = Some(ack);
        self.send_waiting();
    }

    /// Sends the acknowledgement that waits, if there is room now.
    pub fn send_waiting(&mut self) {
        let Some(ack) = self.waiting else {
            return;
        };
        let sent = loop {
            kill_point();
            // 24 bytes are far below PIPE_BUF, so all of them are written or none.
            match self.pipe.write(&ack.encode()) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        match sent {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            other => {
                if let Err(error) = check(other) {
                    // Nothing reads the pipe any more (EPIPE), and the source's
                    // successor has no use for the acknowledgement.
                    log::debug!("cannot acknowledge: {error}");
                }
                self.waiting = None;
            }
        }
    }

    /// Whether an acknowledgement waits until the pipe has room.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }
}

fn check(sent: io::Result<usize>) -> io::Result<()> {
    match sent? {
        ACK_LEN => Ok(()),
        n => Err(io::Error::other(format!("{n} of {ACK_LEN} bytes were written"))),
    }
}

impl AsFd for Replies {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pipe::{Pipe, set_nonblocking};
    use std::io::Read;

    #[test]
    fn the_newest_waits_while_the_pipe_is_full() {
        let Pipe { read, write } = Pipe::new(4096).unwrap();
        set_nonblocking(&write, true).unwrap();
        let mut replies = Replies::new(write);
        let mut sent = 0;
        while !replies.is_waiting() {
            sent += 1;
            replies.send(Ack { epoch: 1, sequence: sent });
        }
        replies.send(Ack { epoch: 1, sequence: 1_000_000 });
        let mut read = File::from(read);
        let mut bytes = vec![0; (sent as usize - 1) * ACK_LEN];
        read.read_exact(&mut bytes).unwrap();
        replies.send_waiting();
        assert!(!replies.is_waiting());
        let mut last = [0; ACK_LEN];
        read.read_exact(&mut last).unwrap();
        assert_eq!(Ack::decode(&last), Some(Ack { epoch: 1, sequence: 1_000_000 }));
    }

    #[test]
    fn a_closed_read_end_is_no_error() {
        let Pipe { read, write } = Pipe::new(4096).unwrap();
        drop(read);
        let mut replies = Replies::new(write);
        replies.send(Ack { epoch: 1, sequence: 1 });
        assert!(!replies.is_waiting());
    }
}
