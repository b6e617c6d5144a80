//! Clients that send and never read, beside others that are served.

use crate::clients_latency::{Served, compare, stalled};
use crate::clients_service::{counts, mib};
use crate::load::generator::Connection;
use crate::load::message;
use crate::trial::Tried;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

const MANY: u32 = 100;
/// Enough clients to notice that memory is not bounded.
const FEWER: u32 = 30;
/// The length of a message of those that never read.
const LENGTH: usize = 16 << 10;
/// The length of a message of one that is served meanwhile.
const OTHER: usize = 128;
/// The default of max_message, and the larger one of the control.
const USUAL: u64 = 64 << 10;
const FOUR_TIMES: u64 = 256 << 10;

pub(crate) fn never_read(_times: f64) -> Tried {
    let (mut with, mut without) = (start(USUAL), start(USUAL));
    let before = with.service.memory("echo");
    let mut hogs = with.fill(1);
    let one = compare(|| with.measure(), || without.measure());
    hogs.extend(with.fill(MANY - 1));
    let memory = with.service.memory("echo");
    let many = compare(|| with.measure(), || without.measure());
    assert!(one.holds() && many.holds(), "one: {one}; {MANY}: {many}");
    let stalled = stalled(&mut with, &mut without);
    let bound = bound(before, MANY);
    assert!(memory <= bound, "echo has {}, more than {}", mib(memory), mib(bound));
    with.let_go(hogs);
    let (checked, alone) = (with.end(), without.end());

    let mut more = start(FOUR_TIMES);
    let hogs = more.fill(FEWER);
    let unbounded = more.service.memory("echo");
    assert!(
        unbounded > self::bound(before, FEWER),
        "an echo that takes four times as much was not found out: {}",
        mib(unbounded)
    );
    more.let_go(hogs);
    more.service.daemon.stop();
    Tried {
        count: format!(
            "{} rounds with one and {} with {MANY} clients that never read, each beside one without, {} messages",
            one.with.len(),
            many.with.len(),
            checked.verdict.echoed + alone.verdict.echoed
        ),
        outcome: format!(
            "others' latency with one: {one}; with {MANY}: {many}; {}; echo {} (at most {}: twice max_message a client and 6 MiB)",
            counts(&checked.verdict),
            mib(memory),
            mib(bound)
        ),
        control: format!(
            "{stalled}; max_message four times as large: {} with {FEWER} (at most {}), found out; {}",
            mib(unbounded),
            mib(self::bound(before, FEWER)),
            checked.control
        ),
    }
}

fn start(max_message: u64) -> Served {
    // They never read, for as long as it takes to look at the others.
    Served::start(&format!("max_message = \"{max_message}B\"\nsend_timeout = \"0s\""))
}

/// The memory that an echo may take with this many clients that take all they may.
fn bound(before: u64, clients: u32) -> u64 {
    before + u64::from(clients) * 2 * USUAL + (6 << 20)
}

/// A client that never reads.
struct Hog {
    stream: TcpStream,
    connection: Connection,
    /// The part of its current message that is not sent yet.
    unsent: Vec<u8>,
}

impl Served {
    /// Clients that have sent as much as is taken.
    fn fill(&mut self, count: u32) -> Vec<Hog> {
        let mut hogs: Vec<Hog> = (0..count).map(|_| self.hog()).collect();
        let mut other = self.service.connect();
        let number = self.number();
        let (mut in_vain, mut rounds) = (0, 0);
        let mut line = Vec::new();
        // Until none can send any more while another client is served many times.
        while in_vain < 50 {
            let took = hogs.iter_mut().map(Hog::push).filter(|took| *took).count();
            in_vain = if took > 0 { 0 } else { in_vain + 1 };
            line.clear();
            message::append(number, rounds, OTHER, &mut line);
            other.write_all(&line).unwrap();
            other.read_exact(&mut line).unwrap();
            rounds += 1;
        }
        let peer = other.local_addr().unwrap().to_string();
        self.connections.push(Connection { sent: rounds, echoed: rounds, ..Connection::new(number, peer, OTHER) });
        hogs
    }

    fn hog(&mut self) -> Hog {
        let kind = (AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC);
        let socket = socket(kind.0, kind.1, kind.2, None).unwrap();
        // Segments of the size that Ethernet has. With those of the loopback interface, the
        // kernel holds megabytes for each.
        setsockopt(&socket, sockopt::TcpMaxSeg, &1400).unwrap();
        let address = SockaddrIn::new(127, 0, 0, 1, self.service.port);
        connect(socket.as_raw_fd(), &address).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(true).unwrap();
        let (number, peer) = (self.number(), stream.local_addr().unwrap().to_string());
        let connection = Connection::new(number, peer, LENGTH);
        Hog { stream, connection, unsent: Vec::new() }
    }

    /// Finally they read, and get everything.
    fn let_go(&mut self, hogs: Vec<Hog>) {
        for Hog { mut stream, mut connection, unsent } in hogs {
            stream.set_nonblocking(false).unwrap();
            let mut writer = stream.try_clone().unwrap();
            let (mut back, mut sent) = (Vec::new(), Vec::new());
            std::thread::scope(|scope| {
                // Send the rest of the current line, once there is room.
                scope.spawn(move || {
                    writer.write_all(&unsent).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                stream.read_to_end(&mut back).unwrap();
            });
            for sequence in 0..connection.sent {
                message::append(connection.number, sequence, LENGTH, &mut sent);
            }
            assert!(back == sent, "client {}: {} bytes sent, {} back", connection.number, sent.len(), back.len());
            connection.echoed = connection.sent;
            self.connections.push(connection);
        }
    }
}

impl Hog {
    /// Sends as much as is taken. Returns whether anything was.
    fn push(&mut self) -> bool {
        let mut took = false;
        loop {
            if self.unsent.is_empty() {
                message::append(self.connection.number, self.connection.sent, LENGTH, &mut self.unsent);
                self.connection.sent += 1;
            }
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return took,
                Err(error) => panic!("cannot send: {error}"),
            }
            took = true;
        }
    }
}
