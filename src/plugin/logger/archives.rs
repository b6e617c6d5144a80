//! Rotated message files: their names, their order, and which are too many.
//!
//! A file whose name does not have exactly this form is not an archive.

use super::file::{folder, intent_path, now};
use super::render::name_time;
use super::settings::{Compress, Rotate};
use crate::sys::beside::{self, Folder, Whose};
use crate::sys::lock;
use nix::fcntl::{FlockArg, OFlag};
use nix::unistd::geteuid;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The form of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// As the logger left it.
    Raw,
    /// Compressed.
    Compressed(Compress),
}

/// All forms. The first of them that an archive has is the one that counts.
pub const FORMS: [Form; 3] = [Form::Raw, Form::Compressed(Compress::Gzip), Form::Compressed(Compress::Zstd)];

impl Form {
    /// How its name ends.
    fn ending(self) -> &'static str {
        match self {
            Form::Raw => "",
            Form::Compressed(Compress::Gzip) => ".gz",
            Form::Compressed(Compress::Zstd) => ".zst",
        }
    }
}

/// A file that was rotated at one time. It has more than one form if an archivist was
/// killed before it removed the raw one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The time of the rotation, as in the name.
    pub time: String,
    /// Its forms, the raw one first, and how many bytes each has.
    pub forms: Vec<(Form, u64)>,
}

impl Archive {
    /// Whether the raw form exists. If so, it is the one that counts.
    pub fn is_raw(&self) -> bool {
        self.forms.iter().any(|(form, _)| *form == Form::Raw)
    }

    /// How to compress the raw form: as was begun before, otherwise as the settings say.
    pub fn wanted(&self, compress: Option<Compress>) -> Option<Compress> {
        let begun = self.forms.iter().find_map(|(form, _)| match form {
            Form::Compressed(begun) => Some(*begun),
            Form::Raw => None,
        });
        begun.or(compress).filter(|_| self.is_raw())
    }

    fn bytes(&self) -> u64 {
        self.forms.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// The archives of a message file, the oldest first. A file with such a name that another
/// user put there does not count.
///
/// # Errors
/// The folder can't be read.
pub fn list(file: &Path) -> io::Result<Vec<Archive>> {
    let trusted = Folder::of(file)?;
    list_of(file, |found| trusted.may_have(found))
}

/// The same for a reader, who may be neither root nor the logger's user: the archives that
/// belong to one of these two, or to the owner of the file or of its folder.
///
/// # Errors
/// The folder can't be read.
pub fn list_to_read(file: &Path) -> io::Result<Vec<Archive>> {
    let owners = owners(file);
    list_of(file, |found| found.is_file() && owners.contains(&Some(found.uid())))
}

/// The files that are named as archives, but are none for a reader, because they belong to
/// somebody else.
///
/// # Errors
/// The folder can't be read.
pub fn list_foreign(file: &Path) -> io::Result<Vec<PathBuf>> {
    let owners = owners(file);
    let [.., of_file, _] = owners;
    if of_file.is_none() {
        // While a rotation has it away, its owner is not known.
        return Ok(Vec::new());
    }
    let foreign = list_of(file, |found| found.is_file() && !owners.contains(&Some(found.uid())))?;
    let forms = |archive: Archive| archive.forms.into_iter().map(move |(form, _)| (archive.time.clone(), form));
    Ok(foreign.into_iter().flat_map(forms).map(|(time, form)| path(file, &time, form)).collect())
}

/// Whose archives a reader trusts.
fn owners(file: &Path) -> [Option<u32>; 4] {
    let owner = |path: &Path| std::fs::metadata(path).ok().map(|found| found.uid());
    [Some(0), Some(geteuid().as_raw()), owner(file), owner(folder(file))]
}

fn list_of(file: &Path, is_ours: impl Fn(&Metadata) -> bool) -> io::Result<Vec<Archive>> {
    let mut found: BTreeMap<String, Vec<(Form, u64)>> = BTreeMap::new();
    for entry in folder(file).read_dir()? {
        let entry = entry?;
        let Some((time, form)) = parse(file, entry.file_name().as_bytes()) else {
            continue;
        };
        // This does not follow a symbolic link, which is not an archive.
        match entry.metadata() {
            Ok(metadata) if is_ours(&metadata) => found.entry(time).or_default().push((form, metadata.len())),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let archive = |(time, mut forms): (String, Vec<(Form, u64)>)| {
        forms.sort_unstable();
        Archive { time, forms }
    };
    Ok(found.into_iter().map(archive).collect())
}

/// Of which message file that path is an archive, its time and its form; `None` if its name
/// is not an archive's.
pub fn of_path(path: &Path) -> Option<(PathBuf, String, Form)> {
    let name = path.file_name()?.as_bytes();
    // A time has one dot, and a form has at most one more.
    let dots = name.iter().enumerate().rev().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at);
    let mut files = dots.take(3).map(|at| path.with_file_name(OsStr::from_bytes(&name[..at])));
    files.find_map(|file| parse(&file, name).map(|(time, form)| (file, time, form)))
}

/// The time and the form in a name, if it is an archive's.
fn parse(file: &Path, name: &[u8]) -> Option<(String, Form)> {
    let rest = name.strip_prefix(file.file_name()?.as_bytes())?.strip_prefix(b".")?;
    let rest = std::str::from_utf8(rest).ok()?;
    let form = FORMS.into_iter().rev().find(|form| rest.ends_with(form.ending()))?;
    let time = rest.strip_suffix(form.ending())?;
    micros(time).map(|_| (time.to_owned(), form))
}

/// Microseconds since 1970 of `20261122T150405.123456Z`; `None` if it is not such a time.
pub fn micros(time: &str) -> Option<i64> {
    const SHAPE: &[u8] = b"00000000T000000.000000Z";
    let same = |(byte, model): (u8, &u8)| if *model == b'0' { byte.is_ascii_digit() } else { byte == *model };
    if time.len() != SHAPE.len() || !time.bytes().zip(SHAPE).all(same) {
        return None;
    }
    let date = time[..8].parse::<i32>().ok()?;
    let part = |from: usize, to: usize| time[from..to].parse::<i8>().ok();
    let nanos = time[16..22].parse::<i32>().ok()? * 1000;
    let year = i16::try_from(date / 10_000).ok()?;
    let (month, day) = (part(4, 6)?, part(6, 8)?);
    let civil = jiff::civil::DateTime::new(year, month, day, part(9, 11)?, part(11, 13)?, part(13, 15)?, nanos).ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_microsecond())
}

/// The path of that form of the file that was rotated at `time`.
pub fn path(file: &Path, time: &str, form: Form) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{time}{}", form.ending()));
    name.into()
}

/// The name for a file that is rotated now. It sorts after all earlier ones, whatever the
/// clock says.
///
/// # Errors
/// The folder can't be read.
pub fn next_path(file: &Path) -> io::Result<PathBuf> {
    let newest = list(file)?.last().and_then(|archive| micros(&archive.time));
    let time = newest.map_or(now(), |newest| now().max(newest + 1));
    Ok(path(file, &name_time(time), Form::Raw))
}

/// How many of the oldest archives are too many, by number and by bytes. The newest always
/// stays.
pub fn too_many(archives: &[Archive], keep: Option<u64>, keep_size: Option<u64>) -> usize {
    let count = archives.len();
    let by_number = count.saturating_sub(keep.map_or(count, |keep| usize::try_from(keep).unwrap_or(count)));
    let mut bytes = 0u64;
    let fitting = archives.iter().rev().take_while(|archive| {
        bytes = bytes.saturating_add(archive.bytes());
        keep_size.is_none_or(|most| bytes <= most)
    });
    let by_bytes = count - fitting.count();
    by_number.max(by_bytes).min(count.saturating_sub(1))
}

/// Whether an archivist has anything to do.
pub fn is_work(archives: &[Archive], rotate: &Rotate) -> bool {
    archives.iter().any(|archive| archive.wanted(rotate.compress).is_some())
        || too_many(archives, rotate.keep, rotate.keep_size) > 0
}

/// Whether a process has locked that file, as a logger locks the file that it
/// writes to, whatever its name is.
///
/// A lock can be tried only on a file that can be opened. For any other file, this looks
/// into the kernel's list of locks, which has those of all processes
/// that this one can see, and for the intent file that each logger has beside
/// its file, even a logger in another container.
///
/// # Errors
/// It can't be found out.
pub fn is_in_use(path: &Path) -> io::Result<bool> {
    match beside::open(path, OFlag::O_RDONLY, Whose::Administrators) {
        Ok(file) => Ok(lock::lock(file, FlockArg::LockSharedNonblock)?.is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let intent = intent_path(path).symlink_metadata();
            let has_logger = intent.is_ok_and(|intent| Folder::of(path).is_ok_and(|folder| folder.may_have(&intent)));
            Ok(has_logger || lock::is_listed(&path.symlink_metadata()?)?)
        }
        Err(error) => Err(error),
    }
}

/// Removes every form of an archive, the raw one last. That needs no right to
/// the file itself, only to its folder. Returns whether it is gone. An archive that is
/// in use stays.
///
/// # Errors
/// It can't be found out whether it is in use; or from unlink(2).
pub fn remove(file: &Path, archive: &Archive) -> io::Result<bool> {
    for &(form, _) in archive.forms.iter().rev() {
        let path = path(file, &archive.time, form);
        if is_in_use(&path)? {
            return Ok(false);
        }
        match beside::remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::Flock;
    use proptest::prelude::*;
    use std::fs::File;

    const FILE: &str = "/var/log/m.log";

    fn parsed(name: &str) -> Option<(String, Form)> {
        parse(Path::new(FILE), name.as_bytes())
    }

    #[test]
    fn only_a_name_of_exactly_that_form_is_an_archive() {
        let time = "20261122T150405.123456Z";
        for form in FORMS {
            let path = path(Path::new(FILE), time, form);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(parsed(name), Some((time.to_owned(), form)));
        }
        for other in [
            "m.log",
            "m.log.1",
            "m.log.20261122T150405.123456Z.gz.gz",
            "m.log.20261122T150405.123456Z.xz",
            "m.log.20261122T150405.123456Z.gz~",
            "m.log.20261122T150405.123456",
            "m.log.20261122T150405.1234567Z",
            "m.log.20261122t150405.123456Z",
            "m.log.20261322T150405.123456Z",
            "m.log.20260230T150405.123456Z",
            "m.log.20261122T250405.123456Z",
            "m.log.+0261122T150405.123456Z",
            "m.log.torn-20261122T150405.123456Z",
            "m.log.untrusted-20261122T150405.123456Z",
            ".m.log.20261122T150405.123456Z",
            "n.log.20261122T150405.123456Z",
            "m.log20261122T150405.123456Z",
            "m.log.2026112²T150405.12345Z",
        ] {
            assert_eq!(parsed(other), None, "{other}");
        }
    }

    #[test]
    fn a_path_names_the_file_that_it_is_an_archive_of() {
        let time = "20261122T150405.123456Z";
        for form in FORMS {
            for file in ["/var/log/m.log", "m", "a/m.log.1"] {
                let path = path(Path::new(file), time, form);
                assert_eq!(of_path(&path), Some((file.into(), time.to_owned(), form)));
            }
        }
        for other in ["m.log", "/", "..", "20261122T150405.123456Z", "m.log.20261122T150405.123456Z.xz", "m.log.gz"] {
            assert_eq!(of_path(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn the_next_name_is_above_all_others_whatever_the_clock_says() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.log");
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let first = next_path(&file).unwrap();
        assert!(name(&first) > format!("m.log.{}", name_time(now() - 60_000_000)), "{first:?}");
        std::fs::write(folder.path().join("m.log.29991231T235959.999999Z.gz"), "").unwrap();
        assert_eq!(name(&next_path(&file).unwrap()), "m.log.30000101T000000.000000Z");
    }

    fn archive(bytes: u64) -> Archive {
        Archive { time: String::new(), forms: vec![(Form::Raw, bytes)] }
    }

    #[test]
    fn the_oldest_are_too_many_and_the_newest_never_is() {
        let archives = [5, 1, 2, 3].map(archive);
        let cases = [
            (None, None, 0),
            (Some(4), None, 0),
            (Some(3), None, 1),
            (Some(1), None, 3),
            (None, Some(11), 0),
            (None, Some(10), 1),
            (None, Some(5), 2),
            (None, Some(4), 3),
            (None, Some(0), 3),
            (Some(2), Some(10), 2),
            (Some(3), Some(5), 2),
        ];
        for (keep, keep_size, removed) in cases {
            assert_eq!(too_many(&archives, keep, keep_size), removed, "{keep:?} {keep_size:?}");
        }
        assert_eq!(too_many(&[], Some(1), Some(0)), 0);
    }

    #[test]
    fn a_compression_is_finished_in_the_form_in_which_it_was_begun() {
        let (gzip, zstd) = (Some(Compress::Gzip), Some(Compress::Zstd));
        let with = |forms: &[Form]| Archive { time: String::new(), forms: forms.iter().map(|f| (*f, 1)).collect() };
        assert_eq!(with(&[Form::Raw]).wanted(zstd), zstd);
        assert_eq!(with(&[Form::Raw]).wanted(None), None);
        assert_eq!(with(&FORMS[..2]).wanted(zstd), gzip);
        assert_eq!(with(&FORMS[..2]).wanted(None), gzip);
        assert_eq!(with(&FORMS[1..2]).wanted(zstd), None);
    }

    #[test]
    fn a_locked_archive_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.log");
        let path = next_path(&file).unwrap();
        std::fs::write(&path, "x").unwrap();
        let holder = Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        let archives = list(&file).unwrap();
        assert!(!remove(&file, &archives[0]).unwrap() && path.exists());
        drop(holder);
        assert!(remove(&file, &archives[0]).unwrap() && !path.exists());
        assert!(list(&file).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn names_sort_as_their_times_do(a in 0i64..4_000_000_000_000_000, b in 0i64..4_000_000_000_000_000) {
            prop_assert_eq!(name_time(a).cmp(&name_time(b)), a.cmp(&b));
            prop_assert_eq!(micros(&name_time(a)), Some(a));
        }
    }
}
