//! What a socket's two queues hold (tcp(7), ioctls).

use nix::libc::{FIONREAD, TIOCOUTQ, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// How many bytes have come and were not read yet (SIOCINQ).
///
/// # Errors
/// EINVAL for a listening socket, ENOTTY for what is no socket.
pub fn unread(socket: impl AsFd) -> io::Result<usize> {
    nix::ioctl_read_bad!(siocinq, FIONREAD, c_int);
    let mut bytes: c_int = 0;
    #[allow(unsafe_code)]
    // SAFETY: SIOCINQ stores one int through the pointer, which outlives the call.
    unsafe { siocinq(socket.as_fd().as_raw_fd(), &raw mut bytes) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// How many bytes were sent and are not yet acknowledged by the other side's
/// kernel (SIOCOUTQ). An end that was sent counts as one.
///
/// # Errors
/// EINVAL for a listening socket, ENOTTY for what is no socket.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<usize> {
    nix::ioctl_read_bad!(siocoutq, TIOCOUTQ, c_int);
    let mut bytes: c_int = 0;
    #[allow(unsafe_code)]
    // SAFETY: SIOCOUTQ stores one int through the pointer, which outlives the call.
    unsafe { siocoutq(socket.as_fd().as_raw_fd(), &raw mut bytes) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn both_queues_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
        let (mut far, _) = listener.accept().expect("connected");
        near.write_all(b"12345").expect("room");
        far.peek(&mut [0; 5]).expect("on its way");
        assert_eq!(unread(&far).expect("a socket"), 5);
        far.read_exact(&mut [0; 5]).expect("there");
        assert_eq!(unread(&far).expect("a socket"), 0);
        assert_eq!(unacknowledged(&far).expect("a socket"), 0);
    }
}
