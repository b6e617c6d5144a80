//! Names in the file system that were removed: a reload makes them again, and at its end
//! the daemon removes only its own.

use crate::daemon::{Daemon, kill, wait_for};
use plumbd::control::status::{ChildState, DaemonState};
use plumbd::control::{Request, Response, client};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

/// A server that answers with the number of its start. `other` has nothing to do with it.
const SERVER: &str = r#"
    [children.server]
    command = ["perl", "-e", """
        $SIG{TERM} = sub { exit 0 };
        open(my $file, '>>', 'starts'); print $file "x\n"; close($file);
        open(my $socket, '+<&=', 3);
        while (accept(my $client, $socket)) { syswrite($client, (-s 'starts') / 2 . "\n"); close($client) }
        """]
    listen = ["unix:one.sock", "unix:two.sock"]
    [children.other]
    command = ["sleep", "1000"]
    "#;

/// The server's answer.
fn ask(daemon: &Daemon) -> String {
    let stream = UnixStream::connect(daemon.path("one.sock")).unwrap();
    stream.set_read_timeout(Some(crate::daemon::DEADLINE)).unwrap();
    std::io::read_to_string(stream).unwrap()
}

#[test]
fn a_reload_makes_the_name_of_a_unix_socket_again_and_restarts_its_server() {
    let mut daemon = Daemon::start(SERVER);
    let other = daemon.child_pid("other");
    assert_eq!(ask(&daemon), "1\n");
    assert_eq!(daemon.done(&Request::Plan { file: None }), "keep     server\nkeep     other\nnothing would change\n");
    // A cleaner removes the name; it is renamed; a socket without a listener replaces it.
    let ways: [&dyn Fn(); 3] = [
        &|| std::fs::remove_file(daemon.path("one.sock")).unwrap(),
        &|| std::fs::rename(daemon.path("one.sock"), daemon.path("away.sock")).unwrap(),
        &|| {
            std::fs::remove_file(daemon.path("one.sock")).unwrap();
            drop(UnixListener::bind(daemon.path("one.sock")).unwrap());
        },
    ];
    for (runs, lose) in (2..).zip(ways) {
        let before = daemon.child_pid("server");
        lose();
        let problem = daemon.child("server").problem.unwrap();
        assert!(problem.contains("one.sock: its name is gone; a reload makes it again"), "{problem}");
        let plan = daemon.done(&Request::Plan { file: None });
        let folder = daemon.dir.path().canonicalize().unwrap();
        let at = format!("{}/one.sock", folder.display());
        assert!(plan.contains(&format!("the name of unix:{at} is gone, and is made again")), "{plan}");
        assert!(plan.starts_with("restart  server") && plan.contains("\nkeep     other\n"), "{plan}");
        assert!(!plan.contains("two.sock"), "{plan}");
        assert_eq!(daemon.done(&Request::Reload), format!("{plan}reloaded\n"));
        assert_eq!(ask(&daemon), format!("{runs}\n"));
        assert_ne!(daemon.child_pid("server"), before);
        assert_eq!(daemon.child("server").problem, None);
    }
    assert_eq!(daemon.child_pid("other"), other);
    daemon.stop();
    assert!(!daemon.path("one.sock").exists() && !daemon.path("two.sock").exists());
}

#[test]
fn all_removed_names_are_made_again_at_a_signal() {
    let mut daemon = Daemon::start(SERVER);
    assert_eq!(ask(&daemon), "1\n");
    for name in ["one.sock", "two.sock", "plumbd.sock"] {
        std::fs::remove_file(daemon.path(name)).unwrap();
    }
    daemon.signal(nix::libc::SIGHUP);
    wait_for("the control socket", || {
        daemon.try_status().filter(|s| s.reloads == 1 && s.state == DaemonState::Running)
    });
    assert_eq!(ask(&daemon), "2\n");
    UnixStream::connect(daemon.path("two.sock")).unwrap();
    daemon.stop();
}

#[test]
fn a_name_of_a_child_that_does_not_run_is_made_again_and_it_is_not_started() {
    let mut daemon = Daemon::start(SERVER);
    assert_eq!(ask(&daemon), "1\n");
    daemon.done(&Request::Stop { children: vec!["server".to_owned()] });
    std::fs::remove_file(daemon.path("one.sock")).unwrap();
    daemon.done(&Request::Reload);
    assert_eq!(daemon.child("server").state, ChildState::Down);
    let client = UnixStream::connect(daemon.path("one.sock")).unwrap();
    daemon.done(&Request::Start { children: vec!["server".to_owned()] });
    assert_eq!(std::io::read_to_string(client).unwrap(), "2\n");
    daemon.stop();
}

#[test]
fn a_reload_that_cannot_make_a_name_again_changes_nothing() {
    let mut daemon = Daemon::start(SERVER);
    let pid = daemon.child_pid("server");
    std::fs::remove_file(daemon.path("one.sock")).unwrap();
    let others = UnixListener::bind(daemon.path("one.sock")).unwrap();
    let (status, _, err) = daemon.ask(&Request::Reload);
    assert_eq!(status, 1);
    assert!(err.contains("cannot listen on unix:") && err.contains("one.sock: Address already in use"), "{err}");
    assert_eq!(daemon.child_pid("server"), pid);
    daemon.stop();
    UnixStream::connect(daemon.path("one.sock")).unwrap();
    drop(others);
}

/// A daemon with a pid file, without the folder that a [`Daemon`] has to itself.
struct Run(std::process::Child);

impl Run {
    fn start(dir: &Path) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plumbd"));
        command.args(["run", "-c", "plumbd.toml", "--pid-file", "pid"]).current_dir(dir);
        Run(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Asks it to end, and checks that it succeeds.
    fn end(&mut self) {
        kill(self.pid(), nix::libc::SIGTERM);
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _dead = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The daemon that answers in that folder.
fn answering(dir: &Path) -> Option<i32> {
    let mut pid = None;
    let asked = client::ask(&dir.join("plumbd.sock"), &Request::Status, |response| {
        if let Response::Status(status) = response {
            pid = Some(status.pid);
        }
        Ok(())
    });
    asked.ok().and(pid)
}

/// A folder with a configuration.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("plumbd.toml"), "[children.one]\ncommand = [\"sleep\", \"1000\"]\n").unwrap();
    dir
}

/// The names in a folder.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_pid_file_that_was_removed_is_there_again_after_a_reload() {
    let dir = folder();
    let file = dir.path().join("pid");
    let mut daemon = Run::start(dir.path());
    let pid = daemon.pid();
    let is_there = || std::fs::read_to_string(&file).is_ok_and(|text| text == format!("{pid}\n"));
    wait_for("it runs", || answering(dir.path()));
    assert!(is_there());
    for _ in 0..2 {
        std::fs::remove_file(&file).unwrap();
        kill(pid, nix::libc::SIGHUP);
        wait_for("it is there again", || is_there().then_some(()));
    }
    // It is locked again.
    let mut other = Run::start(dir.path());
    assert!(!other.0.wait().unwrap().success());
    assert!(is_there());
    daemon.end();
    assert_eq!(names(dir.path()), ["plumbd.toml"]);
}

#[test]
fn a_daemon_that_starts_while_another_ends_is_not_cut_off() {
    for _ in 0..10 {
        let dir = folder();
        let mut first = Run::start(dir.path());
        wait_for("it runs", || answering(dir.path()));
        kill(first.pid(), nix::libc::SIGTERM);
        let mut next = Run::start(dir.path());
        assert!(first.0.wait().unwrap().success());
        wait_for("the second one answers", || {
            // It is refused while the first one is still there.
            if next.0.try_wait().unwrap().is_some() {
                next = Run::start(dir.path());
            }
            answering(dir.path()).filter(|&pid| pid == next.pid())
        });
        assert_eq!(std::fs::read_to_string(dir.path().join("pid")).unwrap(), format!("{}\n", next.pid()));
        next.end();
        assert_eq!(names(dir.path()), ["plumbd.toml"]);
    }
}
