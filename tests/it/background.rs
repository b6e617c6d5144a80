//! `plumbd run --daemon`: the caller gets its exit status once every child is
//! ready, or the reason why one is not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::daemon::{alive, kill, wait_for};
use assert_cmd::Command;
use plumbd::control::{Request, Response, Status, client};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const NO_LOG: &str = "plumbd: daemon.log is \"stderr\", but a daemon has no standard error: nothing is logged\n";

const RUN: [&str; 4] = ["run", "--daemon", "--pid-file", "pid"];

/// A folder with a configuration, whose daemon does not outlive the test.
struct Folder {
    dir: TempDir,
}

impl Folder {
    fn new(config: &str) -> Folder {
        let dir = tempfile::tempdir().unwrap();
        // Perhaps nothing listens on /dev/log here. So nothing is logged, and the daemon reports that.
        fs::write(dir.path().join("plumbd.toml"), format!("daemon.log = \"stderr\"\n{config}")).unwrap();
        Folder { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `plumbd run --daemon`: its exit status and standard error.
    fn run(&self) -> (i32, String) {
        self.run_by(Command::new(env!("CARGO_BIN_EXE_plumbd")))
    }

    /// Like [`Folder::run`], by a program that then executes plumbd.
    fn run_by(&self, command: Command) -> (i32, String) {
        let output = prepared(command, self.dir.path(), &RUN).output().unwrap();
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
    prepared(Command::new(env!("CARGO_BIN_EXE_plumbd")), dir, words)
}

fn prepared(mut command: Command, dir: &Path, words: &[&str]) -> Command {
    command.args(words).current_dir(dir).env_remove("PLUMBD_CONTROL").timeout(Duration::from_secs(60));
    command
}

fn assert_streams_are_null(pid: i32) {
    for number in 0..=2 {
        assert_eq!(fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap(), Path::new("/dev/null"));
    }
}

/// The session and the terminal (0: none) of a process, from proc_pid_stat(5).
fn session(pid: i32) -> (i32, i32) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the state come parent, group, session, terminal.
    let mut fields = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().skip(3).map(|n| n.parse().unwrap());
    (fields.next().unwrap(), fields.next().unwrap())
}

const SLEEPER: &str = "[children.x]\ncommand = [\"/bin/sleep\", \"1000\"]\n";

#[test]
fn all_children_are_up_when_the_caller_returns_and_gone_after_a_shutdown() {
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
fn a_child_that_is_not_ready_in_time_makes_the_start_fail() {
    let folder = Folder::new(&format!("{SLEEPER}ready = \"notify\"\nready_timeout = \"100ms\"\nrestart = \"never\"\n"));
    let (status, why) = folder.run();
    assert_eq!(status, 1);
    assert!(why.starts_with("plumbd: cannot start x: "), "{why}");
    assert!(!folder.path("pid").exists() && !folder.path("plumbd.sock").exists(), "nothing of it is left");
}

#[test]
fn a_child_that_is_held_back_makes_the_start_fail() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", held.local_addr().unwrap());
    for (more, reason) in [
        (
            format!("listen = [\"{address}\"]\n"),
            format!("plumbd.toml:4: cannot listen on {address}: Address already in use"),
        ),
        ("directory = \"none\"\n".to_owned(), "plumbd.toml:4:13: cannot run in ".to_owned()),
    ] {
        let folder = Folder::new(&format!("{SLEEPER}{more}"));
        let (status, why) = folder.run();
        assert_eq!(status, 1);
        assert!(why.starts_with("plumbd: cannot start x: ") && why.contains(&reason), "{why}");
        assert!(!folder.path("pid").exists() && !folder.path("plumbd.sock").exists(), "nothing of it is left");
    }
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
fn a_new_daemon_can_follow_one_that_was_killed() {
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
    // dup(2) without close-on-exec, like `9>theirs` in a shell.
    let inherited = nix::unistd::dup(file.as_fd()).unwrap();
    assert_eq!(folder.run(), (0, String::new()));
    drop(inherited);
    let open = fs::read_dir(format!("/proc/{}/fd", folder.pid().unwrap())).unwrap();
    let held: Vec<PathBuf> = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).collect();
    assert!(!held.contains(&folder.path("theirs")), "{held:?}");
    assert!(held.contains(&folder.path("pid")), "{held:?}");
}

#[test]
fn a_daemon_has_no_terminal_and_outlives_its_callers() {
    let folder = Folder::new(SLEEPER);
    // The terminal is gone once the caller has ended.
    let caller = format!("{} {}", env!("CARGO_BIN_EXE_plumbd"), RUN.join(" "));
    let mut script = std::process::Command::new("script");
    let status = script.args(["-qec", &caller, "/dev/null"]).current_dir(folder.dir.path()).output().unwrap().status;
    assert!(status.success());
    let pid = folder.pid().unwrap();
    let (session, terminal) = session(pid);
    assert_eq!(terminal, 0);
    assert_ne!(session, pid, "the leader of a session could get a terminal");
    assert!(!alive(session), "no other process is in its session");
    assert!(folder.status().all_up());
    assert_streams_are_null(pid);
}

#[test]
fn it_starts_even_if_no_standard_stream_is_open() {
    let folder = Folder::new(SLEEPER);
    let script = format!("exec {} {} <&- >&- 2>&-", env!("CARGO_BIN_EXE_plumbd"), RUN.join(" "));
    let mut shell = std::process::Command::new("sh");
    assert!(shell.args(["-c", &script]).current_dir(folder.dir.path()).status().unwrap().success());
    assert!(folder.status().all_up());
    assert_streams_are_null(folder.pid().unwrap());
}

#[test]
fn signals_that_its_caller_blocked_or_ignored_reach_it() {
    let folder = Folder::new(SLEEPER);
    let mut env = Command::new("env");
    env.args(["--block-signal", "--ignore-signal", env!("CARGO_BIN_EXE_plumbd")]);
    assert_eq!(folder.run_by(env), (0, String::new()));
    let status = folder.status();
    let child = status.children[0].pid.unwrap();
    kill(child, nix::libc::SIGKILL);
    wait_for("a dead child is seen", || (folder.status().children[0].pid != Some(child)).then_some(()));
    kill(status.pid, nix::libc::SIGTERM);
    wait_for("the daemon is gone", || (!alive(status.pid)).then_some(()));
    assert!(!folder.path("pid").exists());
}

#[test]
fn a_relative_configuration_is_read_again_where_it_was() {
    let folder = Folder::new(SLEEPER);
    assert_eq!(folder.run(), (0, String::new()));
    fs::write(folder.path("here"), "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(folder.path("here"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = format!("daemon.log = \"stderr\"\n{SLEEPER}[children.y]\ncommand = [\"./here\"]\n");
    fs::write(folder.path("plumbd.toml"), config).unwrap();
    command(folder.dir.path(), &["reload"]).assert().success();
    let status = folder.status();
    assert!(status.all_up() && status.children.len() == 2, "{status:?}");
}

#[test]
fn if_two_start_at_once_only_one_gets_the_pid_file() {
    let folder = Folder::new(SLEEPER);
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| folder.run());
        let other = scope.spawn(|| folder.run());
        (one.join().unwrap(), other.join().unwrap())
    });
    let (won, lost) = if one.0 == 0 { (one, other) } else { (other, one) };
    assert_eq!(won, (0, String::new()));
    assert_eq!(lost.0, 1);
    assert!(lost.1.starts_with("plumbd: cannot lock the pid file "), "{}", lost.1);
    assert_eq!(folder.pid(), Some(folder.status().pid));
}

#[test]
fn the_service_manager_learns_the_daemons_pid() {
    let folder = Folder::new(SLEEPER);
    let manager = std::os::unix::net::UnixDatagram::bind(folder.path("notify")).unwrap();
    let mut plumbd = Command::new(env!("CARGO_BIN_EXE_plumbd"));
    plumbd.env("NOTIFY_SOCKET", folder.path("notify"));
    assert_eq!(folder.run_by(plumbd), (0, String::new()));
    let mut said = [0; 1000];
    let len = manager.recv(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..len]).into_owned();
    let pid = folder.pid().unwrap();
    assert!(said.lines().any(|line| line == format!("MAINPID={pid}")), "{said}");
    assert!(said.lines().any(|line| line == "READY=1"), "{said}");
    assert_eq!(folder.status().pid, pid);
}
