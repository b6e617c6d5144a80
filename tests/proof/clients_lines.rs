//! Lines of any length and any bytes.

use crate::clients_beside;
use crate::clients_service::{Service, Wanted, counts, mib};
use crate::load::checker::{self, Format};
use crate::trial::{Tried, scaled};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{Read, Write};

const LONG: usize = 1 << 20;
const LONG_CLIENTS: u32 = 10;
/// The most bytes of a part: the default of max_message.
const PART: usize = 64 << 10;

/// Lines of 1 MiB, which the checker joins again.
pub(crate) fn long_lines(times: f64) -> Tried {
    // Even if the machine is slow, a line is one line.
    let mut service =
        Service::start(&Wanted { format: Format::Json, echo: "partial_after = \"1h\"", ..Wanted::default() });
    let before = service.memory("echo");
    let load = service.load(|plan| {
        (plan.connections, plan.depth, plan.length) = (LONG_CLIENTS, 1, LONG);
    });
    service.wait_metric("echo", "messages", scaled(100, times).into());
    let memory = service.memory("echo");
    let outcome = load.end_unnoticed();
    service.daemon.stop();
    let bound = before + u64::from(LONG_CLIENTS) * 2 * PART as u64 + (6 << 20);
    assert!(memory <= bound, "echo has {}, more than {}", mib(memory), mib(bound));

    let file = service.file();
    let parts: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
    let check = |parts: &[&[u8]]| checker::check(&*parts.concat(), Format::Json, &outcome.connections).unwrap();
    let verdict = check(&parts);
    assert!(verdict.is_clean() && verdict.echoed == outcome.echoed(), "{verdict}");
    let middle = parts.len() / 2;
    let without = check(&[&parts[..middle], &parts[middle + 1..]].concat());
    assert!(!without.is_clean(), "a part that was left out was not found out");
    let doubled = check(&[&parts[..=middle], &parts[middle..]].concat());
    assert!(!doubled.is_clean(), "a part that was doubled was not found out");
    let beside = clients_beside::long_lines();
    Tried {
        count: format!("{} lines of 1 MiB by {LONG_CLIENTS} clients at once", outcome.echoed()),
        outcome: format!(
            "in {} parts: {}; {}; echo {} (at most {}: twice max_message a client and 6 MiB)",
            parts.len(),
            counts(&verdict),
            beside.outcome,
            mib(memory),
            mib(bound)
        ),
        control: format!("file doctored, a part removed, doubled: each found out; {}", beside.control),
    }
}

/// Every byte in each format, framed by lines and by reads.
pub(crate) fn every_byte(times: f64) -> Tried {
    let random = scaled(500, times);
    let mut compared = Compared::default();
    for format in [Format::Text, Format::Json, Format::Raw] {
        for framing in ["line", "read"] {
            let sent = all_bytes(framing == "line", random);
            bytes_come_back(format, framing, &sent, &mut compared);
        }
    }
    let Compared { echoes, echoes_differ, files, files_differ, changed, found_out } = compared;
    Tried {
        count: format!(
            "{echoes} messages: each byte alone, first and last, each pair of bytes, and {random} of random bytes; in text, json and raw, as lines and as reads"
        ),
        outcome: format!(
            "{echoes_differ} echoes differ from what was sent, and {files_differ} of {files} files from all of it"
        ),
        control: format!("one byte of the file changed: found out {found_out} times of {changed}"),
    }
}

/// Counts of comparisons with what was sent.
#[derive(Default)]
struct Compared {
    echoes: usize,
    echoes_differ: usize,
    files: usize,
    files_differ: usize,
    /// Files with a byte that was changed.
    changed: usize,
    found_out: usize,
}

/// Sends each message when the one before came back. Then the file must have all of them.
fn bytes_come_back(format: Format, framing: &str, sent: &[Vec<u8>], compared: &mut Compared) {
    let echo = format!("framing = \"{framing}\"\npartial_after = \"1h\"");
    let mut service = Service::start(&Wanted { format, echo: &echo, ..Wanted::default() });
    let mut client = service.connect();
    let mut back = Vec::new();
    for message in sent {
        client.write_all(message).unwrap();
        back.resize(message.len(), 0);
        client.read_exact(&mut back).unwrap();
        compared.echoes += 1;
        compared.echoes_differ += usize::from(back != *message);
        assert_eq!(compared.echoes_differ, 0, "{framing}: sent {message:?}, got {back:?}");
    }
    drop(client);
    service.daemon.stop();
    let expected: Vec<&[u8]> = sent.iter().map(|message| content(message, framing)).collect();
    let mut file = service.file();
    compared.files += 1;
    compared.files_differ += usize::from(!gives(&file, format, &expected));
    assert_eq!(compared.files_differ, 0, "{}, {framing}: the file has other bytes", format.name());
    // No key and no time has an x, so this is a byte of a message.
    let middle = file.len() / 2 + file[file.len() / 2..].iter().position(|byte| *byte == b'x').unwrap();
    file[middle] ^= 1;
    compared.changed += 1;
    compared.found_out += usize::from(!gives(&file, format, &expected));
    assert_eq!(compared.found_out, compared.changed, "{}: a byte that was changed was not found out", format.name());
}

/// What should be in the file: a line is saved without its end.
fn content<'a>(message: &'a [u8], framing: &str) -> &'a [u8] {
    if framing == "read" {
        return message;
    }
    let line = message.strip_suffix(b"\n").unwrap();
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether the file has those messages and nothing else.
fn gives(file: &[u8], format: Format, expected: &[&[u8]]) -> bool {
    if format == Format::Raw {
        // Each message is its bytes and a newline. The bytes may have newlines, too.
        return file == expected.iter().flat_map(|message| [message, &b"\n"[..]].concat()).collect::<Vec<u8>>();
    }
    let lines = file.split_inclusive(|byte| *byte == b'\n');
    let found: Option<Vec<Vec<u8>>> =
        lines.map(|line| checker::entry(line, format).map(|entry| entry.message.into_owned())).collect();
    found.is_some_and(|found| found == expected)
}

/// Messages with each byte alone, first, last and before each other byte, and random ones. Lines
/// have no newline except at their end.
fn all_bytes(lines: bool, random: u32) -> Vec<Vec<u8>> {
    let bytes: Vec<u8> = (0..=255).filter(|byte| !lines || *byte != b'\n').collect();
    let mut all = Vec::new();
    for &byte in &bytes {
        all.push(vec![byte]);
        all.push(vec![byte, b'x', byte]);
        all.push(bytes.iter().flat_map(|&next| [byte, next]).collect());
    }
    let state = RandomState::new();
    for nth in 0..random {
        let length = 1 + state.hash_one(nth) % 2000;
        let byte = |place: u64| bytes[state.hash_one((nth, place)) as usize % bytes.len()];
        all.push((0..length).map(byte).collect());
    }
    if lines {
        all.iter_mut().for_each(|line| line.push(b'\n'));
    }
    all
}
