//! The load generator, against servers whose behaviour is known.

use crate::load::generator::{Outcome, Plan, run, run_warm};
use crate::load::histogram::Histogram;
use crate::load::{message, yardstick};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::Duration;

fn plan(address: SocketAddr) -> Plan {
    Plan {
        address,
        connections: 5,
        depth: 1,
        length: 128,
        first: 100,
        reconnect: false,
        lasts: Duration::from_millis(100),
        drain: Duration::from_secs(10),
    }
}

fn load(plan: &Plan) -> Outcome {
    run(plan, &AtomicBool::new(false)).expect("the server listens")
}

/// The yardstick on a thread of its own, until this is dropped.
struct Yardstick {
    address: SocketAddr,
    end: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Yardstick {
    fn start() -> Yardstick {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let address = listener.local_addr().expect("it is bound");
        let (end, other) = UnixStream::pair().expect("descriptors are left");
        let thread = thread::spawn(move || yardstick::serve(&listener, other).expect("it serves"));
        Yardstick { address, end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Yardstick {
    fn drop(&mut self) {
        drop(self.end.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))) || thread::panicking(), "the yardstick failed");
    }
}

/// A server for one connection at a time that does this with each, until it has served `count`.
fn server(count: usize, each: impl Fn(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = listener.local_addr().expect("it is bound");
    let thread = thread::spawn(move || {
        for stream in listener.incoming().take(count) {
            each(stream.expect("a client came"));
        }
    });
    (address, thread)
}

#[test]
fn every_echo_is_counted_and_waited_for() {
    let yardstick = Yardstick::start();
    for (depth, length) in [(1, 128), (8, message::SHORTEST), (3, 9000)] {
        let outcome = load(&Plan { depth, length, ..plan(yardstick.address) });
        assert_eq!((outcome.wrong.as_slice(), outcome.disconnected, outcome.refused), ([].as_slice(), 0, 0));
        assert_eq!(outcome.unanswered(), 0, "depth {depth}, length {length}");
        assert_eq!(outcome.latency.total(), outcome.echoed());
        assert!(outcome.rate() > 0.0 && outcome.elapsed <= Duration::from_secs(11));
        let numbers: Vec<u32> = outcome.connections.iter().map(|c| c.number).collect();
        assert_eq!(numbers, [100, 101, 102, 103, 104]);
        for c in &outcome.connections {
            assert!(c.sent >= depth && c.part == 0 && c.peer.starts_with("127.0.0.1:"), "{c:?}");
        }
    }
}

#[test]
fn a_warm_up_counts_for_neither_rate_nor_latency() {
    let yardstick = Yardstick::start();
    let warm_up = Duration::from_millis(50);
    let outcome = run_warm(&plan(yardstick.address), warm_up, &AtomicBool::new(false)).expect("the server listens");
    let counted = outcome.rate() * outcome.elapsed.as_secs_f64();
    assert_eq!(counted.round() as u64, outcome.latency.total());
    assert!((1..outcome.echoed()).contains(&outcome.latency.total()), "{} of {}", counted, outcome.echoed());
}

#[test]
fn more_under_way_than_the_sockets_hold_is_sent_when_there_is_room() {
    let yardstick = Yardstick::start();
    let outcome = load(&Plan { connections: 2, depth: 200, length: 100_000, ..plan(yardstick.address) });
    assert_eq!((outcome.unanswered(), outcome.wrong.as_slice()), (0, [].as_slice()));
    assert!(outcome.echoed() >= 400);
}

#[test]
fn a_request_to_stop_ends_it() {
    let yardstick = Yardstick::start();
    let hour = Plan { lasts: Duration::from_secs(3600), ..plan(yardstick.address) };
    let outcome = run(&hour, &AtomicBool::new(true)).expect("the server listens");
    assert_eq!((outcome.echoed(), outcome.unanswered()), (5, 0));
}

#[test]
fn a_wrong_echo_is_reported() {
    let (address, server) = server(1, |mut stream| {
        let mut message = [0; 128];
        stream.read_exact(&mut message).expect("it sends a message");
        message[77] ^= 1;
        stream.write_all(&message).expect("it reads");
    });
    let outcome = load(&Plan { connections: 1, ..plan(address) });
    server.join().expect("the server did its part");
    assert_eq!((outcome.wrong.len(), outcome.echoed(), outcome.unanswered()), (1, 0, 1));
    assert!(outcome.wrong[0].starts_with("connection 100, message 0, from byte 0: sent"), "{:?}", outcome.wrong);
}

#[test]
fn an_echo_of_something_that_was_not_sent_is_reported() {
    let (address, server) = server(1, |mut stream| {
        let mut message = [0; 128];
        stream.read_exact(&mut message).expect("it sends a message");
        let mut both = message.to_vec();
        message::append(100, 1, 128, &mut both);
        stream.write_all(&both).expect("it reads");
    });
    let outcome = load(&Plan { connections: 1, ..plan(address) });
    server.join().expect("the server did its part");
    assert_eq!((outcome.wrong.len(), outcome.echoed()), (1, 1));
}

#[test]
fn what_is_not_echoed_is_recorded_and_not_waited_for_longer_than_planned() {
    let (address, server) = server(1, |mut stream| {
        let mut message = [0; 128];
        stream.read_exact(&mut message).expect("it sends a message");
        stream.write_all(&message).expect("it reads");
        // It reads on and answers nothing, until the client leaves.
        let mut rest = Vec::new();
        let _reset = stream.read_to_end(&mut rest);
    });
    let drain = Duration::from_millis(50);
    let outcome = load(&Plan { connections: 1, depth: 3, drain, ..plan(address) });
    server.join().expect("the server did its part");
    let c = &outcome.connections[0];
    assert_eq!((c.sent, c.echoed, c.part, outcome.unanswered()), (4, 1, 0, 3));
}

#[test]
fn a_lost_connection_is_followed_by_one_with_a_number_of_its_own() {
    let (address, server) = server(3, |mut stream| {
        let mut message = [0; 128];
        stream.read_exact(&mut message).expect("it sends a message");
        stream.write_all(&message).expect("it reads");
        let _sent = stream.read(&mut message);
    });
    let lasts = Duration::from_secs(3600);
    let outcome = load(&Plan { connections: 1, reconnect: true, lasts, ..plan(address) });
    server.join().expect("the server did its part");
    // The server took three connections and closed. The load does not wait an hour for a fourth.
    assert_eq!(outcome.refused, 1, "{outcome:?}");
    let numbers: Vec<u32> = outcome.connections.iter().map(|c| c.number).collect();
    assert_eq!(numbers[..3], [100, 101, 102]);
    assert!(outcome.disconnected >= 3 && outcome.echoed() == 3);
}

#[test]
fn a_message_has_its_numbers_in_it() {
    for (connection, sequence, length) in [(0, 0, message::SHORTEST), (1, u32::MAX, 128), (0xdead_beef, 77, 4097)] {
        let mut out = Vec::new();
        message::append(connection, sequence, length, &mut out);
        assert_eq!((out.len(), message::numbers(&out)), (length, Some((connection, sequence))));
        assert_eq!(out.iter().position(|byte| *byte == b'\n'), Some(length - 1));
    }
    for wrong in ["", "00000000.0000000", "00000000 00000000 ", "0000000g.00000000 "] {
        assert_eq!(message::numbers(wrong.as_bytes()), None, "{wrong:?}");
    }
}

#[test]
fn an_empty_histogram_has_no_quantiles() {
    assert_eq!(Histogram::new().quantile(0.5), Duration::ZERO);
}

proptest! {
    #[test]
    fn quantiles_are_right_to_3_in_100(
        mut values in prop::collection::vec((0u32..63).prop_flat_map(|bits| 0u64..2 << bits), 1..500),
        share in 0.0..=1.0f64,
        split in 0usize..500,
    ) {
        let mut one = Histogram::new();
        let mut two = Histogram::new();
        for (at, value) in values.iter().enumerate() {
            let histogram = if at < split { &mut one } else { &mut two };
            histogram.record(Duration::from_nanos(*value));
        }
        one.merge(&two);
        values.sort_unstable();
        let rank = ((values.len() as f64 * share).ceil() as usize).max(1);
        let exact = values[rank - 1];
        let told = u64::try_from(one.quantile(share).as_nanos()).expect("it came from a u64");
        prop_assert_eq!(one.total(), values.len() as u64);
        prop_assert!(told >= exact && told - exact <= exact / 32, "{} told as {}", exact, told);
    }
}
