//! What happens to one client: read, frame, queue, release, send back, close.

use super::client::{Client, Input, Output, receive};
use super::framing::{Next, Piece};
use super::outbox::Message;
use super::server::{BYTES, CONNECTIONS, MESSAGES, Server};
use super::settings::Framing;
use super::table::Token;
use super::timers::Timer;
use log::warn;
use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use std::time::Duration;

impl Server {
    /// A client came in.
    pub(super) fn welcome(&mut self, client: Client) {
        let token = self.clients.insert(|_| client);
        self.metrics.set(CONNECTIONS, self.clients.len() as u64);
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
            if !client.in_line {
                self.read(token);
            }
        }
    }

    /// Reads once, and takes the messages that are whole.
    fn read(&mut self, token: Token) {
        let Some(client) = self.clients.get(token) else { return };
        if client.paused {
            return;
        }
        let Some(most) = client.input.open() else { return };
        if self.outbox.is_full() {
            return self.settle(token);
        }
        let most = if self.framer.rule == Framing::Read { most.min(self.framer.max) } else { most };
        let room = client.stream.room(&mut self.pool, self.limit, most);
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
                    if !self.outbox.attach(token, end) && client.release(end, self.now) {
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
        if client.in_line {
            // Whole messages come first, when it is its turn.
            let again = self.now + self.partial_after().max(Duration::from_millis(1));
            return self.timers.set(again, Timer::Partial(token));
        }
        client.partial_timer = false;
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
        if client.release(end, self.now) {
            self.due.push(token);
        }
    }

    /// Sends back what is due.
    pub(super) fn flush(&mut self, token: Token) {
        let Some(client) = self.clients.get(token) else { return };
        client.due = false;
        if client.output == Output::Ready && !client.stream.due().is_empty() {
            let before = client.stream.held();
            match client.send_due() {
                Ok(all) => {
                    if client.stream.held() < before {
                        client.took = self.now;
                    }
                    if !all {
                        client.output = Output::Blocked;
                    }
                }
                Err(_) => return self.hang_up(token),
            }
        }
        self.settle(token);
    }

    /// The connection broke, or is given up. No echo goes any more, but what
    /// came before is still read and saved.
    pub(super) fn hang_up(&mut self, token: Token) {
        let Some(client) = self.clients.get(token) else { return };
        client.output = Output::Gone;
        client.stream.mute();
        // epoll says no more of a broken connection: it is read until nothing is left.
        (client.readable, client.ends, client.paused) = (true, true, false);
        if client.watched.take().is_some() {
            // A broken one can't be watched: it would be told again and again.
            let _not_watched = self.epoll.delete(&client.socket);
        }
        self.stand_in_line(token);
    }

    /// After anything happened to a client: close it, pause it, or go on, and
    /// tell epoll what is of interest now.
    pub(super) fn settle(&mut self, token: Token) {
        let Some(client) = self.clients.get(token) else { return };
        client.stream.rest(&mut self.pool);
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
        if self.draining && client.output == Output::Blocked && !client.stuck_timer {
            client.stuck_timer = true;
            self.timers.set(client.took + super::drain::STUCK_FOR, Timer::Stuck(token));
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
        self.door.left(client.peer.ip());
        client.stream.end(&mut self.pool);
        // Nothing is forked here, so closing it ends its watch too.
        drop(client.socket);
        let clients = &self.clients;
        self.timers.closed(|token| clients.contains(token));
        self.metrics.set(CONNECTIONS, self.clients.len() as u64);
        self.try_the_door();
    }

    fn partial_after(&self) -> Duration {
        Duration::from_millis(self.settings.partial_after_ms)
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.settings.idle_timeout_ms)
    }
}
