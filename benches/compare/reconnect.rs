//! How soon a new client is served after echo was killed under load.

use crate::echo::LENGTH;
use crate::load::checker::Format;
use crate::load::generator::{Connection, Plan, run};
use crate::load::histogram::Histogram;
use crate::load::message;
use crate::rig::{self, Rig};
use crate::table::{Line, Part, seconds, time};
use crate::{Row, Scale, proc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// The target for the time from SIGKILL to the next echo, at p99.
const WANTED: f64 = 0.010;
/// The time between two kills.
const BETWEEN: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(10);
/// The load's connections are numbered from here; those of new clients from 0.
const LOAD: u32 = 1 << 20;

pub(crate) const ROWS: &[Row] =
    &[Row { name: "reconnect", about: "SIGKILL of echo under load to the next echo for a new client", measure }];

fn measure(scale: &Scale) -> Result<Part, String> {
    let kills = scale.pick(200, 20);
    let address = rig::free_address()?;
    let mut rig = Rig::start(rig::folder()?, &configuration(address))?;
    rig.wait_for_address(address)?;
    let stop = AtomicBool::new(false);
    let plan = Plan {
        address,
        connections: 50,
        depth: 1,
        length: LENGTH,
        first: LOAD,
        reconnect: true,
        lasts: Duration::from_secs(600),
        drain: PATIENCE,
    };
    let (killed, load) = scope(|scope| {
        let load = scope.spawn(|| run(&plan, &stop));
        let killed = kill_often(&rig, address, kills);
        stop.store(true, Ordering::Relaxed);
        (killed, load.join())
    });
    let took = killed.map_err(|why| rig.complaint(&why))?;
    let load = load.map_err(|_| "the load generator panicked")?.map_err(|e| format!("cannot load {address}: {e}"))?;
    rig.stop()?;
    // The new clients' messages are not part of the load: each is a connection of its own.
    let mut sent = load.connections;
    sent.extend(took.clients);
    rig.check(&rig.path("messages"), 0, Format::Text, &sent)?;
    let p99 = seconds(took.times.quantile(0.99));
    let what = format!("SIGKILL of echo under load to a new client's echo, p99 of {kills}");
    let refused = load.refused;
    let line = Line::at_most(&what, p99, WANTED, time).and(&format!("none refused ({refused} were)"), refused == 0);
    let note = format!("Median of the same: {}.", time(seconds(took.times.quantile(0.5))));
    Ok(Part { lines: vec![line], notes: vec![note], ..Part::default() })
}

/// The outcome of the kills.
struct Killed {
    times: Histogram,
    clients: Vec<Connection>,
}

fn kill_often(rig: &Rig, address: SocketAddr, kills: u32) -> Result<Killed, String> {
    let mut killed = Killed { times: Histogram::new(), clients: Vec::new() };
    for _ in 0..kills {
        sleep(BETWEEN);
        let echo = proc::children(rig.pid()).into_iter().find(|(_, command)| command.ends_with("plugin echo"));
        let (pid, _) = echo.ok_or("no echo runs")?;
        let pid = Pid::from_raw(i32::try_from(pid).map_err(|e| e.to_string())?);
        let begin = Instant::now();
        kill(pid, Signal::SIGKILL).map_err(|e| format!("cannot kill echo: {e}"))?;
        loop {
            let number = killed.clients.len() as u32;
            let client = client(address, number).map_err(|e| format!("a new client was not served: {e}"))?;
            let served = client.echoed > 0;
            killed.clients.push(client);
            if served {
                break;
            }
        }
        killed.times.record(begin.elapsed());
    }
    Ok(killed)
}

/// Connects, and has a message echoed. If the dying echo had accepted the connection, there
/// is no echo, and the client connects again.
fn client(address: SocketAddr, number: u32) -> std::io::Result<Connection> {
    let mut client = TcpStream::connect_timeout(&address, PATIENCE)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let mut sent = Vec::new();
    message::append(number, 0, LENGTH, &mut sent);
    let mut came = vec![0; sent.len()];
    let peer = client.local_addr()?.to_string();
    let echoed = match client.write_all(&sent).and_then(|()| client.read_exact(&mut came)) {
        Ok(()) if came == sent => 1,
        Ok(()) => return Err(Error::other("an echo is not what was sent")),
        Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof) => {
            0
        }
        Err(e) => return Err(e),
    };
    Ok(Connection { sent: 1, echoed, ..Connection::new(number, peer, LENGTH) })
}

/// A configuration in which echo may be killed any number of times, and is started at once
/// each time.
fn configuration(address: SocketAddr) -> String {
    let restarts = "backoff = { first = \"0ms\", reset_after = \"1ms\" }\n\
                    start_limit = { burst = 100000, within = \"60s\" }";
    let settings = "settings = { echo_after = \"saved\" }";
    crate::servers::configuration(address, "saved", 1).replacen(settings, &format!("{settings}\n{restarts}"), 1)
}
