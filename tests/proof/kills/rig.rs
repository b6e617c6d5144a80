//! A logger with links full of numbered messages, and no supervisor.

use super::count::Count;
use super::doctor::{any, damage};
use crate::load::checker::{self, Format};
use crate::load::generator::Connection;
use crate::load::message;
use crate::mini::{Held, Rig, records, write_record};
use plumbd::link::handover::Protocol::{Lines, Records};
use std::fs::File;
use std::io::Write;

/// The client of the records.
const CLIENT: &str = "127.0.0.1:40312";
/// One epoch for each rig's records.
const EPOCH: u64 = 7;

/// A connection that has sent nothing yet.
pub(crate) fn nobody(number: u32, peer: &str, length: usize) -> Connection {
    Connection::new(number, peer.to_owned(), length)
}

/// Puts more lines into a queue, in pieces that end anywhere. What is in the
/// queue must be saved, so it counts as echoed.
pub(crate) fn put_lines(queue: &mut File, c: &mut Connection, count: u32) {
    let mut bytes = Vec::new();
    for sequence in c.sent..c.sent + count {
        message::append(c.number, sequence, c.length, &mut bytes);
    }
    let mut rest = &*bytes;
    while !rest.is_empty() {
        let piece = usize::try_from(any(4000)).unwrap().clamp(1, rest.len());
        queue.write_all(&rest[..piece]).unwrap();
        rest = &rest[piece..];
    }
    c.sent += count;
    c.echoed = c.sent;
}

/// Puts one more message into a queue, as records; `sequence` is the link's.
pub(crate) fn put_message(queue: &File, c: &mut Connection, sequence: &mut u64) {
    let mut bytes = Vec::new();
    message::append(c.number, c.sent, c.length, &mut bytes);
    *sequence += 1;
    for record in records(*sequence, EPOCH, &bytes[..bytes.len() - 1], *sequence % 50 == 0) {
        write_record(queue, &record);
    }
    c.sent += 1;
    c.echoed = c.sent;
}

/// A rig with two links of lines and one of records, short ones and long ones. They have more than
/// one batch takes, and have ended.
pub(crate) fn full() -> (Rig, Vec<Connection>) {
    let mut rig = Rig::new("text");
    let mut all = Vec::new();
    for (number, from) in [(1, "tick"), (2, "tock")] {
        let mut c = nobody(number, from, 120);
        rig.links.push(Held::new(from, Lines, 1 << 20));
        put_lines(&mut rig.links.last().unwrap().source(), &mut c, 2500);
        all.push(c);
    }
    rig.links.push(Held::new("echo", Records, 1 << 20));
    let queue = rig.links.last().unwrap().source();
    let (mut short, mut long) = (nobody(3, CLIENT, 128), nobody(4, CLIENT, 64 * 1024));
    let mut sequence = 0;
    for i in 0..1500 {
        put_message(&queue, &mut short, &mut sequence);
        if i % 300 == 299 {
            put_message(&queue, &mut long, &mut sequence);
        }
    }
    all.extend([short, long]);
    rig.end();
    (rig, all)
}

/// Compares all that was saved with all that was put in.
pub(crate) fn check(rig: &Rig, connections: &[Connection], count: &mut Count, when: &str) {
    let all = rig.all_bytes();
    let verdict = checker::check(&*all, Format::Text, connections).unwrap();
    if !verdict.is_clean() {
        std::fs::write(rig.folder.path().join("expected.txt"), format!("{verdict}\n{connections:#?}")).unwrap();
    }
    count.add(&verdict, connections, when);
    count.rotated += rig.archives().len() as u64;
    if any(20) == 0 {
        count.doctored += damage(&all, Format::Text, connections);
    }
}

/// Whether the file ends within a line now.
pub(crate) fn is_within_a_line(rig: &Rig) -> bool {
    rig.bytes().last().is_some_and(|last| *last != b'\n')
}
