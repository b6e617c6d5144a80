//! Pipelined lines, many per write: echo and save, beside `nc` into `tee`.
//!
//! nc serves one client at a time and echoes nothing, so it gets its lines on one
//! connection. With a FIFO back from tee it does echo; that is measured too.
//!
//! All files end with the same length. If the host of a virtual machine provides memory
//! page by page, pages that no file had before cost more than anything else. So each
//! contender finds as many pages as it needs, left by the one before it.

use crate::echo::load_as;
use crate::load::generator::Plan;
use crate::packages::program;
use crate::peer::Peer;
use crate::rig::{self, LOOK, PATIENCE};
use crate::roles;
use crate::servers::Server;
use crate::table::{Line, Part, Wanted, mebibytes_a_second, seconds, short};
use crate::{Row, Scale};
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

const CONNECTIONS: u32 = 16;
/// Bytes of a line, with its newline.
const LINE: usize = 100;
/// How many lines are under way on a connection; they always fit into a socket's buffers.
const DEPTH: u32 = 512;
/// The length of the time and the peer before a line in the message file.
const STAMP: usize = "2026-11-22T15:04:05.123456Z 127.0.0.1:40312 ".len();

pub(crate) const ROWS: &[Row] =
    &[Row { name: "lines", about: "pipelined lines of 100 B, 16 connections, beside nc | tee file", measure }];

fn measure(scale: &Scale) -> Result<Part, String> {
    let (mut plumbd, mut nc, mut echoing) = (Vec::new(), Ok(Vec::new()), Ok(Vec::new()));
    let mut costs = String::new();
    // This run does not count: it leaves its pages to the first round.
    measure_plumbd(scale.load)?;
    for _ in 0..scale.rounds {
        let (rate, bytes, cost) = measure_plumbd(scale.load)?;
        plumbd.push(rate);
        costs = cost;
        for (rates, echoes) in [(&mut nc, false), (&mut echoing, true)] {
            if let Ok(all) = rates {
                match measure_nc(bytes, echoes) {
                    Ok(rate) => all.push(rate),
                    Err(why) => *rates = Err(why),
                }
            }
        }
    }
    let what = "pipelined lines of 100 B, `saved`, text, 16 connections";
    let line = |rates: &Result<Vec<f64>, String>, name: &str, wanted| match rates {
        Ok(rates) => Line::compare(what, &plumbd, name, rates, mebibytes_a_second, wanted),
        Err(why) => Line::left_out(what, name, why),
    };
    let lines = vec![
        line(&nc, "nc -lk | tee file (1 connection, no echo)", Wanted::AtLeast(0.6)),
        line(&echoing, "nc -lk <fifo | tee file >fifo (1 connection, echoes)", Wanted::Nothing),
    ];
    let note = "nc serves one client at a time: it got all on one connection, and alone does not echo them.";
    let notes = vec![note.to_owned(), format!("On a core for a line, pipelined: {costs}.")];
    Ok(Part { lines, notes, ..Part::default() })
}

/// Bytes per second, the length of the file, and the time on a core of each process per line.
fn measure_plumbd(lasts: Duration) -> Result<(f64, u64, String), String> {
    let running = Server::Plumbd("saved", 1).start()?;
    let plan = Plan {
        address: running.address,
        connections: CONNECTIONS,
        depth: DEPTH,
        length: LINE,
        first: 0,
        reconnect: false,
        lasts,
        drain: PATIENCE,
    };
    let (outcome, generator) = load_as(&running, &plan)?;
    let mut costs = vec![("load generator".to_owned(), generator)];
    costs.extend(running.costs(&outcome));
    let costs: Vec<String> = costs.iter().map(|(name, cost)| format!("{name} {} us", short(*cost))).collect();
    running.finish(&outcome.connections)?;
    Ok((outcome.rate() * LINE as f64, outcome.echoed() * (LINE + STAMP) as u64, costs.join(", ")))
}

/// Bytes per second, until all are in the file (and came back).
fn measure_nc(bytes: u64, echoes: bool) -> Result<f64, String> {
    let cannot = |e: io::Error| format!("cannot measure nc: {e}");
    let (folder, address) = (rig::folder()?, rig::free_address()?);
    let nc = program("nc.openbsd")?;
    let (input, output) = if echoes { ("<fifo", ">fifo") } else { ("</dev/null", ">/dev/null") };
    let fifo = if echoes { "mkfifo fifo; " } else { "" };
    let script = format!("{fifo}{} -lk 127.0.0.1 {} {input} | tee file {output}", nc.display(), address.port());
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let _peer = Peer::start(&mut shell)?;
    let deadline = Instant::now() + PATIENCE;
    // The first connection that is accepted is used, because a trial connection would be the
    // only one that nc serves.
    let mut client = loop {
        match TcpStream::connect(address) {
            Ok(client) => break client,
            Err(e) if Instant::now() > deadline => return Err(cannot(e)),
            Err(_) => sleep(LOOK),
        }
    };
    client.set_read_timeout(Some(PATIENCE)).map_err(cannot)?;
    let mut back = client.try_clone().map_err(cannot)?;
    let begin = roles::now()?;
    scope(|scope| {
        let drained = scope.spawn(move || if echoes { read_all(&mut back, bytes) } else { Ok(()) });
        let text: Vec<u8> = (0..655).flat_map(|_| [&[b'x'; LINE - 1][..], b"\n"].concat()).collect();
        let mut left = bytes;
        while left > 0 {
            let n = text.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            client.write_all(&text[..n])?;
            left -= n as u64;
        }
        drained.join().map_err(|_| io::Error::other("a thread panicked"))?
    })
    .map_err(cannot)?;
    while fs::metadata(folder.path().join("file")).map_or(0, |file| file.len()) < bytes {
        if Instant::now() > deadline {
            return Err("nc and tee did not save all in time".to_owned());
        }
        sleep(LOOK);
    }
    Ok(bytes as f64 / seconds(roles::now()?.saturating_sub(begin)))
}

fn read_all(from: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut left = bytes;
    while left > 0 {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(n as u64);
    }
    Ok(())
}
