//! A plain epoll echo server that saves nothing. It shows what the machine can do.
//!
//! It has one thread, is level-triggered, and takes one read and one write for what a client
//! sent. It does not read from a client that doesn't read its echoes.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

const LISTENER: u64 = u64::MAX;
const END: u64 = u64::MAX - 1;

struct Client {
    stream: TcpStream,
    /// Bytes that were read but not yet sent back, which happens only if the client is slow.
    rest: Vec<u8>,
}

/// Echoes until `end` is readable or its other side is closed.
///
/// # Errors
/// From epoll(7) or accept(2); a client's errors only end that client.
pub(crate) fn serve(listener: &TcpListener, end: impl AsFd) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    listener.set_nonblocking(true)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    epoll.add(end.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, END))?;
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut events = [EpollEvent::empty(); 256];
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let ready = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => 0,
            other => other?,
        };
        for event in &events[..ready] {
            match event.data() {
                END => return Ok(()),
                LISTENER => accept(listener, &epoll, &mut clients)?,
                slot => serve_client(&mut clients[slot as usize], slot, &epoll, &mut buffer)?,
            }
        }
    }
}

fn accept(listener: &TcpListener, epoll: &Epoll, clients: &mut Vec<Option<Client>>) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => continue,
            Err(e) => return Err(e),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let slot = clients.iter().position(Option::is_none).unwrap_or(clients.len());
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, slot as u64))?;
        let client = Some(Client { stream, rest: Vec::new() });
        if slot < clients.len() {
            clients[slot] = client;
        } else {
            clients.push(client);
        }
    }
}

/// Serves a client, and frees its slot if it is done.
fn serve_client(slot: &mut Option<Client>, data: u64, epoll: &Epoll, buffer: &mut [u8]) -> io::Result<()> {
    let Some(client) = slot else { return Ok(()) };
    let waited = !client.rest.is_empty();
    match client.turn(buffer) {
        Ok(true) => {}
        Ok(false) => {
            *slot = None;
            return Ok(());
        }
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
        Err(_) => {
            *slot = None;
            return Ok(());
        }
    }
    let waits = !client.rest.is_empty();
    if waits != waited {
        let flags = if waits { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        epoll.modify(&client.stream, &mut EpollEvent::new(flags, data))?;
    }
    Ok(())
}

impl Client {
    /// Sends what waits, or reads once and sends that; returns false if the client has ended.
    fn turn(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if self.rest.is_empty() {
            let n = self.stream.read(buffer)?;
            let sent = match self.stream.write(&buffer[..n]) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
                other => other?,
            };
            self.rest.extend_from_slice(&buffer[sent..n]);
            Ok(n > 0)
        } else {
            let sent = self.stream.write(&self.rest)?;
            self.rest.drain(..sent);
            Ok(true)
        }
    }
}
