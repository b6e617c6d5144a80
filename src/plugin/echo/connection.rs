//! The life of a connection: it is accepted, served, and ended.
//!
//! Closing a socket with unread input resets the connection, and a reset can destroy echoes
//! that are still on their way. So when this side ends a connection, it first sends its end
//! (FIN), then throws away what the client still sends, and closes the socket when the
//! client's kernel has everything.

use super::acceptor::Accepted;
use super::client::{Client, Output};
use super::fates::Fate;
use super::framing::Next;
use super::memory::Needs;
use super::peer::Peer;
use super::server::{ACCEPTED, CONNECTIONS, REFUSED, Server, Token};
use super::slots::Id;
use super::timeouts::LINGER_FOR;
use super::timers::Timer;
use super::transport::Read;
use log::warn;
use std::io;
use std::time::Duration;

/// The most clients of one listening socket that are accepted in a round, because others wait
/// too.
const ACCEPT_AT_ONCE: usize = 64;
/// How long no client is accepted after descriptors or memory ran out.
const EXHAUSTED_FOR: Duration = Duration::from_millis(100);
/// How many bytes of unwanted input are read at once.
const DISCARD: usize = 16 * 1024;
/// How many such reads are made in a row.
const DISCARD_AT_ONCE: usize = 16;

impl Server {
    /// Accepts the clients that wait at one listening socket.
    ///
    /// # Errors
    /// The socket is unusable.
    pub(super) fn accept(&mut self, listener: u32) -> Result<(), String> {
        for _ in 0..ACCEPT_AT_ONCE {
            match self.acceptor.accept(listener).map_err(|e| format!("cannot accept clients: {e}"))? {
                Accepted::Client(transport, peer, number) => {
                    self.metrics.add(ACCEPTED, 1);
                    self.welcome(Client::new(transport, peer, number, self.clock.now));
                }
                Accepted::Refused(peer, fate) => {
                    self.metrics.add(REFUSED, 1);
                    self.log(fate, peer);
                }
                Accepted::Vanished => {}
                Accepted::Nobody => break,
                Accepted::Exhausted(error) => {
                    self.pause_accepting(&error);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Descriptors or memory ran out: clients wait in the backlog.
    fn pause_accepting(&mut self, error: &io::Error) {
        self.acceptor.pause(error);
        self.timers.set(self.clock.now + EXHAUSTED_FOR, Timer::Accept);
    }

    /// A client was accepted.
    fn welcome(&mut self, client: Client) {
        let id = self.clients.insert(client);
        self.count_connections();
        if let Some(timeout) = self.timeouts.idle {
            self.timers.set(self.clock.now + timeout, Timer::Idle(id));
        }
        self.settle(id);
    }

    /// A client is no longer served.
    fn free_place(&mut self, peer: Peer) {
        self.acceptor.on_left(peer);
        self.count_connections();
    }

    fn count_connections(&self) {
        self.metrics.set(CONNECTIONS, self.acceptor.served() as u64);
    }

    /// Called after anything happened to a client. Closes it, pauses it or keeps it going, and
    /// updates what epoll watches it for.
    pub(super) fn settle(&mut self, id: Id) {
        let Some((client, memory)) = self.clients.get_with_memory(id) else { return };
        client.stream.rest(memory);
        if client.reading.lacks_memory() {
            self.wait_for_memory(id);
        }
        let Some((client, memory)) = self.clients.get_with_memory(id) else { return };
        if client.is_done() {
            match client.output {
                Output::Over(_) => {}
                Output::Gone => return self.close(id),
                _ if client.reading.has_ended() => return self.close(id),
                _ => return self.say_goodbye(id),
            }
        }
        client.reading.on_held(client.stream.held(), memory.limit());
        let (wanted, watched) = (client.wanted(), client.watched);
        if client.reading.is_due() {
            self.clients.stand_in_line(id);
        }
        if wanted != watched {
            self.watch(id);
        }
    }

    fn watch(&mut self, id: Id) {
        let Some(client) = self.clients.get(id) else { return };
        let Some(wanted) = client.wanted() else { return };
        let token = Token::Client(id);
        let watched = match client.watched {
            None => self.poll.add(&client.transport, wanted, token),
            Some(_) => self.poll.modify(&client.transport, wanted, token),
        };
        match watched {
            Ok(()) => client.watched = Some(wanted),
            Err(error) => {
                warn!("cannot watch the connection of {}: {error}", client.peer);
                self.close(id);
                self.pause_accepting(&error);
            }
        }
    }

    /// A client that is not read because memory is short continues once its own buffer has
    /// room. Its messages that are under way will make room. If there are none, it waits in
    /// line.
    fn wait_for_memory(&mut self, id: Id) {
        let Some((client, memory)) = self.clients.get_with_memory(id) else { return };
        let needs = client.stream.needs(memory);
        if needs == Needs::Nothing {
            client.reading.on_memory();
        } else if !client.stream.is_under_way() {
            self.clients.wait_for_memory(id, needs);
        }
    }

    /// The connection broke, which frees its place. No more echoes are sent, but what arrived
    /// earlier is still read and saved.
    pub(super) fn hang_up(&mut self, id: Id) {
        let Some(client) = self.clients.get(id) else { return };
        if client.output != Output::Gone {
            client.output = Output::Gone;
            client.stream.mute();
            client.reading.on_break();
            if client.watched.take().is_some() {
                // Otherwise it would be reported again and again.
                self.poll.remove(&client.transport);
            }
            let (peer, cut) = (client.peer, client.reading.is_cut());
            self.free_place(peer);
            self.acceptor.on_broken();
            if !cut {
                self.log(Fate::Broke, peer);
            }
        }
        self.clients.stand_in_line(id);
        if self.sink.outbox.is_full() {
            self.look_for_end(id);
        }
    }

    /// Ends a connection that can't be closed gracefully. What was read of it is saved, what
    /// the kernel still holds for it is dropped, and the client sees a reset.
    pub(super) fn cut_off(&mut self, id: Id, fate: Fate) {
        let Some(client) = self.clients.get(id) else { return };
        client.reading.cut();
        client.transport.reset_when_closed();
        let peer = client.peer;
        self.hang_up(id);
        self.log(fate, peer);
        self.frame(id, Next::End);
        self.settle(id);
    }

    /// Everything was sent. Sends the end (FIN), and closes the connection when it has arrived.
    fn say_goodbye(&mut self, id: Id) {
        let until = self.clock.now + LINGER_FOR;
        let Some(client) = self.clients.get(id) else { return };
        if client.transport.finish().is_err() {
            return self.close(id);
        }
        client.output = Output::Over(until);
        self.settle(id);
        self.linger(id);
        self.linger_on(id);
    }

    /// Throws away what a client sends after the end, and closes the connection when it is
    /// time.
    pub(super) fn linger(&mut self, id: Id) {
        let Some(client) = self.clients.get(id) else { return };
        let Output::Over(until) = client.output else { return };
        let mut ended = self.clock.now >= until;
        let mut unwanted = [0; DISCARD];
        for _ in 0..DISCARD_AT_ONCE {
            match client.transport.read(&mut unwanted) {
                Read::Bytes(_) => continue,
                Read::Nothing => {}
                Read::End | Read::Broken => ended = true,
            }
            break;
        }
        if client.transport.unacknowledged() == 0 {
            return self.close(id);
        }
        if ended {
            // The kernel keeps sending without this process, for at most `send_timeout`.
            let timeout = self.timeouts.send.unwrap_or_default().as_millis();
            client.transport.give_up_when_closed(u32::try_from(timeout).unwrap_or(u32::MAX));
            self.close(id);
        }
    }

    /// Forgets the client and closes its connection.
    pub(super) fn close(&mut self, id: Id) {
        let Some(client) = self.clients.remove(id) else { return };
        if client.output == Output::Gone {
            self.acceptor.on_broken_closed();
        } else {
            self.free_place(client.peer);
        }
        // No other process has this socket, so closing it ends its epoll watch too.
        drop(client.transport);
        let clients = &self.clients;
        self.timers.closed(|id| clients.contains(id));
        self.acceptor.retry();
    }
}
