//! `--pid-file`: a file that holds the daemon's process id, locked while the
//! daemon lives, so that one left over from a crash is known for what it is.

use crate::config::system::cause;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file, held until this is dropped, which removes it.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    lock: Flock<File>,
}

impl PidFile {
    /// Locks the file and writes this process's id to it.
    ///
    /// # Errors
    /// A living daemon holds it, with its id; or it can't be written.
    pub(super) fn hold(path: &Path) -> Result<PidFile, String> {
        let cannot = |verb: &str, why: &str| format!("cannot {verb} the pid file {}: {why}", path.display());
        loop {
            let file = open(path).map_err(|e| cannot("open", &cause(&e)))?;
            if !file.metadata().is_ok_and(|data| data.is_file()) {
                // It is removed at the end, which must not hit /dev/null.
                return Err(cannot("use", "it is no ordinary file"));
            }
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, Errno::EINTR)) => continue,
                Err((_, Errno::EAGAIN)) => return Err(cannot("lock", &holder(path))),
                Err((_, error)) => return Err(cannot("lock", error.desc())),
            };
            // Whoever held it before may have removed it between our opening
            // and our locking: then we locked a file without a name.
            if !is_at(&lock, path) {
                continue;
            }
            let mut held = PidFile { path: path.to_owned(), lock };
            // Where that fails (the disk is full) no empty file is left behind.
            write(&mut held.lock).map_err(|e| cannot("write", &cause(&e)))?;
            return Ok(held);
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it, and another daemon have its own there.
        if is_at(&self.lock, &self.path) {
            // One that can't be removed is stale, and the next daemon takes it over.
            let _stale = fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o644).open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn write(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(path: &Path) -> String {
    match fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok()) {
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
        assert_eq!(why, format!("cannot use the pid file {}: it is no ordinary file", path.display()));
        assert!(path.exists());
    }

    #[test]
    fn a_folder_that_is_not_there_is_told() {
        let why = PidFile::hold(Path::new("/nonexistent/pid")).unwrap_err();
        assert!(why.starts_with("cannot open the pid file /nonexistent/pid: No such file"), "{why}");
    }
}
