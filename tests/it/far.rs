//! A file system that stops answering, like one whose server is dead.

use crate::daemon::{state, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A FUSE file system whose server can be stopped.
pub struct Far {
    folder: tempfile::TempDir,
    servers: Vec<(PathBuf, Child)>,
}

impl Far {
    /// A file system whose waiting processes can be killed.
    pub fn new() -> Far {
        Far::of(&["far"])
    }

    /// A file system whose waiting processes can't be killed, because its server has taken their
    /// requests, and itself waits for another server that does not answer.
    pub fn unkillable() -> Far {
        Far::of(&["behind", "far"])
    }

    fn of(names: &[&str]) -> Far {
        let folder = tempfile::tempdir().unwrap();
        let mut below = folder.path().join("near");
        std::fs::create_dir(&below).unwrap();
        let mut servers = Vec::new();
        for name in names {
            let at = folder.path().join(name);
            std::fs::create_dir(&at).unwrap();
            let server = Command::new("bindfs")
                .args(["-f", "--multithreaded", "-o", "attr_timeout=0,entry_timeout=0,negative_timeout=0"])
                .args([&below, &at])
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            // There are several threads, so that one can take a request while another waits.
            servers.push((at.clone(), server));
            let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
            wait_for("the mount", || mounts().contains(&format!(" {} fuse", at.display())).then_some(()));
            below = at;
        }
        Far { folder, servers }
    }

    /// A path on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("far").join(name)
    }

    /// The same file by a path that always works.
    pub fn near(&self, name: &str) -> PathBuf {
        self.folder.path().join("near").join(name)
    }

    /// Puts a program there.
    pub fn program(&self, name: &str, from: &str) -> PathBuf {
        std::fs::copy(from, self.near(name)).unwrap();
        self.path(name)
    }

    /// Makes it stop answering.
    pub fn hang(&self) {
        let server = i32::try_from(self.servers[0].1.id()).unwrap();
        crate::daemon::kill(server, nix::libc::SIGSTOP);
        wait_for("it is stopped", || (state(server) == Some('T')).then_some(()));
    }

    /// Makes it answer again.
    pub fn answer(&self) {
        crate::daemon::kill(i32::try_from(self.servers[0].1.id()).unwrap(), nix::libc::SIGCONT);
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // All processes that wait get ENOTCONN when the server ends.
        for (at, server) in self.servers.iter_mut().rev() {
            let _killed = server.kill();
            unmount(at);
        }
        for (_, server) in &mut self.servers {
            let _reaped = server.wait();
        }
    }
}

fn unmount(at: &Path) {
    let _gone = Command::new("umount").arg("-l").arg(at).status();
}
