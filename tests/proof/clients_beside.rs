//! How others are served beside clients that misbehave, for each kind of misbehaviour.

use crate::clients_crowd::{self, CROWD, HALF, LINE};
use crate::clients_latency::{Latency, Quantiles, Served, compare, stalled};
use crate::clients_resets::{arrived, no_reset, reset};
use crate::clients_service::Service;
use crate::daemon::wait_for;
use crate::load::checker::Format;
use crate::load::generator::Connection;
use crate::load::message;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How others were served.
pub(crate) struct Beside {
    pub(crate) outcome: String,
    pub(crate) control: String,
}

/// The comparison and its control. All clients end as they should.
fn held(latency: &Latency, with: &mut Served, without: &mut Served) -> Beside {
    assert!(latency.holds(), "others' latency is {latency}");
    Beside { outcome: format!("others' latency {latency}"), control: stalled(with, without) }
}

/// Others are served while one client after the other resets its connection, and, to compare,
/// while one client after the other sends as much and does not.
pub(crate) fn resets() -> Beside {
    /// More than there are clients, to number them.
    const MOST: u32 = 10_000;
    let (mut with, mut without) = (Served::start_as(Format::Text, ""), Served::start(""));
    assert_eq!((with.numbers(MOST), without.numbers(MOST)), (0, 0));
    let (mut reset_ones, mut others) = (Vec::new(), Vec::new());
    let latency = compare(
        || one_after_the_other(&mut with, &mut reset_ones, reset),
        || one_after_the_other(&mut without, &mut others, no_reset),
    );
    let beside = held(&latency, &mut with, &mut without);
    wait_for("all are gone", || (with.service.metric("echo", "connections") == 0).then_some(()));
    arrived(&with.service.file(), &mut reset_ones);
    let (resets, ordinary) = (reset_ones.len(), others.len());
    with.connections.extend(reset_ones);
    without.connections.extend(others);
    with.end();
    without.end();
    let outcome =
        format!("{} beside {resets} resets what it is beside {ordinary} clients that send as much", beside.outcome);
    Beside { outcome, ..beside }
}

/// Measures others while clients come, each of which ends before the next.
fn one_after_the_other(
    served: &mut Served,
    all: &mut Vec<Connection>,
    one: fn(&Service, u32) -> Connection,
) -> Quantiles {
    let first = u32::try_from(all.len()).unwrap();
    let (quantiles, more) = served.measure_while(|service, done| {
        let mut clients = Vec::new();
        while !done.load(Ordering::Relaxed) {
            clients.push(one(service, first + u32::try_from(clients.len()).unwrap()));
            // They should trouble the echo, not the whole machine.
            std::thread::sleep(Duration::from_millis(2));
        }
        clients
    });
    all.extend(more);
    quantiles
}

/// Others are served beside lines of 1 MiB, and beside the same bytes in lines of max_message.
pub(crate) fn long_lines() -> Beside {
    let (mut with, mut without) = (Served::start_as(Format::Json, ""), Served::start(""));
    let latency = compare(|| beside_lines(&mut with, 1, 1 << 20), || beside_lines(&mut without, 16, 64 << 10));
    let beside = held(&latency, &mut with, &mut without);
    with.end();
    without.end();
    Beside { outcome: format!("{} what it is beside the same bytes in lines of 64 KiB", beside.outcome), ..beside }
}

/// One client sends this many lines at once, again and again.
fn beside_lines(served: &mut Served, at_once: u32, length: usize) -> Quantiles {
    let number = served.number();
    let (quantiles, connection) = served.measure_while(|service, done| {
        let mut stream = service.connect();
        let mut connection = Connection::new(number, stream.local_addr().unwrap().to_string(), length);
        while !done.load(Ordering::Relaxed) {
            let mut sent = Vec::new();
            (0..at_once).for_each(|more| message::append(number, connection.sent + more, length, &mut sent));
            assert!(exchanged(&mut stream, &sent) == sent, "an echo differs");
            connection.sent += at_once;
            std::thread::sleep(Duration::from_millis(30));
        }
        connection.echoed = connection.sent;
        connection
    });
    served.connections.push(connection);
    quantiles
}

/// Sends bytes and reads as many.
fn exchanged(stream: &mut TcpStream, sent: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().unwrap();
    let mut back = vec![0; sent.len()];
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(sent).unwrap());
        stream.read_exact(&mut back).unwrap();
    });
    back
}

/// Others are served beside ten thousand clients that have sent half a line.
pub(crate) fn half_lines() -> Beside {
    let (mut with, mut without) = (Served::start("max_connections = 20000"), Served::start(""));
    let first = with.numbers(CROWD);
    assert_eq!(first, 0);
    let mut clients = clients_crowd::half_clients(&with.service);
    with.service.wait_metric("echo", "bytes", u64::from(CROWD) * HALF as u64);
    let latency = compare(|| with.measure(), || without.measure());
    let beside = held(&latency, &mut with, &mut without);
    clients_crowd::send_all(&mut clients, HALF);
    clients_crowd::expect_all(&mut clients, 0, LINE);
    let all =
        clients.iter().map(|(stream, number)| Connection { echoed: 1, ..clients_crowd::connection(stream, *number) });
    with.connections.extend(all);
    drop(clients);
    with.end();
    without.end();
    beside
}

/// Others, which have been accepted before, are served while many more connect than are
/// allowed.
pub(crate) fn flood() -> Beside {
    const AT_ONCE: u64 = 100;
    const COMERS: u32 = 300;
    let (mut with, mut without) = (Served::start(&format!("max_connections = {AT_ONCE}")), Served::start(""));
    let mut floods = 0;
    let latency = compare(
        || {
            let first = with.numbers(COMERS);
            let (quantiles, comers) = with.measure_while(|service, done| {
                let are_in = || service.metric("echo", "connections") >= u64::from(Service::OTHERS);
                while !are_in() {
                    if done.load(Ordering::Relaxed) {
                        return Vec::new();
                    }
                }
                let comers = clients_crowd::come(service, first, COMERS);
                while !done.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                comers
            });
            floods += u32::from(!comers.is_empty());
            with.connections.extend(clients_crowd::serve(comers, |_| ()));
            wait_for("all are gone", || (with.service.metric("echo", "connections") == 0).then_some(()));
            quantiles
        },
        || without.measure(),
    );
    let rounds = u32::try_from(latency.with.len()).unwrap();
    assert!(floods > rounds / 2, "{floods} floods in {rounds} rounds: the trial proves nothing");
    let beside = held(&latency, &mut with, &mut without);
    with.end();
    without.end();
    Beside { outcome: format!("{} while {COMERS} come, {floods} times", beside.outcome), ..beside }
}
