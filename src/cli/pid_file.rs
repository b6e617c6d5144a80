//! `--pid-file`: a file that holds the daemon's process id, locked while the
//! daemon lives, so that one left over from a crash is known for what it is.

use crate::supervisor::unix_name::{Lock, remove_own};
use crate::sys::aside::{self, Keeps};
use crate::sys::at_hand::is_way_local;
use crate::sys::beside::{self, Whose};
use crate::sys::cause::cause;
use crate::sys::lock::{self, Locked};
use crate::sys::look::Look;
use nix::fcntl::{FlockArg, OFlag};
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// It has this long to be removed at the end, if it is on a file system that may not answer.
const REMOVED: Duration = Duration::from_secs(1);

/// The file, held until this is dropped, which removes it.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    lock: Locked,
    /// To look at it waits for no network.
    local: bool,
}

impl PidFile {
    /// Locks the file and writes this process's id to it.
    ///
    /// # Errors
    /// A living daemon holds it, with its id; it can't be written; or its file system does not
    /// answer.
    pub(super) fn hold(path: &Path) -> Result<PidFile, String> {
        // Only the process that opens it can lock it for good, so a process aside sees first
        // whether this one would have to wait.
        let look = Look::begin(Keeps::Only(&[]), |scribe| {
            scribe.ask("local", "looking at it", || {
                let _whatever_there_is = fs::metadata(path);
                path.parent().is_some_and(is_way_local)
            });
        });
        let answers =
            look.map_err(|error| format!("no process can look at it: {}", cause(&error))).and_then(Look::wait);
        let answers = answers.map_err(|why| cannot("open", path, &why))?;
        PidFile::hold_at(path, answers.get("local") == Some(true))
    }

    fn hold_at(path: &Path, local: bool) -> Result<PidFile, String> {
        let cannot = |verb: &str, why: &str| cannot(verb, path, why);
        // Not while another daemon removes its own. Where nothing can be made beside the
        // file, nothing can be removed either.
        let turn = Lock::take_soon(path);
        loop {
            // Everybody may read it, and so lock it; only a daemon's lock counts.
            let file = beside::open_or_make(path, OFlag::O_RDWR, 0o644, Whose::Administrators);
            let (file, _is_new) = file.map_err(|e| cannot("open", &cause(&e)))?;
            let lock = match lock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(Some(lock)) => lock,
                Ok(None) => return Err(cannot("lock", &holder(path))),
                Err(error) => return Err(cannot("lock", &cause(&error))),
            };
            // Whoever held it before may have removed it between our opening
            // and our locking: then we locked a file without a name.
            if !is_at(&lock, path) {
                continue;
            }
            let held = PidFile { path: path.to_owned(), lock, local };
            // Where that fails (the disk is full) no empty file is left behind.
            let written = write(&held.lock);
            drop(turn);
            written.map_err(|e| cannot("write", &cause(&e)))?;
            return Ok(held);
        }
    }

    /// Makes it again if somebody removed it, as far as this can be seen at once.
    pub(super) fn renew(&mut self) {
        if !self.local || is_at(&self.lock, &self.path) {
            return;
        }
        match PidFile::hold_at(&self.path, true) {
            Ok(again) => {
                *self = again;
                log::warn!("the pid file {} was gone: it is made again", self.path.display());
            }
            Err(why) => log::error!("{why}"),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it, and another daemon have its own there. One that
        // can't be removed is stale, and the next daemon takes it over.
        let remove = || drop(remove_own(&self.path, || Ok(is_at(&self.lock, &self.path))));
        if self.local {
            return remove();
        }
        if let Ok(pid) = aside::start(Keeps::Only(&[self.lock.as_fd()]), remove) {
            aside::wait([pid], REMOVED);
        }
    }
}

fn cannot(verb: &str, path: &Path, why: &str) -> String {
    format!("cannot {verb} the pid file {}: {why}", path.display())
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn write(mut file: &File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(path: &Path) -> String {
    let mut text = String::new();
    let read = beside::open(path, OFlag::O_RDONLY, Whose::Administrators);
    let _what_there_is = read.and_then(|file| file.take(32).read_to_string(&mut text));
    match text.trim().parse::<u32>().ok() {
        Some(pid) => format!("process {pid} holds it"),
        None => "another process holds it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_our_id_and_goes_with_us() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let held = PidFile::hold(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_one_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        fs::write(&path, "4242424242 and more that is longer than an id\n").unwrap();
        let _held = PidFile::hold(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn one_that_became_anothers_stays_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let held = PidFile::hold(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let other = PidFile::hold(&path).unwrap();
        drop(held);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
    }

    #[test]
    fn one_that_was_removed_is_made_again_but_not_in_place_of_anothers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let mut held = PidFile::hold(&path).unwrap();
        for _ in 0..2 {
            fs::remove_file(&path).unwrap();
            held.renew();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
            assert!(PidFile::hold(&path).is_err(), "it is locked again");
        }
        fs::remove_file(&path).unwrap();
        let other = PidFile::hold(&path).unwrap();
        held.renew();
        drop(held);
        assert!(path.exists());
        drop(other);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn of_one_that_ends_and_one_that_starts_the_second_keeps_its_own() {
        for _ in 0..200 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("pid");
            let first = PidFile::hold(&path).unwrap();
            // A cleaner takes the name, and the next daemon has it, just when the first one ends.
            std::thread::scope(|scope| {
                let next = scope.spawn(|| {
                    fs::remove_file(&path).unwrap_or_default();
                    PidFile::hold(&path)
                });
                drop(first);
                if let Ok(_next) = next.join().unwrap() {
                    assert!(path.exists());
                }
            });
        }
    }

    #[test]
    fn a_living_one_is_refused_by_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let _held = PidFile::hold(&path).unwrap();
        let why = PidFile::hold(&path).unwrap_err();
        assert_eq!(
            why,
            format!("cannot lock the pid file {}: process {} holds it", path.display(), std::process::id())
        );
    }

    #[test]
    fn what_is_no_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let why = PidFile::hold(&path).unwrap_err();
        assert_eq!(why, format!("cannot open the pid file {}: it is a FIFO, no regular file", path.display()));
        assert!(path.exists());
        let why = PidFile::hold(Path::new("/dev/null")).unwrap_err();
        assert_eq!(why, "cannot open the pid file /dev/null: it is a device, no regular file");
    }

    #[test]
    fn a_folder_that_is_not_there_is_told() {
        let why = PidFile::hold(Path::new("/nonexistent/pid")).unwrap_err();
        assert!(why.starts_with("cannot open the pid file /nonexistent/pid: No such file"), "{why}");
    }
}
