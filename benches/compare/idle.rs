//! Ten thousand idle connections: how soon they are accepted, and the memory of each.

use crate::echo::LENGTH;
use crate::load::message;
use crate::proc;
use crate::servers::{Running, Server};
use crate::table::{Line, Part, Wanted, seconds, size, time};
use crate::{Row, Scale};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The default of `max_connections`.
const CONNECTIONS: u32 = 10_000;
/// The targets: bytes of echo's memory for each, and seconds until all are accepted.
const EACH: f64 = 1024.0;
const TAKEN: f64 = 1.0;
/// The pause before memory is read, so that work that is due soon is done.
const SETTLE: Duration = Duration::from_millis(500);
/// How long an echo may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const ROWS: &[Row] =
    &[Row { name: "connections", about: "10,000 idle connections: accepted, and memory of each", measure }];

fn measure(_: &Scale) -> Result<Part, String> {
    let plumbd = crowd(Server::Plumbd("saved", 1), "echo")?;
    let plain = crowd(Server::Plain, "plain server")?;
    let compare = |what, ours, theirs, unit| {
        Line::compare(what, &[ours], "plain epoll echo, saves nothing", &[theirs], unit, Wanted::Nothing)
    };
    let taken = "10,000 connections: first connect to the last one's first echo";
    let idle = "10,000 idle connections: memory of each in echo";
    let spoken = "the same, after each had a message echoed";
    let lines = vec![
        compare(taken, plumbd.taken, plain.taken, time),
        Line::at_most(taken, plumbd.taken, TAKEN, time),
        compare(idle, plumbd.idle, plain.idle, size),
        Line::at_most(idle, plumbd.idle, EACH, size),
        compare(spoken, plumbd.spoken, plain.spoken, size),
        Line::at_most(spoken, plumbd.spoken, EACH, size),
    ];
    let note = "Memory is the process's resident pages; the kernel's own for a socket is the same for any server.";
    Ok(Part { lines, notes: vec![note.to_owned()], ..Part::default() })
}

/// Seconds, and bytes per connection.
struct Crowd {
    taken: f64,
    idle: f64,
    spoken: f64,
}

fn crowd(server: Server, name: &str) -> Result<Crowd, String> {
    let running = server.start()?;
    let pid = running.processes().into_iter().find(|(_, it)| it == name).map(|(pid, _)| pid);
    let pid = pid.ok_or_else(|| running.complaint("cannot find the echo server's process"))?;
    let resident = || proc::resident(pid).ok_or("cannot read its memory");
    let each = |now: f64, before: f64| (now - before) / f64::from(CONNECTIONS);
    let before = resident()?;
    let begin = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(connect(&running).map_err(|e| running.complaint(&format!("cannot connect: {e}")))?);
    }
    let refused = |e: std::io::Error| running.complaint(&format!("a message of 10,000 clients is not echoed: {e}"));
    // They are accepted in order, so the last one's echo shows that all were accepted.
    clients.last_mut().map_or(Ok(()), |client| echo(client, CONNECTIONS - 1)).map_err(refused)?;
    let taken = seconds(begin.elapsed());
    sleep(SETTLE);
    let idle = each(resident()?, before);
    clients.iter_mut().zip(0..).try_for_each(|(client, number)| echo(client, number)).map_err(refused)?;
    sleep(SETTLE);
    Ok(Crowd { taken, idle, spoken: each(resident()?, before) })
}

fn connect(running: &Running) -> std::io::Result<TcpStream> {
    let client = TcpStream::connect_timeout(&running.address, PATIENCE)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_nodelay(true)?;
    Ok(client)
}

fn echo(client: &mut TcpStream, number: u32) -> std::io::Result<()> {
    let mut sent = Vec::new();
    message::append(number, 0, LENGTH, &mut sent);
    client.write_all(&sent)?;
    let mut came = vec![0; sent.len()];
    client.read_exact(&mut came)?;
    if came == sent { Ok(()) } else { Err(std::io::Error::other("it is not what was sent")) }
}
