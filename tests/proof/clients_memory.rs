//! Two thousand clients that send and never read: how much memory they take together, and for
//! how long.

use crate::clients_resets::arrived;
use crate::clients_service::{Service, Wanted, counts, mib};
use crate::daemon::wait_for;
use crate::load::generator::Connection;
use crate::load::message;
use crate::trial::Tried;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const MANY: u32 = 2000;
/// The length of their messages in bytes.
const LENGTH: usize = 1000;
/// The memory that they may take together, which half of them could fill, and the limit of the
/// control.
const MEMORY: u64 = 64 << 20;
const FOUR_TIMES: u64 = 4 * MEMORY;
/// The kernel's memory for each client, at both ends.
const KERNEL: u64 = 512 << 10;
/// send_timeout.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Others are served for this long at a time.
const ROUND: Duration = Duration::from_millis(100);

pub(crate) fn bounded(_times: f64) -> Tried {
    let mut service = start(MEMORY, TIMEOUT);
    let (before, kernel_before) = (service.memory("echo"), tcp_memory());
    let mut tried = fill(&service);
    let memory = service.memory("echo");
    let kernel = tcp_memory().saturating_sub(kernel_before) / u64::from(MANY);
    assert!(memory <= bound(before, MEMORY), "echo has {}, more than {}", mib(memory), mib(bound(before, MEMORY)));
    assert!(kernel <= KERNEL, "the kernel has {kernel} bytes for each");
    let began = Instant::now();
    while service.metric("echo", "send_timeouts") < u64::from(MANY) {
        assert!(began.elapsed() < 3 * TIMEOUT, "{} were closed", service.metric("echo", "send_timeouts"));
        std::thread::sleep(ROUND);
    }
    wait_for("all memory is released", || {
        (service.metric("echo", "connections") == 0 && service.metric("echo", "memory") == 0).then_some(())
    });
    let cleared = began.elapsed();
    let others: u64 = tried.others.iter().map(|c| u64::from(c.echoed)).sum();
    let mut connections: Vec<Connection> = tried.hogs.drain(..).map(Hog::end).collect();
    service.daemon.stop();
    arrived(&service.file(), &mut connections);
    connections.append(&mut tried.others);
    let checked = service.check(&connections);

    let more = start(FOUR_TIMES, Duration::ZERO);
    let hogs = fill(&more);
    let unbounded = more.memory("echo");
    assert!(unbounded > bound(before, MEMORY), "four times as much was not found out: {}", mib(unbounded));
    drop(hogs);
    Tried {
        count: format!("{MANY} clients that never read, {others} messages of others meanwhile"),
        outcome: format!(
            "{}; echo {} (at most {}), the kernel {} KiB for each with both ends; all closed {:.0} s after the last of them \
             could send (send_timeout {} s)",
            counts(&checked.verdict),
            mib(memory),
            mib(bound(before, MEMORY)),
            kernel >> 10,
            cleared.as_secs_f64(),
            TIMEOUT.as_secs()
        ),
        control: format!("max_memory four times as large: {}, found out; {}", mib(unbounded), checked.control),
    }
}

fn start(max_memory: u64, send_timeout: Duration) -> Service {
    let send_timeout = send_timeout.as_secs();
    let echo = format!("max_memory = \"{max_memory}B\"\nsend_timeout = \"{send_timeout}s\"\npartial_after = \"1h\"");
    Service::start(&Wanted { echo: &echo, ..Wanted::default() })
}

/// The memory that an echo may take: that, buffers for later clients, records, and a little for
/// each client.
fn bound(before: u64, max_memory: u64) -> u64 {
    before + max_memory + (8 << 20)
}

/// The kernel's memory for TCP (proc_net(5): sockstat, in pages).
fn tcp_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap();
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let at = words.iter().position(|word| *word == "mem").unwrap();
    words[at + 1].parse::<u64>().unwrap() * 4096
}

/// Clients that have sent as much as is taken, and those that were served meanwhile.
struct Filled {
    hogs: Vec<Hog>,
    others: Vec<Connection>,
}

fn fill(service: &Service) -> Filled {
    let mut hogs: Vec<Hog> = (0..MANY).map(|number| Hog::new(service, number)).collect();
    let (mut others, mut next, mut in_vain) = (Vec::new(), MANY, 0);
    while in_vain < 5 {
        let took = hogs.iter_mut().map(Hog::push).filter(|took| *took).count();
        in_vain = if took > 0 { 0 } else { in_vain + 1 };
        let served = service.load_for(ROUND, next);
        assert!(served.wrong.is_empty(), "{:?}", served.wrong);
        assert_eq!((served.disconnected, served.unanswered()), (0, 0));
        assert!(served.echoed() > 0, "others are not served");
        others.extend(served.connections);
        next += Service::OTHERS;
    }
    Filled { hogs, others }
}

/// A client that never reads.
struct Hog {
    stream: TcpStream,
    connection: Connection,
    /// The part of its current message that is not sent yet.
    unsent: Vec<u8>,
}

impl Hog {
    fn new(service: &Service, number: u32) -> Hog {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        // Segments of the size that Ethernet has, and a small buffer at the client's end, which is in
        // the same kernel here.
        setsockopt(&socket, sockopt::TcpMaxSeg, &1400).unwrap();
        setsockopt(&socket, sockopt::RcvBuf, &16384).unwrap();
        setsockopt(&socket, sockopt::SndBuf, &16384).unwrap();
        connect(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, service.port)).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(true).unwrap();
        let peer = stream.local_addr().unwrap().to_string();
        Hog { stream, connection: Connection::new(number, peer, LENGTH), unsent: Vec::new() }
    }

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

    /// The connection with the echoes that its kernel had received when it was closed. These are
    /// promised.
    fn end(mut self) -> Connection {
        let (mut back, mut sent) = (Vec::new(), Vec::new());
        self.stream.set_nonblocking(false).unwrap();
        let error = self.stream.read_to_end(&mut back).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        for sequence in 0..self.connection.sent {
            message::append(self.connection.number, sequence, LENGTH, &mut sent);
        }
        assert!(sent.starts_with(&back), "client {} got what it never sent", self.connection.number);
        self.connection.echoed = u32::try_from(back.len() / LENGTH).unwrap();
        self.connection
    }
}
