//! Very many clients.

use crate::clients_beside;
use crate::clients_service::{Service, Wanted, counts, mib};
use crate::load::checker::{self, Format};
use crate::load::generator::Connection;
use crate::load::message;
use crate::trial::{Tried, scaled};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

/// How many clients count as very many.
pub(crate) const CROWD: u32 = 10_000;
/// The length of a line, and of its first half.
pub(crate) const LINE: usize = 128;
pub(crate) const HALF: usize = 60;
/// The memory that echo needs for a client, whatever that sends, and for the smallest buffer.
const CLIENT: u64 = 512;
const BUFFER: u64 = 4096;
/// Memory for buffers that are kept for later clients, for records under way, and for what
/// waits for them.
const SHARED: u64 = 6 << 20;

/// [`CROWD`] clients at once.
pub(crate) fn ten_thousand(times: f64) -> Tried {
    let service = Service::start(&Wanted::default());
    let before = service.memory("echo");
    let load = service.load(|plan| (plan.connections, plan.depth) = (CROWD, 1));
    service.wait_metric("echo", "connections", CROWD.into());
    service.wait_metric("echo", "messages", u64::from(CROWD) * u64::from(scaled(10, times)));
    let (memory, logger) = (service.memory("echo"), service.memory("logger"));
    assert_eq!(service.metric("echo", "connections"), u64::from(CROWD));
    let outcome = load.end_unnoticed();
    let bound = before + u64::from(CROWD) * (BUFFER + CLIENT) + SHARED;
    assert!(memory <= bound, "echo has {}, more than {}", mib(memory), mib(bound));
    let least = outcome.connections.iter().map(|c| c.echoed).min().unwrap();
    assert!(least > 0, "one of them was not served");
    let checked = service.end(&outcome.connections);
    Tried {
        count: format!("{CROWD} clients at once, at least {least} messages each, {} in all", outcome.echoed()),
        outcome: format!(
            "{}; echo {} (at most {}: 4.5 KiB a client and 6 MiB), logger {}",
            counts(&checked.verdict),
            mib(memory),
            mib(bound),
            mib(logger)
        ),
        control: format!("{}; {}", checked.control, sink_that_drops()),
    }
}

/// The control: a sink that leaves out every thousandth line.
fn sink_that_drops() -> String {
    let mut service = Service::start(&Wanted {
        format: Format::Raw,
        echo: "echo_after = \"queued\"",
        sink: r#"command = ["sh", "-c", "exec sed -u 1000~1000d >messages.log"]"#,
        ..Wanted::default()
    });
    let load = service.load(|_| ());
    service.wait_metric("echo", "messages", 5000);
    let outcome = load.end_unnoticed();
    service.daemon.stop();
    let verdict = service.verdict(&outcome.connections);
    assert_eq!(verdict.lost, outcome.echoed() / 1000, "{verdict}");
    format!("a sink that leaves out every 1000th line: {} found lost", verdict.lost)
}

const AT_ONCE: u64 = 100;
const COMERS: u32 = 2000;

/// More clients than are allowed.
pub(crate) fn flood(times: f64) -> Tried {
    let service = Service::start(&Wanted { echo: &format!("max_connections = {AT_ONCE}"), ..Wanted::default() });
    let rounds = scaled(3, times);
    let before = service.memory("echo");
    let (mut connections, mut most, mut memory) = (Vec::new(), 0, 0);
    for round in 0..rounds {
        let comers = come(&service, round * COMERS, COMERS);
        service.wait_metric("echo", "connections", AT_ONCE);
        let served = serve(comers, |nth| {
            // A status takes longer than serving a client, so it is asked for rarely.
            if nth % 100 == 0 {
                let now = service.metric("echo", "connections");
                assert!(now <= AT_ONCE, "{now} are in");
                most = most.max(now);
                memory = memory.max(service.memory("echo"));
            }
        });
        assert_eq!(served.len(), COMERS as usize, "some were not served");
        connections.extend(served);
    }
    let refused = service.metric("echo", "refused");
    assert_eq!(refused, 0);
    let bound = before + AT_ONCE * (BUFFER + CLIENT) + SHARED;
    assert!(memory <= bound, "echo has {}, more than {}", mib(memory), mib(bound));
    let checked = service.end(&connections);
    let beside = clients_beside::flood();
    Tried {
        count: format!("{rounds} floods of {COMERS} clients at an echo with max_connections = {AT_ONCE}"),
        outcome: format!(
            "{refused} refused, {} served, at most {most} seen at once; {}; {}; echo {} (at most {}: 4.5 KiB a client that is in and 6 MiB)",
            connections.len(),
            counts(&checked.verdict),
            beside.outcome,
            mib(memory),
            mib(bound)
        ),
        control: format!("{}; an echo that refuses: {}; {}", checked.control, echo_that_refuses(), beside.control),
    }
}

/// The control: an echo that closes clients beyond the limit at once.
fn echo_that_refuses() -> String {
    let echo = format!("max_connections_per_address = {AT_ONCE}");
    let service = Service::start(&Wanted { echo: &echo, ..Wanted::default() });
    let comers = come(&service, 0, COMERS);
    service.wait_metric("echo", "refused", u64::from(COMERS) - AT_ONCE);
    let refused = COMERS as usize - serve(comers, |_| ()).len();
    assert_eq!(refused as u64, u64::from(COMERS) - AT_ONCE);
    format!("{refused} found refused")
}

/// Clients that connect one after the other without waiting to be accepted. Each
/// sends one message.
pub(crate) fn come(service: &Service, first: u32, count: u32) -> Vec<(TcpStream, Connection)> {
    let one = |number| {
        let mut stream = service.connect();
        stream.write_all(&line(number)).unwrap();
        let connection = connection(&stream, number);
        (stream, connection)
    };
    (first..first + count).map(one).collect()
}

/// Each client reads its echo and leaves, so that the next can be accepted. Returns those
/// that were answered.
pub(crate) fn serve(comers: Vec<(TcpStream, Connection)>, mut look: impl FnMut(usize)) -> Vec<Connection> {
    let mut served = Vec::new();
    for (nth, (mut stream, connection)) in comers.into_iter().enumerate() {
        let mut echo = [0; LINE];
        if stream.read_exact(&mut echo).is_ok() {
            assert!(echo[..] == line(connection.number)[..], "client {} got another's", connection.number);
            served.push(Connection { echoed: 1, ..connection });
        }
        look(nth);
    }
    served
}

fn line(number: u32) -> Vec<u8> {
    let mut line = Vec::new();
    message::append(number, 0, LINE, &mut line);
    line
}

pub(crate) fn connection(stream: &TcpStream, number: u32) -> Connection {
    let peer = stream.local_addr().unwrap().to_string();
    Connection { sent: 1, ..Connection::new(number, peer, LINE) }
}

/// [`CROWD`] clients stop in the middle of a line.
pub(crate) fn half_lines(_times: f64) -> Tried {
    let idle = half_lines_when_idle();
    let (held, memory, bound, control) = half_lines_held();
    let beside = clients_beside::half_lines();
    Tried {
        count: format!("{CROWD} half lines that became messages when idle, and {CROWD} that were held"),
        outcome: format!(
            "{idle} and {held} lines: each half saved once, echoed once, nothing else; {}; \
             echo {} with all of them held (at most {}: 4.5 KiB a client and 6 MiB)",
            beside.outcome,
            mib(memory),
            mib(bound)
        ),
        control: format!("{control}; {}", beside.control),
    }
}

/// Each half line becomes a message after `partial_after`, and so does the other half.
fn half_lines_when_idle() -> usize {
    let mut service = Service::start(&Wanted::default());
    let mut clients = half_clients(&service);
    for (at, part) in [(0, HALF), (HALF, LINE - HALF)] {
        if at > 0 {
            send_all(&mut clients, at);
        }
        expect_all(&mut clients, at, part);
    }
    let expected = clients.iter().map(|(stream, number)| {
        let line = line(*number);
        (peer(stream), vec![line[..HALF].to_vec(), line[HALF..LINE - 1].to_vec()])
    });
    let expected: HashMap<_, _> = expected.collect();
    drop(clients);
    service.daemon.stop();
    compare(&service.file(), &expected).unwrap()
}

/// Each half line is held until its other half comes, or its client hangs up.
fn half_lines_held() -> (usize, u64, u64, String) {
    let mut service = Service::start(&Wanted { echo: "partial_after = \"1h\"", ..Wanted::default() });
    let before = service.memory("echo");
    let mut clients = half_clients(&service);
    service.wait_metric("echo", "bytes", u64::from(CROWD) * HALF as u64);
    let memory = service.memory("echo");
    let bound = before + u64::from(CROWD) * (BUFFER + CLIENT) + SHARED;
    assert!(memory <= bound, "echo has {}, more than {}", mib(memory), mib(bound));
    assert_eq!((service.metric("echo", "messages"), service.file().len()), (0, 0), "half a line was saved");

    let mut gone = clients.split_off(clients.len() / 2);
    send_all(&mut clients, HALF);
    expect_all(&mut clients, 0, LINE);
    gone.iter().for_each(|(stream, _)| stream.shutdown(Shutdown::Write).unwrap());
    expect_all(&mut gone, 0, HALF);
    let whole = clients.iter().map(|(stream, number)| (peer(stream), vec![line(*number)[..LINE - 1].to_vec()]));
    let half = gone.iter().map(|(stream, number)| (peer(stream), vec![line(*number)[..HALF].to_vec()]));
    let expected: HashMap<_, _> = whole.chain(half).collect();
    drop((clients, gone));
    service.daemon.stop();
    let file = service.file();
    let lines = compare(&file, &expected).unwrap();

    let middle = file.len() / 2 + file[file.len() / 2..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let end = middle + file[middle..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let removed = compare(&[&file[..middle], &file[end..]].concat(), &expected).unwrap_err();
    let doubled = compare(&[&file[..end], &file[middle..]].concat(), &expected).unwrap_err();
    (lines, memory, bound, format!("file doctored, a line removed: {removed}; doubled: {doubled}"))
}

/// Clients that have each sent the first half of a line.
pub(crate) fn half_clients(service: &Service) -> Vec<(TcpStream, u32)> {
    let one = |number| {
        let mut stream = service.connect();
        stream.write_all(&line(number)[..HALF]).unwrap();
        (stream, number)
    };
    (0..CROWD).map(one).collect()
}

pub(crate) fn send_all(clients: &mut [(TcpStream, u32)], from: usize) {
    clients.iter_mut().for_each(|(stream, number)| stream.write_all(&line(*number)[from..]).unwrap());
}

pub(crate) fn expect_all(clients: &mut [(TcpStream, u32)], at: usize, length: usize) {
    for (stream, number) in clients {
        let mut echo = vec![0; length];
        stream.read_exact(&mut echo).unwrap();
        assert!(echo == line(*number)[at..at + length], "client {number}");
    }
}

fn peer(stream: &TcpStream) -> String {
    stream.local_addr().unwrap().to_string()
}

/// The number of lines in the file, if they are exactly those that each peer sent.
fn compare(file: &[u8], expected: &HashMap<String, Vec<Vec<u8>>>) -> Result<usize, String> {
    let mut found: HashMap<String, Vec<Vec<u8>>> = HashMap::new();
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        let entry = checker::entry(line, Format::Text).ok_or("a torn line")?;
        found.entry(entry.peer.unwrap_or_default().into_owned()).or_default().push(entry.message.into_owned());
    }
    let differ = expected.iter().filter(|(peer, lines)| found.get(*peer) != Some(*lines)).count();
    let strangers = found.keys().filter(|peer| !expected.contains_key(*peer)).count();
    match (differ, strangers) {
        (0, 0) => Ok(found.values().map(Vec::len).sum()),
        _ => Err(format!("{differ} clients' lines differ, {strangers} are nobody's")),
    }
}
