//! A message file with all that was rotated from it, as one.
//!
//! Like the checker, it relies only on what the manual says: rotated files are named
//! `FILE.20261122T150405.123456Z`, with `.gz` or `.zst` if they are
//! compressed; their names sort in order; and if there are a raw and a compressed file of
//! the same time, the raw one counts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// The form of the time in a name, with digits as `0`.
const TIME: &str = "00000000T000000.000000Z";

/// Every byte, from the oldest rotated file to the newest in the file itself.
///
/// # Errors
/// The folder or a file can't be read.
pub(crate) fn open(file: &Path) -> io::Result<BufReader<impl Read + use<>>> {
    let live: Box<dyn Read> = match File::open(file) {
        Ok(live) => Box::new(live),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Box::new(io::empty()),
        Err(error) => return Err(error),
    };
    let mut all: Box<dyn Read> = Box::new(io::empty());
    for path in archives(file)? {
        all = Box::new(all.chain(unpacked(&path)?));
    }
    Ok(BufReader::with_capacity(1 << 20, all.chain(live)))
}

/// The rotated files that count, the oldest first.
///
/// # Errors
/// The folder can't be read.
pub(crate) fn archives(file: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    let begin = format!("{}.", file.file_name().expect("it has a name").to_string_lossy());
    for entry in file.parent().expect("it is in a folder").read_dir()? {
        let path = entry?.path();
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        let Some((time, ending)) = name.strip_prefix(&begin).and_then(|rest| rest.split_at_checked(TIME.len())) else {
            continue;
        };
        let digits: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        if digits == TIME && ["", ".gz", ".zst"].contains(&ending) {
            // The raw one has the shorter name.
            let counts = found.entry(time.to_owned()).or_insert_with(|| path.clone());
            *counts = path.clone().min(counts.clone());
        }
    }
    Ok(found.into_values().collect())
}

fn unpacked(path: &Path) -> io::Result<Box<dyn Read>> {
    let file = File::open(path)?;
    Ok(match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
        Some("zst") => Box::new(zstd::Decoder::new(file)?),
        _ => Box::new(file),
    })
}
