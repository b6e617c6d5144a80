//! `--pid-file`: a file that holds the daemon's process id. It is locked while the
//! daemon lives, so a file left over from a crash is recognised as stale.

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

/// How long removing it may take at the end, if it is on a file system that may not answer.
const REMOVED: Duration = Duration::from_secs(1);

/// The file, held until this is dropped, which removes it.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    lock: Locked,
    /// Whether its file system is local, so that looking at it waits for no network.
    local: bool,
}

impl PidFile {
    /// Locks the file and writes this process's id to it.
    ///
    /// # Errors
    /// A living daemon holds it; it can't be written; or its file system does not
    /// answer.
    pub(super) fn hold(path: &Path) -> Result<PidFile, String> {
        // This process must open the file itself to hold its lock, so a process aside first
        // finds out whether that would have to wait.
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
        // Wait until no other daemon is removing its own. If no lock can be made beside the
        // file, the file can't be removed either.
        let turn = Lock::take_soon(path);
        loop {
            // Everybody may read the file, and so lock it; only a daemon's lock counts.
            let file = beside::open_or_make(path, OFlag::O_RDWR, 0o644, Whose::Administrators);
            let (file, _is_new) = file.map_err(|e| cannot("open", &cause(&e)))?;
            let lock = match lock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(Some(lock)) => lock,
                Ok(None) => return Err(cannot("lock", &holder(path))),
                Err(error) => return Err(cannot("lock", &cause(&error))),
            };
            // The previous holder may have removed it after we opened it and before we
            // locked it. Then we locked a file without a name.
            if !is_at(&lock, path) {
                continue;
            }
            let held = PidFile { path: path.to_owned(), lock, local };
            // If that fails (the disk is full), dropping `held` removes the empty file.
            let written = write(&held.lock);
            drop(turn);
            written.map_err(|e| cannot("write", &cause(&e)))?;
            return Ok(held);
        }
    }

    /// Makes the file again if it was removed, provided that this can be seen without waiting.
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
        // It may have been removed, and another daemon may have its own there. A file that
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
    fn it_holds_our_id_and_is_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let held = PidFile::hold(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_file_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        fs::write(&path, "4242424242 and more that is longer than an id\n").unwrap();
        let _held = PidFile::hold(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_file_that_became_another_daemons_stays_at_the_end() {
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
    fn a_removed_file_is_made_again_but_not_in_place_of_another_daemons() {
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
    fn a_daemon_that_starts_while_another_ends_keeps_its_own_file() {
        for _ in 0..200 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("pid");
            let first = PidFile::hold(&path).unwrap();
            // A cleaner removes the name, and the next daemon takes it, just as the first one ends.
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
    fn a_living_daemon_is_named_by_its_id() {
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
    fn anything_but_a_regular_file_is_left_alone() {
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
    fn a_missing_folder_is_reported() {
        let why = PidFile::hold(Path::new("/nonexistent/pid")).unwrap_err();
        assert!(why.starts_with("cannot open the pid file /nonexistent/pid: No such file"), "{why}");
    }
}
