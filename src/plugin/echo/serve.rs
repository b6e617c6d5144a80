//! What happens to one client: read, frame, queue, release, send back, close.

use super::client::{Client, Input, Output, has_ended, receive};
use super::fates::Fate;
use super::framing::{Next, Piece};
use super::memory::{Lines, Needs};
use super::outbox::Message;
use super::server::{BYTES, CONNECTIONS, MESSAGES, Server};
use super::settings::Framing;
use super::table::Token;
use super::timers::Timer;
use log::warn;
use nix::errno::Errno;
use nix::libc::linger;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::socket::{setsockopt, sockopt};
use std::net::SocketAddr;
use std::time::Duration;

impl Server {
    /// A client came in.
    pub(super) fn welcome(&mut self, client: Client) {
        let token = self.clients.insert(|_| client);
        self.metrics.set(CONNECTIONS, self.places_taken() as u64);
        if self.settings.idle_timeout_ms > 0 {
            self.timers.set(self.now + self.idle_timeout(), Timer::Idle(token));
        }
        self.settle(token);
    }

    /// epoll told something of a client.
    pub(super) fn on_client(&mut self, token: Token, events: EpollFlags) {
        let Some(client) = self.clients.get(token) else { return };
        let broken = events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        match client.output {
            Output::Over(_) if broken => return self.close(token),
            Output::Over(_) => return self.linger(token),
            _ if broken => return self.hang_up(token),
            Output::Blocked if events.contains(EpollFlags::EPOLLOUT) => {
                client.output = Output::Ready;
                self.flush(token);
            }
            _ => {}
        }
        let ends = events.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLPRI);
        if events.contains(EpollFlags::EPOLLIN) || ends {
            let Some(client) = self.clients.get(token) else { return };
            client.readable = true;
            client.ends |= ends;
            match client.in_line {
                false => self.read(token),
                // Its turn may be far, where the sink takes nothing.
                true if ends => self.look_for_end(token),
                true => {}
            }
        }
    }

    /// Reads once, if there is room for it, and takes the messages that are whole.
    fn read(&mut self, token: Token) {
        let Some(client) = self.clients.get(token) else { return };
        if client.paused || client.input.open().is_none() {
            return;
        }
        if self.memory_lines.is_anyone_before(client.stream.needs(self.limit)) {
            client.short = true;
            return self.look_for_end(token);
        }
        if self.outbox.is_full() {
            return self.look_for_end(token);
        }
        self.take_in(token);
    }

    /// A client that can't be read now may have ended, with nothing left to be read:
    /// then it need not wait, and its place may be free.
    fn look_for_end(&mut self, token: Token) {
        let Some(client) = self.clients.get(token) else { return };
        if client.ends && client.input.open().is_some() {
            match has_ended(&client.socket) {
                Ok(true) => client.input = Input::Ended,
                Err(Errno::EAGAIN) if client.output == Output::Gone => client.input = Input::Ended,
                Ok(false) | Err(Errno::EAGAIN) => {}
                Err(_) => {
                    client.input = Input::Ended;
                    self.hang_up(token);
                }
            }
            self.frame(token, Next::MayCome);
        }
        self.settle(token);
    }

    fn take_in(&mut self, token: Token) {
        let Some(client) = self.clients.get(token) else { return };
        let Some(most) = client.input.open() else { return };
        let most = if self.framer.rule == Framing::Read { most.min(self.framer.max) } else { most };
        let Some(room) = client.stream.room(&mut self.memory, self.limit, most) else {
            client.short = true;
            return self.look_for_end(token);
        };
        let room_for = room.len();
        match receive(&client.socket, room) {
            Ok(0) => client.input = Input::Ended,
            Ok(count) => {
                client.after_read(count, room_for);
                client.stream.received(count);
                client.input = client.input.after(count);
                client.heard = self.now;
                self.metrics.add(BYTES, count as u64);
            }
            Err(Errno::EAGAIN) if client.output == Output::Gone => client.input = Input::Ended,
            Err(Errno::EAGAIN) => {
                client.readable = false;
                client.input = client.input.after_nothing();
            }
            Err(_) => {
                client.input = Input::Ended;
                self.hang_up(token);
            }
        }
        self.frame(token, Next::MayCome);
        self.settle(token);
    }

    /// Queues the messages that are whole.
    pub(super) fn frame(&mut self, token: Token, next: Next) {
        let Some(client) = self.clients.get(token) else { return };
        let next = if client.input.open().is_some() { next } else { Next::End };
        let mut messages = 0;
        while !self.outbox.is_full() {
            let left = client.stream.unframed();
            let Some(piece) = self.framer.next(left, &mut client.framing, next) else { break };
            let (payload, more) = match piece {
                Piece::Message { payload, .. } => (payload, false),
                Piece::Part { payload } => (payload, true),
                Piece::Completion { line_end } => {
                    let end = client.stream.queue(line_end);
                    if !self.outbox.attach(token, end) && client.release(end) {
                        self.due.push(token);
                    }
                    continue;
                }
            };
            let end = client.stream.position_after(piece.len());
            let payload = &client.stream.unframed()[..payload];
            let (peer, connection) = (client.peer, client.number);
            self.outbox.push(Message { payload, more, peer, connection, time: self.time }, token, end);
            client.stream.queue(piece.len());
            messages += u64::from(!more);
        }
        self.metrics.add(MESSAGES, messages);
        let left = !client.stream.unframed().is_empty();
        if left && self.outbox.is_full() {
            self.stand_in_line(token);
        } else if left && !client.partial_timer {
            client.partial_timer = true;
            let at = client.heard + self.partial_after();
            self.timers.set(at, Timer::Partial(token));
        }
    }

    /// Silence after bytes without a line end.
    pub(super) fn on_partial(&mut self, token: Token) {
        let Some(client) = self.clients.get(token) else { return };
        client.partial_timer = false;
        if client.in_line || client.readable {
            // Whole messages come first, and what it may have sent behind this: when it is
            // read, the timer is set again.
            return;
        }
        let silent = self.now >= client.heard + self.partial_after();
        self.frame(token, if silent { Next::Idle } else { Next::MayCome });
        self.settle(token);
    }

    /// The client waits for its turn: until the outbox takes more, or the next
    /// round.
    fn stand_in_line(&mut self, token: Token) {
        let Some(client) = self.clients.get(token) else { return };
        if !client.in_line {
            client.in_line = true;
            self.line.push_back(token);
        }
    }

    /// Those that stand in line go on, one after the other, as far as the outbox
    /// goes. Who has more stands behind the others again.
    pub(super) fn move_line(&mut self) {
        for _ in 0..self.line.len() {
            if self.outbox.is_full() {
                return;
            }
            let Some(token) = self.line.pop_front() else { return };
            let Some(client) = self.clients.get(token) else { continue };
            client.in_line = false;
            let reads = client.readable;
            self.frame(token, Next::MayCome);
            if reads {
                self.read(token);
            }
            self.settle(token);
        }
    }

    /// Everything up to `end` may go back.
    pub(super) fn release(&mut self, token: Token, end: u64) {
        let Some(client) = self.clients.get(token) else { return };
        if client.release(end) {
            self.due.push(token);
        }
    }

    /// Sends back what is due.
    pub(super) fn flush(&mut self, token: Token) {
        let Some(client) = self.clients.get(token) else { return };
        client.due = false;
        if client.output == Output::Ready && !client.stream.due().is_empty() {
            match client.send_due() {
                Ok(true) => {}
                Ok(false) => client.output = Output::Blocked,
                Err(_) => return self.hang_up(token),
            }
            if client.stuck_at.is_none() {
                self.watch_taking(token);
            }
        }
        self.settle(token);
    }

    /// The connection broke: its place is free. No echo goes any more, but what came
    /// before is still read and saved.
    pub(super) fn hang_up(&mut self, token: Token) {
        let Some(client) = self.clients.get(token) else { return };
        if client.output != Output::Gone {
            client.output = Output::Gone;
            client.stream.mute();
            let peer = client.peer;
            // epoll says no more of a broken connection: it is read until nothing is left.
            (client.readable, client.ends, client.paused) = (true, true, false);
            if client.watched.take().is_some() {
                // A broken one can't be watched: it would be told again and again.
                let _not_watched = self.epoll.delete(&client.socket);
            }
            let cut = client.input == Input::Cut;
            self.gone += 1;
            self.gave_up_place(peer);
            if !cut {
                self.met(Fate::Broke, peer);
            }
        }
        self.stand_in_line(token);
        if self.outbox.is_full() {
            self.look_for_end(token);
        }
    }

    /// Ends a connection that can't be ended in order: what came of it is saved, what the
    /// kernel holds for it is dropped, and the client is told so (RST).
    pub(super) fn cut_off(&mut self, token: Token, fate: Fate) {
        let Some(client) = self.clients.get(token) else { return };
        client.input = Input::Cut;
        let at_once = linger { l_onoff: 1, l_linger: 0 };
        // It may have broken by itself, which does the same.
        let _broken = setsockopt(&client.socket, sockopt::Linger, &at_once);
        let peer = client.peer;
        self.hang_up(token);
        self.met(fate, peer);
        self.frame(token, Next::End);
        self.settle(token);
    }

    /// After anything happened to a client: close it, pause it, or go on, and
    /// tell epoll what is of interest now.
    pub(super) fn settle(&mut self, token: Token) {
        let Some(client) = self.clients.get(token) else { return };
        client.stream.rest(&mut self.memory);
        if client.short {
            self.wait_for_memory(token);
        }
        let Some(client) = self.clients.get(token) else { return };
        if client.is_done() {
            match (client.output, client.input) {
                (Output::Over(_), _) => {}
                (Output::Gone, _) | (_, Input::Ended) => return self.close(token),
                _ => return self.say_goodbye(token),
            }
        }
        let held = client.stream.held();
        client.paused = held > if client.paused { self.limit.low() } else { self.limit.high() };
        if client.is_to_be_read() && !client.in_line {
            client.in_line = true;
            self.line.push_back(token);
        }
        let wanted = client.wanted();
        if wanted == client.watched {
            return;
        }
        let told = match (client.watched, wanted) {
            (None, Some(flags)) => self.epoll.add(&client.socket, EpollEvent::new(flags, token.into())),
            (Some(_), Some(flags)) => self.epoll.modify(&client.socket, &mut EpollEvent::new(flags, token.into())),
            (_, None) => return,
        };
        match told {
            Ok(()) => client.watched = wanted,
            Err(error) => {
                warn!("cannot watch the connection of {}: {error}", client.peer);
                self.close(token);
                self.let_nobody_in(&error.into());
            }
        }
    }

    /// Forgets the client and closes its socket.
    pub(super) fn close(&mut self, token: Token) {
        let Some(client) = self.clients.remove(token) else { return };
        if client.output == Output::Gone {
            self.gone -= 1;
        } else {
            self.gave_up_place(client.peer);
        }
        client.stream.end(&mut self.memory);
        // Nothing is forked here, so closing it ends its watch too.
        drop(client.socket);
        let clients = &self.clients;
        self.timers.closed(|token| clients.contains(token));
        self.try_the_door();
    }

    fn gave_up_place(&mut self, peer: SocketAddr) {
        self.door.left(peer.ip());
        self.metrics.set(CONNECTIONS, self.places_taken() as u64);
    }

    /// A client that is not read for want of memory goes on once there is room in its
    /// own buffer. If no message of its is under way, which would make room, it stands
    /// in line.
    fn wait_for_memory(&mut self, token: Token) {
        let Some(client) = self.clients.get(token) else { return };
        let needs = client.stream.needs(self.limit);
        if needs == Needs::Nothing || client.input.open().is_none() {
            client.short = false;
        } else if !client.in_memory_line && !client.stream.is_under_way() {
            client.in_memory_line = true;
            self.memory_lines.push(needs, token);
        }
    }

    /// Those that wait for memory are read, one after the other, as far as it goes.
    pub(super) fn move_memory_lines(&mut self) {
        self.memory_lines.memory_came(self.memory.take_came_back());
        if !self.memory_lines.may_move() || self.outbox.is_full() {
            return;
        }
        self.memory_lines.moves();
        for line in Lines::<Token>::ALL {
            while let Some(token) = self.memory_lines.first(line) {
                if self.outbox.is_full() {
                    // They go on with it.
                    return self.memory_lines.memory_came(true);
                }
                if !self.serve_from_memory_line(token) {
                    break;
                }
                self.memory_lines.pop(line);
            }
        }
    }

    /// Reads the first in line, if there is memory for it now; whether it was its turn.
    fn serve_from_memory_line(&mut self, token: Token) -> bool {
        let Some(client) = self.clients.get(token) else { return true };
        // One that has got room meanwhile, or will by its own echoes, just leaves the line.
        let mut reads = false;
        if client.short && !client.stream.is_under_way() {
            match client.stream.needs(self.limit) {
                needs if self.memory.has(needs) => {}
                Needs::More(_) if client.stream.lengthen(&mut self.memory, self.limit) => {}
                _ => return false,
            }
            client.short = false;
            reads = !client.paused;
        }
        client.in_memory_line = false;
        if reads {
            self.take_in(token);
        } else {
            self.settle(token);
        }
        true
    }

    fn partial_after(&self) -> Duration {
        Duration::from_millis(self.settings.partial_after_ms)
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.settings.idle_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::{EchoAfter, Settings};
    use super::*;
    use crate::link::handover::Links;
    use crate::plugin::start::{Metrics, Start};
    use crate::sys::signals::Signals;
    use crate::sys::socket::unread;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    fn server(settings: &Settings) -> Server {
        Server::open(Start {
            child: "echo".to_owned(),
            settings: serde_json::to_string(settings).expect("plain data"),
            listeners: Vec::new(),
            links: Links::default(),
            metrics: Metrics::private(),
            shared: None,
            signals: Signals::catch(&[]).expect("a pipe"),
            supervisor: nix::unistd::getppid(),
        })
        .expect("right settings")
    }

    /// A client that has sent that much of a line, and is read as far as it goes.
    fn come(server: &mut Server, bytes: usize) -> (TcpStream, Token) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
        let (socket, peer) = listener.accept().expect("it waits");
        client.write_all(&vec![b'x'; bytes]).expect("room");
        while unread(&socket).expect("a socket") < bytes {}
        server.welcome(Client::new(socket.into(), peer, 1, server.now));
        let token = *server.clients.tokens().last().expect("it came in");
        server.on_client(token, EpollFlags::EPOLLIN);
        for _ in 0..3 {
            server.move_line();
            server.move_memory_lines();
        }
        (client, token)
    }

    #[test]
    fn a_client_that_got_room_before_its_turn_for_memory_does_not_pass_max_memory() {
        // Two of the longest buffers: one for whoever can't go on otherwise, the other as
        // first buffers.
        let max_memory = 64 * 1024;
        let settings =
            Settings { max_memory, max_message: 16 * 1024, echo_after: EchoAfter::Queued, ..Settings::default() };
        let mut server = server(&settings);
        let _long = come(&mut server, 12_000);
        // Each has hardly any room left in its first buffer, and nothing more to be read.
        let (_clients, tokens): (Vec<_>, Vec<_>) = (0..7).map(|_| come(&mut server, 3700)).unzip();
        assert_eq!(server.memory.held(), 32 * 1024 + 7 * 4096);
        for token in tokens {
            // It was short of memory once, for more than it has by now: the outbox was full
            // again and again, so its echoes left by and by.
            let client = server.clients.get(token).expect("it is there");
            assert!(!client.short && !client.readable);
            client.in_memory_line = true;
            server.memory_lines.push(Needs::More(4096), token);
        }
        server.move_memory_lines();
        assert!(server.memory.held() <= max_memory, "{} bytes", server.memory.held());
        assert!(!server.memory_lines.is_anyone_before(Needs::More(1)), "they wait for nothing");
    }
}
