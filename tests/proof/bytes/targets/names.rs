//! Names in the message file's folder: an archive has exactly the shape of one,
//! and nothing else is touched.

use super::{Verdict, hold};
use plumbd::plugin::logger::archives::{Archive, list, path, too_many};
use std::ffi::OsStr;
use std::fs::{File, remove_file};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Tries plumbd's own function.
pub fn target(bytes: &[u8]) -> Verdict {
    look(bytes, list)
}

thread_local! {
    static FOLDER: tempfile::TempDir = tempfile::tempdir_in("/dev/shm").unwrap();
}

/// Tries a name: a file of that name is beside the message file. `list` lists the archives.
pub fn look(bytes: &[u8], list: fn(&Path) -> io::Result<Vec<Archive>>) -> Verdict {
    // Make a valid name of it, behind `m.log` in half of all cases.
    let name: Vec<u8> = match bytes.split_first() {
        Some((how, rest)) if how % 2 == 0 => [b"m.log.", rest].concat(),
        _ => bytes.to_vec(),
    };
    if name.is_empty()
        || name.len() > 255
        || name.contains(&0)
        || name.contains(&b'/')
        || name.iter().all(|&b| b == b'.')
    {
        return Ok(());
    }
    FOLDER.with(|folder| {
        let file = folder.path().join("m.log");
        let other = folder.path().join(OsStr::from_bytes(&name));
        File::create(&other).map_err(|error| error.to_string())?;
        let found = list(&file);
        remove_file(&other).map_err(|error| error.to_string())?;
        let found = found.map_err(|error| error.to_string())?;
        let forms: Vec<_> =
            found.iter().flat_map(|archive| archive.forms.iter().map(move |f| (&archive.time, f.0))).collect();
        let taken = forms.iter().any(|(time, form)| path(&file, time, *form) == other);
        hold!(forms.len() == usize::from(taken), "of {name:?} it makes {forms:?}");
        hold!(taken == is_archive(&name), "taken for an archive: {taken}, {name:?}");
        hold!(too_many(&found, Some(1), Some(0)) == 0, "the newest would be removed");
        Ok(())
    })
}

/// Whether the manual says so: `m.log.20261122T150405.123456Z`, and
/// maybe `.gz` or `.zst`, with a time that exists.
fn is_archive(name: &[u8]) -> bool {
    let Some(rest) = std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix("m.log.")) else {
        return false;
    };
    let time = rest.strip_suffix(".gz").or(rest.strip_suffix(".zst")).unwrap_or(rest);
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    if shape != "00000000T000000.000000Z" {
        return false;
    }
    let number = |from: usize, to: usize| time[from..to].parse::<u32>().unwrap();
    let (year, month, day) = (number(0, 4), number(4, 6), number(6, 8));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => 0,
    };
    (1..=days).contains(&day) && number(9, 11) < 24 && number(11, 13) < 60 && number(13, 15) < 60
}
