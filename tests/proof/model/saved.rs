//! Compares what was saved, in all message files together, with what sources wrote and
//! clients got back: each line must be there exactly once, whole, and in order.

use crate::load::message;
use base64::Engine;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// How many problems are reported in full.
const TOLD: usize = 8;

/// The lines that should be there with one number. Those below `certain` must be there, and
/// those from there to `possible` may be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) number: u32,
    pub(crate) length: usize,
    pub(crate) certain: u32,
    pub(crate) possible: u32,
}

/// The outcome of a comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) lines: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) disordered: u64,
    pub(crate) torn: u64,
    pub(crate) problems: Vec<String>,
}

impl Found {
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.disordered + self.torn == 0
    }

    fn problem(&mut self, what: String) {
        if self.problems.len() < TOLD {
            self.problems.push(what);
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { lines, lost, doubled, disordered, torn, problems } = self;
        write!(f, "{lines} lines: {lost} lost, {doubled} doubled, {disordered} out of order, {torn} torn")?;
        problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// The message files of a folder, whose names end in their format, as in `m3.json`.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with('m') && ["text", "raw", "json"].iter().any(|format| name.ends_with(&format!(".{format}")))
    });
    all.sort();
    all
}

/// Reads all message files of the folder.
pub(crate) fn read(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    files(dir).into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

/// Compares these files with what is expected.
pub(crate) fn check(files: &[(PathBuf, Vec<u8>)], expected: &[Expected]) -> Found {
    let expected: BTreeMap<u32, &Expected> = expected.iter().map(|one| (one.number, one)).collect();
    let mut seen: BTreeMap<u32, Vec<u8>> =
        expected.values().map(|one| (one.number, vec![0; one.possible as usize])).collect();
    let mut found = Found::default();
    for (path, bytes) in files {
        let format = path.extension().unwrap().to_str().unwrap();
        let mut last: BTreeMap<u32, u32> = BTreeMap::new();
        for (place, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            found.lines += 1;
            let shown = || {
                let name = path.file_name().unwrap().to_string_lossy();
                format!("{name}:{}: {:?}", place + 1, String::from_utf8_lossy(&line[..line.len().min(120)]))
            };
            let Some((number, sequence)) = message_of(line, format).and_then(|text| numbers(&text, &expected)) else {
                found.torn += 1;
                found.problem(format!("torn, or not sent at all: {}", shown()));
                continue;
            };
            let count = &mut seen.get_mut(&number).unwrap()[sequence as usize];
            *count = count.saturating_add(1);
            if *count > 1 {
                found.doubled += 1;
                found.problem(format!("saved before: {}", shown()));
            }
            if last.insert(number, sequence).is_some_and(|before| before > sequence) {
                found.disordered += 1;
                found.problem(format!("behind a later one: {}", shown()));
            }
        }
    }
    for (number, counts) in seen {
        let certain = expected[&number].certain;
        let lost: Vec<u32> =
            (0..certain).zip(&counts).filter(|&(_, &count)| count == 0).map(|(sequence, _)| sequence).collect();
        if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
            found.lost += lost.len() as u64;
            found.problem(format!("{number:08x}: {} of {certain} lost, {first} to {last}", lost.len()));
        }
    }
    found
}

/// The message in a line, according to the manual alone.
fn message_of(line: &[u8], format: &str) -> Option<Vec<u8>> {
    let line = line.strip_suffix(b"\n")?;
    match format {
        "raw" => Some(line.to_vec()),
        "text" => Some(line.splitn(3, |&byte| byte == b' ').nth(2)?.to_vec()),
        _ => {
            let object: serde_json::Value = serde_json::from_slice(line).ok()?;
            match object.get("message") {
                Some(message) => Some(message.as_str()?.as_bytes().to_vec()),
                None => base64::engine::general_purpose::STANDARD.decode(object.get("message_base64")?.as_str()?).ok(),
            }
        }
    }
}

/// The number of the source or client, and that of the line, if it is whole.
fn numbers(text: &[u8], expected: &BTreeMap<u32, &Expected>) -> Option<(u32, u32)> {
    let (number, sequence) = message::numbers(text)?;
    let one = expected.get(&number).filter(|one| sequence < one.possible)?;
    let mut whole = Vec::new();
    message::append(number, sequence, one.length, &mut whole);
    (whole.strip_suffix(b"\n")? == text).then_some((number, sequence))
}
