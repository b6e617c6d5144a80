//! Which files have the messages, in the order of the messages.
//!
//! An archive is opened before its turn, so that its removal meanwhile takes nothing away. An
//! open file is the same file whatever becomes of its name.

use crate::link::intent::FileId;
use crate::plugin::logger::archives::{self, Archive, FORMS, Form};
use crate::plugin::logger::follows;
use crate::plugin::logger::settings::Compress;
use crate::sys::pipe;
use nix::errno::Errno;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::sys::statfs::{FsType, fstatfs};
use std::collections::{BTreeSet, VecDeque};
use std::fs::{File, FileType};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many files are opened before their turn: below any limit on descriptors.
const AHEAD: usize = 100;

/// PIPEFS_MAGIC of linux/magic.h: where pipes without a name are.
const PIPEFS: nix::libc::__fsword_t = 0x5049_5045;

/// How often it is tried to find a file that no rotation takes away at that moment, and how
/// soon again.
const TRIES: u32 = 20;
const SOON: Duration = Duration::from_millis(5);

/// An open file with messages.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) path: PathBuf,
    /// The time in its name; `None`: it is no archive.
    pub(super) time: Option<String>,
    pub(super) form: Form,
    pub(super) file: File,
    pub(super) id: FileId,
    pub(super) is_regular: bool,
    /// The time of the archive before it, if that was noted.
    pub(super) follows: Option<String>,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Turn {
    /// A file.
    File(Opened),
    /// One that can't be opened.
    Failed {
        path: PathBuf,
        /// The time in its name; `None`: it is no archive.
        time: Option<String>,
        why: io::Error,
    },
    /// An archive that was there, and was removed before it was opened.
    Removed(String),
}

/// The files, the oldest first: archives, then the message file.
#[derive(Debug)]
pub(super) struct Series {
    file: PathBuf,
    now: Stack,
    /// What was looked at on the way back.
    back: Stack,
    /// The time of the newest archive.
    pub(super) newest: Option<String>,
    /// Why the archives are not known.
    pub(super) trouble: Option<io::Error>,
    /// Files that are named as archives, and are none because of who owns them.
    pub(super) foreign: Vec<PathBuf>,
}

/// Files in their order, some of them opened.
#[derive(Debug, Default)]
struct Stack {
    ahead: VecDeque<Turn>,
    /// The times of archives that are not opened. All are newer than those that are.
    archives: VecDeque<String>,
    live: Option<Turn>,
}

impl Series {
    /// The message file as it is at one moment, and its archives that are newer than `after`.
    pub(super) fn of(file: &Path, after: Option<&str>) -> Series {
        let mut tries = 0;
        loop {
            let before = times(file);
            let live = open_live(file);
            let archives = times(file);
            // What was rotated in between may be what was opened, or be missed.
            let moves = newest(&before) != newest(&archives);
            // Between the two steps of a rotation there is no file of that name.
            let is_away = newest(&archives).is_some() && matches!(&live, Turn::Failed { why, .. } if is_gone(why));
            if (moves || is_away) && tries < TRIES {
                tries += 1;
                std::thread::sleep(SOON);
                continue;
            }
            let newest = newest(&archives);
            let (archives, trouble) = match archives {
                Ok(archives) => (archives, None),
                // The file itself says that there is nothing.
                Err(error) if is_gone(&error) => (BTreeSet::new(), None),
                Err(error) => (BTreeSet::new(), Some(error)),
            };
            let is_newer = |time: &String| after.is_none_or(|after| time.as_str() > after);
            let archives = archives.into_iter().filter(is_newer).collect();
            let now = Stack { ahead: VecDeque::new(), archives, live: Some(live) };
            // A folder that can't be read is a trouble already.
            let foreign = archives::list_foreign(file).unwrap_or_default();
            return Series { file: file.to_owned(), now, back: Stack::default(), newest, trouble, foreign };
        }
    }

    /// One archive alone.
    pub(super) fn one(file: &Path, time: &str, form: Form) -> Series {
        let turn = match open_archive(file, time) {
            Turn::Removed(_) => Turn::Failed {
                path: archives::path(file, time, form),
                time: Some(time.to_owned()),
                why: Errno::ENOENT.into(),
            },
            found => found,
        };
        let now = Stack { ahead: VecDeque::from([turn]), ..Stack::default() };
        Series { file: file.to_owned(), now, back: Stack::default(), newest: None, trouble: None, foreign: Vec::new() }
    }

    /// Leaves the oldest archives out whose time (in microseconds) satisfies that.
    pub(super) fn skip_while(&mut self, is_early: impl Fn(i64) -> bool) {
        while self.now.archives.front().is_some_and(|first| archives::micros(first).is_some_and(&is_early)) {
            self.now.archives.pop_front();
        }
    }

    /// The newest one that is open.
    pub(super) fn peek_back(&mut self) -> Option<&Turn> {
        if self.now.live.is_none() && self.now.ahead.is_empty() {
            self.open_ahead();
        }
        self.now.live.as_ref().or(self.now.ahead.back())
    }

    /// The oldest that is left.
    pub(super) fn next(&mut self) -> Option<Turn> {
        self.open_ahead();
        self.now.ahead.pop_front().or_else(|| self.now.live.take())
    }

    fn open_ahead(&mut self) {
        while self.now.ahead.len() < AHEAD {
            let Some(time) = self.now.archives.pop_front() else { break };
            match open_archive(&self.file, &time) {
                Turn::Failed { why, .. } if has_too_many(&why) && !self.now.ahead.is_empty() => {
                    self.now.archives.push_front(time);
                    break;
                }
                turn => self.now.ahead.push_back(turn),
            }
        }
    }

    /// The newest that is left, to be looked at and given to [`Series::put_back`].
    pub(super) fn next_back(&mut self) -> Option<Turn> {
        let archive = |now: &mut Stack| now.archives.pop_back().map(|time| open_archive(&self.file, &time));
        let live = self.now.live.take();
        live.or_else(|| archive(&mut self.now)).or_else(|| self.now.ahead.pop_back())
    }

    /// Keeps what [`Series::next_back`] gave for the way forth.
    pub(super) fn put_back(&mut self, turn: Turn) {
        let back = &mut self.back;
        let time = match &turn {
            Turn::File(Opened { time, .. }) | Turn::Failed { time, .. } => time.clone(),
            Turn::Removed(time) => Some(time.clone()),
        };
        if time.is_none() {
            back.live = Some(turn);
            return;
        }
        back.ahead.push_front(turn);
        if back.ahead.len() > AHEAD {
            let closed = match back.ahead.pop_back() {
                Some(Turn::File(Opened { time, .. }) | Turn::Failed { time, .. }) => time,
                Some(Turn::Removed(time)) => Some(time),
                None => None,
            };
            closed.into_iter().for_each(|time| back.archives.push_front(time));
        }
    }

    /// Begins with the last that was put back. What is before it is left out.
    pub(super) fn turn_round(&mut self) {
        self.now = std::mem::take(&mut self.back);
    }
}

/// The times of all archives. One that is compressed while the folder is read may be seen under
/// neither name (readdir(3)), but not twice in a row: then it has its other name all the time.
fn times(file: &Path) -> io::Result<BTreeSet<String>> {
    let once: Vec<Archive> = archives::list_to_read(file)?;
    Ok(once.into_iter().chain(archives::list_to_read(file)?).map(|archive| archive.time).collect())
}

/// The time of the newest of them.
fn newest(times: &io::Result<BTreeSet<String>>) -> Option<String> {
    times.as_ref().ok()?.last().cloned()
}

/// Whether an error says that no more files can be opened.
fn has_too_many(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// Whether an error says that there is nothing of that name.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn open_live(path: &Path) -> Turn {
    // A name that ends so may be given for any compressed file.
    let name = path.file_name().unwrap_or_default().as_bytes();
    let form = match name {
        _ if name.ends_with(b".gz") => Form::Compressed(Compress::Gzip),
        _ if name.ends_with(b".zst") => Form::Compressed(Compress::Zstd),
        _ => Form::Raw,
    };
    match open_file(path).and_then(|file| opened(path, None, form, file)) {
        Ok(opened) => Turn::File(opened),
        Err(why) => Turn::Failed { path: path.to_owned(), time: None, why },
    }
}

/// Opens a regular file, or the pipe of a command line, as /dev/stdin may be. To open or to read
/// anything else, such as a FIFO, may take for ever.
fn open_file(path: &Path) -> io::Result<File> {
    let not_regular = |kind: FileType| io::Error::new(ErrorKind::Unsupported, not_regular(kind));
    let opened = File::options().read(true).custom_flags(O_NONBLOCK).open(path);
    let file = match opened {
        // A socket can't be opened.
        Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => {
            return Err(path.metadata().map_or(error, |found| not_regular(found.file_type())));
        }
        opened => opened?,
    };
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_dir() {
        return Ok(file);
    }
    if kind.is_fifo() && fstatfs(&file)?.filesystem_type() == FsType(PIPEFS) {
        pipe::set_nonblocking(&file, false)?;
        return Ok(file);
    }
    Err(not_regular(kind))
}

/// "it is a FIFO, not a regular file".
fn not_regular(kind: FileType) -> String {
    let what = match kind {
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    };
    format!("it is {what}, not a regular file")
}

/// An archive by the form that counts. It may be compressed at this moment, and is then found
/// by its other name.
fn open_archive(file: &Path, time: &str) -> Turn {
    for form in FORMS {
        let path = archives::path(file, time, form);
        // Somebody may have put something else there.
        let open = || File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(&path);
        match open().and_then(|file| opened(&path, Some(time), form, file)) {
            Ok(opened) if opened.is_regular => return Turn::File(opened),
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(why) => return Turn::Failed { path, time: Some(time.to_owned()), why },
        }
    }
    Turn::Removed(time.to_owned())
}

fn opened(path: &Path, time: Option<&str>, form: Form, file: File) -> io::Result<Opened> {
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(Errno::EISDIR.into());
    }
    Ok(Opened {
        path: path.to_owned(),
        time: time.map(str::to_owned),
        form,
        id: FileId::of(&metadata),
        is_regular: metadata.is_file(),
        follows: follows::of(&file),
        file,
    })
}

/// The time of the archive that an open file has become, among those newer than `after`. An
/// archive that is compressed by now is recognised by how it begins.
pub(super) fn became(file: &Path, after: Option<&str>, live: &Opened, head: &[u8]) -> Option<String> {
    let newer = times(file).ok()?.into_iter().filter(|time| after.is_none_or(|after| time.as_str() > after));
    let mut first = true;
    for time in newer {
        let Turn::File(found) = open_archive(file, &time) else { continue };
        if found.id == live.id || std::mem::take(&mut first) && !head.is_empty() && begins(found, head) {
            return Some(time);
        }
    }
    None
}

/// Whether a compressed file begins with those bytes.
fn begins(found: Opened, head: &[u8]) -> bool {
    use std::io::Read;
    let mut begin = vec![0; head.len()];
    let read = match found.form {
        Form::Raw => return false,
        Form::Compressed(Compress::Gzip) => flate2::read::GzDecoder::new(found.file).read_exact(&mut begin),
        Form::Compressed(Compress::Zstd) => {
            zstd::Decoder::new(found.file).and_then(|mut decoder| decoder.read_exact(&mut begin))
        }
    };
    read.is_ok() && begin == head
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn content(turn: Option<Turn>) -> String {
        match turn {
            Some(Turn::File(mut opened)) => {
                let mut text = String::new();
                opened.file.read_to_string(&mut text).unwrap();
                text
            }
            other => format!("{other:?}"),
        }
    }

    fn time(second: usize) -> String {
        format!("20261122T1504{second:02}.000000Z")
    }

    fn folder(archives: usize) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.log");
        std::fs::write(&file, "live").unwrap();
        for second in 0..archives {
            std::fs::write(archives::path(&file, &time(second), Form::Raw), second.to_string()).unwrap();
        }
        (folder, file)
    }

    #[test]
    fn what_is_renamed_compressed_or_removed_meanwhile_is_read_all_the_same() {
        let (_folder, file) = folder(3);
        let mut series = Series::of(&file, None);
        assert_eq!(content(series.next()), "0");
        std::fs::remove_file(archives::path(&file, &time(1), Form::Raw)).unwrap();
        let gzip = archives::path(&file, &time(2), Form::Compressed(Compress::Gzip));
        std::fs::rename(archives::path(&file, &time(2), Form::Raw), gzip).unwrap();
        std::fs::rename(&file, archives::path(&file, &time(3), Form::Raw)).unwrap();
        std::fs::write(&file, "new").unwrap();
        assert_eq!(["1", "2", "live"].map(|_| content(series.next())), ["1", "2", "live"]);
        assert!(series.next().is_none());
    }

    #[test]
    fn the_raw_form_counts_and_what_is_no_file_is_none() {
        let (_folder, file) = folder(1);
        for form in &FORMS[1..] {
            std::fs::write(archives::path(&file, &time(0), *form), "half").unwrap();
        }
        std::os::unix::fs::symlink(&file, archives::path(&file, &time(1), Form::Raw)).unwrap();
        std::fs::create_dir(archives::path(&file, &time(2), Form::Raw)).unwrap();
        let mut series = Series::of(&file, None);
        assert_eq!([content(series.next()), content(series.next())], ["0", "live"]);
        assert!(series.next().is_none());
    }

    #[test]
    fn more_archives_than_are_opened_at_once_come_in_order_both_ways() {
        for (held, most) in [(0, 59), (10, 49)] {
            let (_folder, file) = folder(59);
            let mut series = Series::of(&file, Some(&time(3)));
            for _ in 0..=most.min(55) - held {
                let turn = series.next_back().unwrap();
                series.put_back(turn);
            }
            series.turn_round();
            let from = 59 - (most.min(55) - held);
            let expected: Vec<String> =
                (from..59).map(|second| second.to_string()).chain(["live".to_owned()]).collect();
            let got: Vec<String> = std::iter::from_fn(|| series.next().map(|turn| content(Some(turn)))).collect();
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn an_archive_is_recognised_though_it_is_compressed() {
        let (_folder, file) = folder(1);
        let Some(Turn::File(live)) = Series::of(&file, Some(&time(0))).next() else { panic!() };
        assert_eq!(became(&file, Some(&time(0)), &live, b"li"), None);
        let archive = archives::path(&file, &time(5), Form::Raw);
        std::fs::rename(&file, &archive).unwrap();
        assert_eq!(became(&file, Some(&time(0)), &live, b"li"), Some(time(5)));
        let zstd = archives::path(&file, &time(5), Form::Compressed(Compress::Zstd));
        std::fs::write(zstd, zstd::encode_all(&b"live"[..], 1).unwrap()).unwrap();
        std::fs::remove_file(archive).unwrap();
        assert_eq!(became(&file, Some(&time(0)), &live, b"li"), Some(time(5)));
        assert_eq!(became(&file, Some(&time(0)), &live, b"lo"), None);
        assert_eq!(became(&file, Some(&time(5)), &live, b"li"), None);
    }
}
