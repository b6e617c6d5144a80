//! What children say about themselves: sd_notify(3), each on a socket of its own.
//!
//! Everybody can read the socket's name in /proc/net/unix, so a notification counts only
//! if it comes from a process of the child (`Supervisor::is_from` in `processes`).
//! Descriptors that come with it are closed, so a barrier (sd_notify_barrier(3)) passes at once.

use crate::sys::datagrams::{Datagrams, Sender};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// The socket on which a child's notifications arrive (sd_notify(3)).
#[derive(Debug)]
pub struct Socket {
    datagrams: Datagrams,
    name: String,
}

/// One thing that a child said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// READY=1
    Ready,
    /// EXTEND_TIMEOUT_USEC=
    Extend(Duration),
    /// X_PLUMBD_PROBLEM=; `None`: the problem is over.
    Problem(Option<String>),
    /// WATCHDOG=1: it is well.
    Alive,
    /// WATCHDOG=trigger: it is broken.
    Broken,
    /// FDSTORE=1: it wants the descriptors that come along to be kept, which is not supported.
    Store,
}

/// A datagram and its sender as reported by the kernel (SCM_CREDENTIALS, unix(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The sender's process id.
    pub pid: i32,
    /// The sender's user id.
    pub uid: u32,
    /// What it said, without the lines that are not known here.
    pub said: Vec<Said>,
}

/// Longer datagrams are truncated. systemd's limit is 4096 bytes too.
const LONGEST: usize = 4096;
/// A problem's text is cut to this many characters.
const PROBLEM_MAX: usize = 500;

impl Socket {
    /// A socket in the abstract namespace with a name that the kernel chooses
    /// (autobind, unix(7)).
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOBUFS.
    pub fn new() -> io::Result<Socket> {
        let datagrams = Datagrams::new()?;
        let name = format!("@{}", String::from_utf8_lossy(datagrams.name()));
        Ok(Socket { datagrams, name })
    }

    /// The value for $NOTIFY_SOCKET.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Receives the next datagram; `None`: there are no more for now.
    ///
    /// # Errors
    /// From recvmsg(2).
    pub fn receive(&self) -> io::Result<Option<Message>> {
        let mut bytes = [0u8; LONGEST];
        let Some((length, sender)) = self.datagrams.receive(&mut bytes)? else { return Ok(None) };
        Ok(Some(match sender {
            Some(Sender { pid, uid }) => Message { pid, uid, said: parse(&bytes[..length]) },
            // Without the kernel's word it is not trusted: nobody has this user id.
            None => Message { pid: 0, uid: u32::MAX, said: Vec::new() },
        }))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.datagrams.as_fd()
    }
}

/// Parses a datagram; unknown lines are ignored, as sd_notify(3) asks for.
pub fn parse(datagram: &[u8]) -> Vec<Said> {
    datagram.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Said> {
    let equals = line.iter().position(|&b| b == b'=')?;
    let (name, value) = (&line[..equals], &line[equals + 1..]);
    match name {
        b"READY" if value == b"1" => Some(Said::Ready),
        b"WATCHDOG" if value == b"1" => Some(Said::Alive),
        b"WATCHDOG" if value == b"trigger" => Some(Said::Broken),
        b"FDSTORE" if value == b"1" => Some(Said::Store),
        b"EXTEND_TIMEOUT_USEC" => {
            let micros = std::str::from_utf8(value).ok()?.parse().ok()?;
            Some(Said::Extend(Duration::from_micros(micros)))
        }
        b"X_PLUMBD_PROBLEM" => {
            let text: String = String::from_utf8_lossy(value)
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(PROBLEM_MAX)
                .collect();
            Some(Said::Problem(Some(text.trim().to_owned()).filter(|t| !t.is_empty())))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_lines_are_taken_and_others_ignored() {
        let said =
            parse(b"STATUS=fine\nREADY=1\nEXTEND_TIMEOUT_USEC=1500\nREADY=2\nX=\nX_PLUMBD_PROBLEM=disk\x1b full\n");
        assert_eq!(
            said,
            [Said::Ready, Said::Extend(Duration::from_micros(1500)), Said::Problem(Some("disk  full".to_owned()))]
        );
        assert_eq!(parse(b"X_PLUMBD_PROBLEM="), [Said::Problem(None)]);
        assert_eq!(parse(b"FDSTORE=1\nFDNAME=x\nBARRIER=1\nMAINPID=1\nWATCHDOG=2"), [Said::Store]);
        assert_eq!(parse(b"WATCHDOG=1\nWATCHDOG=trigger\nWATCHDOG="), [Said::Alive, Said::Broken]);
    }

    #[test]
    fn the_kernel_names_the_sender() {
        let socket = Socket::new().unwrap();
        let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&socket.name()[1..]).unwrap();
        sender.send_to_addr(b"READY=1", &address).unwrap();
        let message = socket.receive().unwrap().unwrap();
        assert_eq!(message.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(message.said, [Said::Ready]);
        assert_eq!(socket.receive().unwrap(), None);
    }

    #[test]
    fn a_message_with_descriptors_counts_and_they_are_closed() {
        use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
        use std::io::IoSlice;
        use std::os::fd::AsRawFd;
        /// SCM_MAX_FD, unix(7).
        const FDS_MAX: usize = 253;
        let socket = Socket::new().unwrap();
        let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let address = UnixAddr::new_abstract(&socket.name().as_bytes()[1..]).unwrap();
        for count in [1, 2, FDS_MAX] {
            let pipe = crate::sys::pipe::Pipe::new(4096).unwrap();
            let fds = vec![pipe.write.as_raw_fd(); count];
            let with = [ControlMessage::ScmRights(&fds)];
            sendmsg(sender.as_raw_fd(), &[IoSlice::new(b"READY=1")], &with, MsgFlags::empty(), Some(&address)).unwrap();
            let message = socket.receive().unwrap().unwrap();
            assert_eq!(message.pid, i32::try_from(std::process::id()).unwrap());
            assert_eq!(message.said, [Said::Ready]);
            // With all its writers closed, a pipe is at its end.
            drop(pipe.write);
            assert_eq!(nix::unistd::read(&pipe.read, &mut [0; 1]), Ok(0));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            parse(&bytes);
        }
    }
}
