//! Functions that each target must find out: plumbd's own, with a protection taken away.

use super::targets::record::mend;
use super::targets::{self, control::Requests};
use plumbd::config::effective::effective;
use plumbd::config::model::Model;
use plumbd::control::Request;
use plumbd::link::ledger::Ledger;
use plumbd::link::record::{Decoded, Record, decode};
use plumbd::plugin::logger::archives::{Archive, Form, list};
use plumbd::plugin::logger::body::Body;
use plumbd::plugin::logger::escape::escape;
use plumbd::supervisor::notify::{Said, parse};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Accepts a record without looking at its checksum.
pub(super) fn unchecked(bytes: &[u8]) -> Decoded<'_> {
    let mut right = bytes.to_vec();
    mend(&mut right);
    match decode(&right) {
        Decoded::Record(Record { head, payload, len }) => {
            Decoded::Record(Record { head, payload: &bytes[len - payload.len()..len], len })
        }
        Decoded::Incomplete => Decoded::Incomplete,
        Decoded::Garbage(passed) => Decoded::Garbage(passed),
    }
}

/// Believes a ledger without looking at its checksums.
pub(super) fn credulous(fd: OwnedFd) -> Result<Ledger, String> {
    let page = File::from(fd);
    let mut bytes = [0; targets::ledger::BYTES];
    page.read_exact_at(&mut bytes, 0).map_err(|error| error.to_string())?;
    targets::ledger::set_right(&mut bytes);
    page.write_all_at(&bytes, 0).map_err(|error| error.to_string())?;
    Ledger::open(page.into())
}

/// Leaves out `ready`, so that a child with another value gets the default.
pub(super) fn forgetful(model: &Model) -> String {
    effective(model).lines().filter(|line| !line.starts_with("ready ")).map(|line| format!("{line}\n")).collect()
}

/// Holds everything that comes, without a limit.
#[derive(Default)]
pub(super) struct Boundless(Vec<u8>);

impl Requests for Boundless {
    fn feed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn next_request(&mut self) -> Option<Result<Request, String>> {
        let end = self.0.iter().position(|&byte| byte == b'\n')?;
        let line: Vec<u8> = self.0.drain(..=end).collect();
        let request = serde_json::from_slice(&line).map_err(|error| error.to_string());
        if request.is_err() {
            self.0.clear();
        }
        Some(request)
    }
}

/// Passes on a problem's text unchanged.
pub(super) fn raw_problem(datagram: &[u8]) -> Vec<Said> {
    let mut said = parse(datagram);
    let texts = datagram.split(|&byte| byte == b'\n').filter_map(|line| line.strip_prefix(b"X_PLUMBD_PROBLEM="));
    let problems =
        said.iter_mut().filter_map(|said| if let Said::Problem(Some(text)) = said { Some(text) } else { None });
    for (problem, text) in problems.zip(texts) {
        *problem = String::from_utf8_lossy(text).into_owned();
    }
    said
}

/// Logs a line unchanged.
pub(super) fn raw_line(line: &[u8]) -> Vec<String> {
    vec![String::from_utf8_lossy(line).into_owned()]
}

/// Writes a backslash without escaping it.
pub(super) fn one_backslash(message: &[u8], out: &mut Body<'_>) {
    for piece in message.split_inclusive(|&byte| byte == b'\\') {
        match piece.strip_suffix(b"\\") {
            Some(text) => {
                escape(text, out);
                out.put(b"\\");
            }
            None => escape(piece, out),
        }
    }
}

/// Takes every file whose name has the right length for an archive.
pub(super) fn any_suffix(file: &Path) -> io::Result<Vec<Archive>> {
    let mut found = list(file)?;
    if found.is_empty() {
        for entry in file.parent().unwrap().read_dir()? {
            let name = entry?.file_name();
            let time = name.to_str().and_then(|name| name.strip_prefix("m.log.")).filter(|time| time.len() == 23);
            found.extend(time.map(|time| Archive { time: time.to_owned(), forms: vec![(Form::Raw, 0)] }));
        }
    }
    Ok(found)
}
