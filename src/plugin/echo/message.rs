//! The path of a message: it is read, framed and put into the outbox. Once it is settled,
//! its echo is sent.
//!
//! ```text
//! on_client -> read -> take_in -> frame -> Outbox::push -> Sink::write
//!                                   Outbox::settled -> release -> flush
//! ```

use super::client::Output;
use super::framing::{Next, Piece};
use super::memory::Waiting;
use super::outbox::Message;
use super::server::{BYTES, MESSAGES, Server};
use super::slots::Id;
use super::timers::Timer;
use super::transport::Read;
use nix::sys::epoll::EpollFlags;

impl Server {
    /// epoll reported something about a client.
    pub(super) fn on_client(&mut self, id: Id, flags: EpollFlags) {
        let Some(client) = self.clients.get(id) else { return };
        let broken = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        match client.output {
            Output::Over(_) if broken => return self.close(id),
            Output::Over(_) => return self.linger(id),
            _ if broken => return self.hang_up(id),
            Output::Blocked if flags.contains(EpollFlags::EPOLLOUT) => {
                client.output = Output::Ready;
                self.flush(id);
            }
            _ => {}
        }
        let end = flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLPRI);
        if flags.contains(EpollFlags::EPOLLIN) || end {
            let Some(client) = self.clients.get(id) else { return };
            client.reading.on_report(end);
            match client.lists.in_line() {
                false => self.read(id),
                // Its turn may be far off if the sink takes nothing.
                true if end => self.look_for_end(id),
                true => {}
            }
        }
    }

    /// Reads once if that is possible now, and queues the whole messages.
    fn read(&mut self, id: Id) {
        let Some((client, memory)) = self.clients.get_with_memory(id) else { return };
        if !client.reading.may_begin() {
            return;
        }
        if memory.waiting.is_anyone_before(client.stream.needs(memory)) {
            client.reading.on_no_memory();
            return self.look_for_end(id);
        }
        if self.sink.outbox.is_full() {
            return self.look_for_end(id);
        }
        self.take_in(id);
    }

    fn take_in(&mut self, id: Id) {
        let Some((client, memory)) = self.clients.get_with_memory(id) else { return };
        if !client.reading.is_open() {
            return;
        }
        let most = self.framer.most_at_once().min(client.reading.most());
        let Some(room) = client.stream.room(memory, most) else {
            client.reading.on_no_memory();
            return self.look_for_end(id);
        };
        let size = room.len();
        match client.transport.read(room) {
            Read::Bytes(count) => {
                client.stream.received(count);
                client.reading.on_bytes(count, size);
                client.heard = self.clock.now;
                self.metrics.add(BYTES, count as u64);
            }
            Read::Nothing if client.output != Output::Gone => client.reading.on_nothing(),
            ended => self.on_end(id, ended),
        }
        self.frame(id, Next::MayCome);
        self.settle(id);
    }

    /// Nothing more can come from a client: it has ended its side, its connection is broken,
    /// or its output is gone and nothing is left to read.
    fn on_end(&mut self, id: Id, found: Read) {
        if let Some(client) = self.clients.get(id) {
            client.reading.on_end();
        }
        if matches!(found, Read::Broken) {
            self.hang_up(id);
        }
    }

    /// A client that can't be read now may have ended with nothing left to read. Then it need
    /// not wait, and its place can be freed.
    pub(super) fn look_for_end(&mut self, id: Id) {
        let Some(client) = self.clients.get(id) else { return };
        if client.reading.may_have_ended() {
            match client.transport.peek() {
                Read::Nothing if client.output != Output::Gone => {}
                Read::Bytes(_) => {}
                ended => self.on_end(id, ended),
            }
            self.frame(id, Next::MayCome);
        }
        self.settle(id);
    }

    /// Puts the whole messages into the outbox.
    pub(super) fn frame(&mut self, id: Id, next: Next) {
        let Some(client) = self.clients.get(id) else { return };
        let outbox = &mut self.sink.outbox;
        let next = if client.reading.is_open() { next } else { Next::End };
        let (mut messages, mut settled) = (0, None);
        while !outbox.is_full() {
            let left = client.stream.unframed();
            let Some(piece) = self.framer.next(left, &mut client.framing, next) else { break };
            let (payload, more) = match piece {
                Piece::Message { payload, .. } => (payload, false),
                Piece::Part { payload } => (payload, true),
                Piece::Completion { line_end } => {
                    let end = client.stream.queue(line_end);
                    if !outbox.attach(id, end) {
                        settled = Some(end);
                    }
                    continue;
                }
            };
            let end = client.stream.position_after(piece.len());
            let payload = &left[..payload];
            let (peer, connection) = (client.peer, client.number);
            outbox.push(Message { payload, more, peer, connection, time: self.clock.wall }, id, end);
            client.stream.queue(piece.len());
            messages += u64::from(!more);
        }
        self.metrics.add(MESSAGES, messages);
        if !client.stream.unframed().is_empty() {
            if outbox.is_full() {
                self.clients.stand_in_line(id);
            } else if !client.partial_timer {
                client.partial_timer = true;
                self.timers.set(client.heard + self.timeouts.partial, Timer::Partial(id));
            }
        }
        if let Some(end) = settled {
            self.clients.release(id, end);
        }
    }

    /// Gives each client in line its turn until the outbox is full. A client that has more
    /// goes to the end of the line.
    pub(super) fn move_line(&mut self) {
        for _ in 0..self.clients.in_line() {
            if self.sink.outbox.is_full() {
                return;
            }
            let Some(id) = self.clients.next_in_line() else { return };
            let Some(client) = self.clients.get(id) else { continue };
            let reads = client.reading.is_readable();
            self.frame(id, Next::MayCome);
            if reads {
                self.read(id);
            }
            self.settle(id);
        }
    }

    /// Reads the clients that wait for memory, one after the other, as far as memory and the
    /// outbox allow.
    pub(super) fn move_memory_lines(&mut self) {
        if !self.clients.memory.waiting.may_move() || self.sink.outbox.is_full() {
            return;
        }
        self.clients.memory.waiting.move_once();
        for line in Waiting::<Id>::ALL {
            while !self.sink.outbox.is_full() {
                let Some((id, reads)) = self.clients.next_for_memory(line) else { break };
                if reads {
                    self.take_in(id);
                } else {
                    self.settle(id);
                }
            }
        }
        if self.sink.outbox.is_full() {
            self.clients.memory.waiting.move_again();
        }
    }

    /// Sends the echoes whose messages are settled.
    pub(super) fn echo_settled(&mut self) {
        while let Some(echo) = self.sink.outbox.settled() {
            self.clients.release(echo.id, echo.end);
        }
        while let Some(id) = self.clients.next_due() {
            self.flush(id);
        }
    }

    /// Sends back what is due to a client.
    fn flush(&mut self, id: Id) {
        let Some(client) = self.clients.get(id) else { return };
        if client.output == Output::Ready && !client.stream.due().is_empty() {
            if client.send_due().is_err() {
                return self.hang_up(id);
            }
            if client.taking.is_none() {
                self.watch_taking(id);
            }
        }
        self.settle(id);
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Needs;
    use super::super::settings::{EchoAfter, Settings};
    use super::*;
    use crate::link::handover::Links;
    use crate::plugin::start::{Metrics, Start};
    use crate::sys::signals::Signals;
    use std::io::Write;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    fn server(settings: &Settings) -> (Server, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = Server::open(Start {
            child: "echo".to_owned(),
            settings: serde_json::to_string(settings).expect("plain data"),
            listeners: vec![listener.into()],
            links: Links::default(),
            metrics: Metrics::private(),
            shared: None,
            signals: Signals::catch(&[]).expect("a pipe"),
            supervisor: nix::unistd::getppid(),
        });
        (server.expect("right settings"), address)
    }

    /// A client that has sent this many bytes of a line, and is read as far as possible.
    fn come(server: &mut Server, to: SocketAddr, bytes: usize) -> (TcpStream, Id) {
        let mut client = TcpStream::connect(to).expect("listening");
        server.accept(0).expect("a listening socket");
        let id = *server.clients.ids().last().expect("it came in");
        client.write_all(&vec![b'x'; bytes]).expect("room");
        while server.clients.get(id).expect("it is there").transport.pending() < bytes {}
        server.on_client(id, EpollFlags::EPOLLIN);
        for _ in 0..3 {
            server.move_line();
            server.move_memory_lines();
        }
        (client, id)
    }

    #[test]
    fn a_client_that_got_room_before_its_turn_for_memory_does_not_pass_max_memory() {
        // Two buffers of the maximum size: one for a client that can't continue otherwise,
        // and one for first buffers.
        let max_memory = 64 * 1024;
        let settings =
            Settings { max_memory, max_message: 16 * 1024, echo_after: EchoAfter::Queued, ..Settings::default() };
        let (mut server, to) = server(&settings);
        let _long = come(&mut server, to, 12_000);
        // Each has hardly any room left in its first buffer, and nothing more to read.
        let (_clients, ids): (Vec<_>, Vec<_>) = (0..7).map(|_| come(&mut server, to, 3700)).unzip();
        assert_eq!(server.clients.memory.held(), 32 * 1024 + 7 * 4096);
        for id in ids {
            // It was short of memory when it held more than now. The outbox was full again and
            // again, so its echoes left little by little.
            let client = server.clients.get(id).expect("it is there");
            assert!(!client.reading.lacks_memory() && !client.reading.is_readable());
            server.clients.wait_for_memory(id, Needs::More(4096));
        }
        server.move_memory_lines();
        let held = server.clients.memory.held();
        assert!(held <= max_memory, "{held} bytes");
        assert!(!server.clients.memory.waiting.is_anyone_before(Needs::More(1)), "they wait for nothing");
    }
}
