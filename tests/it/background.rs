//! `plumbd run --daemon`: the caller gets its exit status once every child is
//! ready, or the reason why not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::daemon::{alive, kill, wait_for};
use assert_cmd::Command;
use plumbd::control::{Request, Response, Status, client};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const NO_LOG: &str = "plumbd: daemon.log is \"stderr\", which a daemon has none of: nothing is logged\n";

/// A folder with a configuration, whose daemon does not outlive the test.
struct Folder {
    dir: TempDir,
}

impl Folder {
    fn new(config: &str) -> Folder {
        let dir = tempfile::tempdir().unwrap();
        // Nobody need listen on /dev/log here; so nothing is logged, and it says so.
        fs::write(dir.path().join("plumbd.toml"), format!("daemon.log = \"stderr\"\n{config}")).unwrap();
        Folder { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `plumbd run --daemon`: its exit status and standard error.
    fn run(&self) -> (i32, String) {
        let words = ["run", "--daemon", "--pid-file", "pid"];
        let output = command(self.dir.path(), &words).output().unwrap();
        assert!(output.stdout.is_empty());
        let said = String::from_utf8(output.stderr).unwrap();
        let said = said.strip_prefix(NO_LOG).unwrap_or_else(|| panic!("{said}"));
        (output.status.code().expect("it takes too long"), said.to_owned())
    }

    fn pid(&self) -> Option<i32> {
        fs::read_to_string(self.path("pid")).ok()?.trim().parse().ok()
    }

    fn status(&self) -> Status {
        let mut status = None;
        let socket = self.path("plumbd.sock");
        let take = |response| {
            if let Response::Status(got) = response {
                status = Some(*got);
            }
            Ok(())
        };
        client::ask(&socket, &Request::Status, take).unwrap();
        status.expect("a status in the answer")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            kill(pid, nix::libc::SIGKILL);
        }
    }
}

fn command(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plumbd"));
    command.args(words).current_dir(dir).env_remove("PLUMBD_CONTROL").timeout(Duration::from_secs(60));
    command
}

const SLEEPER: &str = "[children.x]\ncommand = [\"/bin/sleep\", \"1000\"]\n";

#[test]
fn all_is_up_when_the_caller_comes_back_and_gone_after_shutdown() {
    let folder = Folder::new(SLEEPER);
    assert_eq!(folder.run(), (0, String::new()));
    let status = folder.status();
    assert!(status.all_up(), "{status:?}");
    assert_eq!(folder.pid(), Some(status.pid));
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", status.pid)).unwrap(), Path::new("/"));
    command(folder.dir.path(), &["shutdown"]).assert().success();
    wait_for("the daemon is gone", || (!alive(status.pid)).then_some(()));
    wait_for("its child is gone", || (!alive(status.children[0].pid?)).then_some(()));
    assert!(!folder.path("pid").exists() && !folder.path("plumbd.sock").exists());
}

#[test]
fn a_child_that_is_not_ready_in_time_is_the_reason() {
    let folder = Folder::new(&format!("{SLEEPER}ready = \"notify\"\nready_timeout = \"100ms\"\nrestart = \"never\"\n"));
    let (status, why) = folder.run();
    assert_eq!(status, 1);
    assert!(why.starts_with("plumbd: cannot start x: "), "{why}");
    wait_for("the daemon is gone", || (!folder.path("pid").exists()).then_some(()));
    assert!(!folder.path("plumbd.sock").exists());
}

#[test]
fn a_second_daemon_is_refused_and_leaves_the_first_alone() {
    let folder = Folder::new(SLEEPER);
    assert_eq!(folder.run(), (0, String::new()));
    let pid = folder.pid().unwrap();
    let why = format!("plumbd: cannot lock the pid file {}: process {pid} holds it\n", folder.path("pid").display());
    assert_eq!(folder.run(), (1, why));
    assert_eq!(folder.status().pid, pid);
    assert_eq!(folder.pid(), Some(pid));
}

#[test]
fn a_daemon_that_was_killed_is_followed_by_another() {
    let folder = Folder::new(SLEEPER);
    assert_eq!(folder.run(), (0, String::new()));
    let killed = folder.pid().unwrap();
    kill(killed, nix::libc::SIGKILL);
    wait_for("the daemon is gone", || (!alive(killed)).then_some(()));
    assert_eq!(folder.pid(), Some(killed), "its pid file is left over");
    assert_eq!(folder.run(), (0, String::new()));
    assert_ne!(folder.pid(), Some(killed));
    assert_eq!(folder.status().pid, folder.pid().unwrap());
}

#[test]
fn a_daemon_holds_nothing_that_its_caller_had_open() {
    let folder = Folder::new(SLEEPER);
    let file = fs::File::create(folder.path("theirs")).unwrap();
    // dup(2) without close-on-exec, as a shell's `9>theirs`.
    let inherited = nix::unistd::dup(file.as_fd()).unwrap();
    assert_eq!(folder.run(), (0, String::new()));
    drop(inherited);
    let open = fs::read_dir(format!("/proc/{}/fd", folder.pid().unwrap())).unwrap();
    let held: Vec<PathBuf> = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).collect();
    assert!(!held.contains(&folder.path("theirs")), "{held:?}");
    assert!(held.contains(&folder.path("pid")), "{held:?}");
}
