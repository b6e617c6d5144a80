//! Clients that reset their connection in the middle of a message.

use crate::clients_beside;
use crate::clients_service::{Service, Wanted, counts, mib};
use crate::daemon::wait_for;
use crate::load::checker::{self, Format};
use crate::load::generator::Connection;
use crate::load::message;
use crate::trial::{Tried, scaled};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{Read, Write};
use std::net::TcpStream;

/// The lengths of their messages: small ones, ones of a whole record, and ones of many records.
const LENGTHS: [usize; 8] = [128, 300, 1000, 2000, 4096, 5000, 10_000, 50_000];
/// Each sends this many messages and a part of one more.
const MESSAGES: u32 = 4;

pub(crate) fn resets(times: f64) -> Tried {
    // A message that comes in two pieces is one message, even if the machine is slow.
    let service = Service::start(&Wanted { echo: "partial_after = \"1h\"", ..Wanted::default() });
    let resets = scaled(2000, times);
    let before = service.memory("echo");
    let others = service.load(|plan| plan.first = resets);
    let mut connections: Vec<Connection> = (0..resets).map(|number| reset(&service, number)).collect();
    service.wait_metric("echo", "accepted", u64::from(resets) + 20);
    let memory = service.memory("echo");
    // Twice max_message for each of the others and for one more, and the memory that all share.
    let bound = before + 21 * (128 << 10) + (6 << 20);
    assert!(memory <= bound, "echo has {}, more than {}", mib(memory), mib(bound));
    let broken_off: u64 = connections.iter().map(|c| u64::from(c.sent) * c.length as u64 + c.part as u64).sum();
    let others = others.end_unnoticed();
    wait_for("all are gone", || (service.metric("echo", "connections") == 0).then_some(()));
    arrived(&service.file(), &mut connections);
    let (answered, disconnected) = (others.echoed(), others.disconnected);
    connections.extend(others.connections);
    let checked = service.end(&connections);
    let verdict = &checked.verdict;
    assert!(verdict.parts > 0 && verdict.unechoed > 0, "no reset fell between two echoes: {verdict}");
    let beside = clients_beside::resets();
    Tried {
        count: format!("{resets} resets in the middle of a message, {answered} messages of others meanwhile"),
        outcome: format!(
            "{}; {} saved that were not echoed, {} whole beginnings of messages; {disconnected} of 20 others disconnected; {}; echo {} \
             (at most {}: twice max_message a client that is there and 6 MiB; those that are gone sent {})",
            counts(verdict),
            verdict.unechoed,
            verdict.parts,
            beside.outcome,
            mib(memory),
            mib(bound),
            mib(broken_off)
        ),
        control: format!("{}; {}", checked.control, beside.control),
    }
}

/// One client: it reads some of its echoes before it resets.
pub(crate) fn reset(service: &Service, number: u32) -> Connection {
    let random = random();
    let length = length(random);
    let part = 1 + (random >> 8) as usize % (length - 1);
    let echoed = (random >> 40) as u32 % (MESSAGES + 1);
    let (stream, connection) = exchange(service, Connection { part, echoed, ..new(number, length) });
    // Closing it now resets it (socket(7), SO_LINGER).
    setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    connection
}

/// A client that sends only whole messages, reads every echo, and leaves.
pub(crate) fn no_reset(service: &Service, number: u32) -> Connection {
    exchange(service, Connection { echoed: MESSAGES, ..new(number, length(random())) }).1
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn length(random: u64) -> usize {
    LENGTHS[random as usize % LENGTHS.len()]
}

fn new(number: u32, length: usize) -> Connection {
    Connection { sent: MESSAGES, ..Connection::new(number, String::new(), length) }
}

/// Sends as much as `client` says, and reads as many echoes.
fn exchange(service: &Service, client: Connection) -> (TcpStream, Connection) {
    let Connection { number, length, sent: messages, part, echoed, .. } = client;
    let mut stream = service.connect();
    let mut sent = Vec::new();
    (0..=messages).for_each(|sequence| message::append(number, sequence, length, &mut sent));
    stream.write_all(&sent[..messages as usize * length + part]).unwrap();
    let mut back = vec![0; echoed as usize * length];
    stream.read_exact(&mut back).unwrap();
    assert!(back == sent[..back.len()], "client {number} got what it never sent");
    let peer = stream.local_addr().unwrap().to_string();
    (stream, Connection { peer, ..client })
}

/// A reset destroys what is under way, so only the file shows where it cut: in the last line of
/// a connection, in a message that was not echoed.
pub(crate) fn arrived(file: &[u8], connections: &mut [Connection]) {
    let mut whole = vec![0; connections.len()];
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        let Some(entry) = checker::entry(line, Format::Text) else { continue };
        let numbers = message::numbers(&entry.message).map(|(number, sequence)| (number as usize, sequence));
        let (number, sequence) = numbers.unwrap_or_else(|| {
            let peer = entry.peer.as_deref();
            let number = connections.iter().rposition(|c| Some(&*c.peer) == peer).unwrap_or_default();
            (number, whole[number])
        });
        let Some(connection) = connections.get_mut(number) else { continue };
        if entry.message.len() + 1 == connection.length {
            whole[number] += 1;
        } else if sequence >= connection.echoed {
            (connection.sent, connection.part) = (sequence, entry.message.len());
        }
    }
}
