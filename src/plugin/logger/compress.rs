//! Compresses one archive. The numbers of the steps are those of doc/rotation.md,
//! "The archivist".

use super::access;
use super::archives::{self, Form};
use super::file::{beside_hidden, sync_folder};
use super::follows;
use super::settings::Compress;
use crate::link::intent::{FileId, names};
use crate::sys::beside::{self, Whose};
use crate::sys::lock::{Locked, lock};
use flate2::write::GzEncoder;
use nix::fcntl::{FlockArg, OFlag};
use std::fs::{File, FileTimes};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The compression levels: the defaults of gzip(1) and zstd(1).
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

const BLOCK: usize = 64 * 1024;

/// What happened to an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is compressed, and the raw form is removed.
    Done,
    /// Another process has locked it, or it is gone, so it was left alone.
    Left,
    /// The archivist was asked to stop.
    Stopped,
}

/// The hidden file in which an archive is written before it gets its name.
pub fn workshop_path(file: &Path) -> PathBuf {
    beside_hidden(file, "archive")
}

/// Compresses the file that was rotated at `time`.
///
/// # Errors
/// What could not be done. The raw form is then unchanged.
pub fn compress(file: &Path, time: &str, to: Compress, stop: impl FnMut() -> bool) -> Result<Outcome, String> {
    let path = archives::path(file, time, Form::Raw);
    let cannot = |what: &str| {
        let what = format!("cannot {what} {}", path.display());
        move |error: io::Error| format!("{what}: {error}")
    };
    let raw = match beside::open(&path, OFlag::O_RDONLY, Whose::Administrators) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Outcome::Left),
        other => other.map_err(cannot("open"))?,
    };
    // The lock is held to the end, so that no other process takes it for unused.
    let Some(raw) = lock(raw, FlockArg::LockSharedNonblock).map_err(cannot("lock"))? else {
        log::info!("{} is left as it is: another process has locked it", path.display());
        return Ok(Outcome::Left);
    };
    let workshop = workshop_path(file);
    let out = open_workshop(&workshop, PATIENCE).map_err(cannot("make room to compress"))?;
    let made = make(&raw, &out, to, stop);
    if !matches!(made, Ok(true)) {
        // Others may need the room that it took. This process holds the lock, so no other one
        // works there. If this fails too, the next archivist empties it.
        let _left = beside::remove(&workshop);
    }
    if !made.map_err(cannot("compress"))? {
        return Ok(Outcome::Stopped);
    }
    // 4 rename, 5 folder, 6 remove
    let (kept, id) = (archives::path(file, time, Form::Compressed(to)), out.metadata().map(|is| FileId::of(&is)));
    let done = beside::rename(&workshop, &kept).and_then(|()| sync_folder(file)).and(id);
    if !names(&kept, done.map_err(cannot("keep the compressed form of"))?) {
        // The logger removes the oldest archives, and may have removed this one.
        if kept.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(Outcome::Left);
        }
        // A process that may rename files there may have put another in its place.
        return Err(format!("cannot keep the compressed form of {}: another file is there", path.display()));
    }
    beside::remove(&path).map_err(cannot("remove"))?;
    Ok(Outcome::Done)
}

/// How soon a lock is tried again.
const AGAIN: Duration = Duration::from_millis(10);
/// How long to wait for a dying archivist that has the lock. It may take long if its disk is
/// slow.
const PATIENCE: Duration = Duration::from_secs(10);

/// Step 1: an empty file that no other process works in.
fn open_workshop(path: &Path, patience: Duration) -> io::Result<Locked> {
    let until = Instant::now() + patience;
    loop {
        let open = || beside::open_or_make(path, OFlag::O_RDWR, 0o600, Whose::Own).map(|(file, _is_new)| file);
        let file = match open() {
            // It was left by an archivist when the logger ran as another user, or another
            // user put it there.
            Err(error) if error.kind() == ErrorKind::PermissionDenied && !archives::is_in_use(path)? => {
                remove_foreign(path, &error)?;
                open()?
            }
            other => other?,
        };
        let id = FileId::of(&file.metadata()?);
        let Some(file) = lock(file, FlockArg::LockExclusiveNonblock)? else {
            if Instant::now() >= until {
                return Err(io::Error::other(format!("another process has locked {}", path.display())));
            }
            std::thread::sleep(AGAIN);
            continue;
        };
        // The process that had the lock may have finished and renamed it.
        if names(path, id) {
            file.set_len(0)?;
            return Ok(file);
        }
    }
}

/// Removes a file that belongs to another user. If it can't, the error has both causes.
fn remove_foreign(path: &Path, why: &io::Error) -> io::Result<()> {
    match beside::remove(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(io::Error::other(format!("{}: {why}, and it can't be removed: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Removes the workshop that a killed archivist left.
///
/// # Errors
/// From open(2), flock(2) and unlink(2).
pub fn remove_workshop(file: &Path) -> Result<(), String> {
    let path = workshop_path(file);
    let removed = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        _ => open_workshop(&path, PATIENCE).and_then(|_held| beside::remove(&path)),
    };
    removed.map_err(|e| format!("cannot remove {}: {e}", path.display()))
}

/// Empties the workshop of a killed archivist, and returns whether that freed
/// anything. If it fails, the next archivist does it.
pub fn empty_workshop(file: &Path) -> bool {
    let path = workshop_path(file);
    match beside::open(&path, OFlag::O_RDWR, Whose::Own) {
        Ok(left) => {
            let left = lock(left, FlockArg::LockExclusiveNonblock).ok().flatten();
            left.is_some_and(|left| left.metadata().is_ok_and(|is| is.len() > 0) && left.set_len(0).is_ok())
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            matches!(archives::is_in_use(&path), Ok(false)) && beside::remove(&path).is_ok()
        }
        Err(_) => false,
    }
}

/// Steps 2 and 3. Returns false if it was asked to stop.
fn make(raw: &File, out: &File, to: Compress, stop: impl FnMut() -> bool) -> io::Result<bool> {
    let buffered = BufWriter::with_capacity(BLOCK, out);
    let read = match to {
        Compress::Gzip => {
            let mut encoder = GzEncoder::new(buffered, flate2::Compression::new(GZIP_LEVEL));
            let read = copy(raw, &mut encoder, stop)?;
            encoder.finish()?.flush()?;
            read
        }
        Compress::Zstd => {
            let mut encoder = zstd::Encoder::new(buffered, ZSTD_LEVEL)?;
            encoder.include_checksum(true)?;
            let read = copy(raw, &mut encoder, stop)?;
            encoder.finish()?.flush()?;
            read
        }
    };
    let Some(read) = read else {
        return Ok(false);
    };
    let like = raw.metadata()?;
    if like.len() != read {
        return Err(io::Error::other("it has changed meanwhile"));
    }
    let lacks = access::give_same(raw, out);
    if !lacks.is_empty() {
        log::warn!("cannot give a compressed archive {}", lacks.join("; "));
    }
    follows::keep(raw, out);
    out.set_times(FileTimes::new().set_modified(like.modified()?).set_accessed(like.accessed()?))?;
    out.sync_all()?;
    Ok(true)
}

/// Returns how many bytes were copied, or `None` if it was asked to stop.
fn copy(mut raw: &File, to: &mut impl Write, mut stop: impl FnMut() -> bool) -> io::Result<Option<u64>> {
    let mut block = vec![0; BLOCK];
    let mut count = 0;
    loop {
        if stop() {
            return Ok(None);
        }
        match raw.read(&mut block) {
            Ok(0) => return Ok(Some(count)),
            Ok(n) => {
                to.write_all(&block[..n])?;
                count += n as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::Flock;
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::time::{Duration, SystemTime};

    const TIME: &str = "20261122T150405.123456Z";

    fn folder(content: &[u8]) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.log");
        let raw = archives::path(&file, TIME, Form::Raw);
        std::fs::write(&raw, content).unwrap();
        (folder, file, raw)
    }

    fn unpacked(path: &Path, from: Compress) -> Vec<u8> {
        let (packed, mut content) = (File::open(path).unwrap(), Vec::new());
        match from {
            Compress::Gzip => flate2::read::GzDecoder::new(packed).read_to_end(&mut content).unwrap(),
            Compress::Zstd => zstd::Decoder::new(packed).unwrap().read_to_end(&mut content).unwrap(),
        };
        content
    }

    fn names(folder: &tempfile::TempDir) -> Vec<String> {
        let all = folder.path().read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut all: Vec<String> = all.collect();
        all.sort();
        all
    }

    #[test]
    fn it_becomes_smaller_keeps_its_attributes_and_the_raw_form_is_removed() {
        let content = "a line of many\n".repeat(20_000).into_bytes();
        for to in [Compress::Gzip, Compress::Zstd] {
            let (folder, file, raw) = folder(&content);
            let when = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            let opened = File::options().write(true).open(&raw).unwrap();
            opened.set_permissions(Permissions::from_mode(0o604)).unwrap();
            opened.set_modified(when).unwrap();
            // What another archivist began does not count.
            let path = archives::path(&file, TIME, Form::Compressed(to));
            std::fs::write(&path, "half").unwrap();
            std::fs::write(workshop_path(&file), "the rest of a longer one".repeat(99_999)).unwrap();
            assert_eq!(compress(&file, TIME, to, || false), Ok(Outcome::Done));
            assert_eq!(names(&folder), [path.file_name().unwrap().to_str().unwrap()]);
            assert_eq!(unpacked(&path, to), content);
            let is = path.metadata().unwrap();
            assert_eq!((is.mode() & 0o7777, is.modified().unwrap()), (0o604, when));
            assert!(is.len() < 10_000);
        }
    }

    #[test]
    fn an_archive_that_is_in_use_or_gone_is_left_alone() {
        let (folder, file, raw) = folder(b"x");
        let live = Flock::lock(File::open(&raw).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        assert_eq!(compress(&file, TIME, Compress::Gzip, || false), Ok(Outcome::Left));
        drop(live);
        std::fs::remove_file(&raw).unwrap();
        assert_eq!(compress(&file, TIME, Compress::Gzip, || false), Ok(Outcome::Left));
        assert!(names(&folder).is_empty());
    }

    #[test]
    fn asked_to_stop_it_leaves_the_raw_form_and_nothing_else() {
        let (folder, file, raw) = folder(&[b'x'; 3 * BLOCK]);
        let mut calls = 0;
        let stop = || {
            calls += 1;
            calls == 2
        };
        assert_eq!(compress(&file, TIME, Compress::Zstd, stop), Ok(Outcome::Stopped));
        assert_eq!(names(&folder), [raw.file_name().unwrap().to_str().unwrap()]);
    }

    #[test]
    fn an_archive_that_changes_meanwhile_stays_raw() {
        let (folder, file, raw) = folder(b"one\n");
        let mut calls = 0;
        let change = || {
            calls += 1;
            if calls == 2 {
                let file = File::options().write(true).open(&raw).unwrap();
                file.set_len(0).unwrap();
            }
            false
        };
        let why = compress(&file, TIME, Compress::Gzip, change).unwrap_err();
        assert!(why.contains("it has changed meanwhile"), "{why}");
        assert_eq!(names(&folder), [raw.file_name().unwrap().to_str().unwrap()]);
    }

    #[test]
    fn a_workshop_is_emptied_only_if_no_process_has_locked_it() {
        let (_folder, file, _) = folder(b"");
        assert!(!empty_workshop(&file) && !workshop_path(&file).exists());
        std::fs::write(workshop_path(&file), "left").unwrap();
        let at_work =
            lock(File::open(workshop_path(&file)).unwrap(), FlockArg::LockExclusiveNonblock).unwrap().unwrap();
        assert!(!empty_workshop(&file));
        let why = open_workshop(&workshop_path(&file), Duration::ZERO).unwrap_err().to_string();
        assert_eq!(why, format!("another process has locked {}", workshop_path(&file).display()));
        assert_eq!(at_work.metadata().unwrap().len(), 4);
        drop(at_work);
        assert!(empty_workshop(&file) && !empty_workshop(&file));
        assert_eq!(workshop_path(&file).metadata().unwrap().len(), 0);
    }
}
