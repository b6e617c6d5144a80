//! Names in the file system that somebody removed: a reload makes them again, and an end
//! removes only what is the daemon's own.

use crate::daemon::{Daemon, wait_for};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, DaemonState};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

/// Serves at once, and says by which of its starts. `other` has nothing to do with it.
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

/// What the server says.
fn ask(daemon: &Daemon) -> String {
    let stream = UnixStream::connect(daemon.path("one.sock")).unwrap();
    stream.set_read_timeout(Some(crate::daemon::DEADLINE)).unwrap();
    std::io::read_to_string(stream).unwrap()
}

#[test]
fn a_reload_makes_the_name_of_a_unix_socket_again_and_restarts_who_listens_there() {
    let mut daemon = Daemon::start(SERVER);
    let other = daemon.child_pid("other");
    assert_eq!(ask(&daemon), "1\n");
    assert_eq!(daemon.done(&Request::Plan { file: None }), "keep     server\nkeep     other\nnothing would change\n");
    // By a cleaner; by another name of it; by one that nobody listens on.
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
        let plan = daemon.done(&Request::Plan { file: None });
        let folder = daemon.dir.path().canonicalize().unwrap();
        let at = format!("{}/one.sock", folder.display());
        assert!(plan.contains(&format!("the name of unix:{at} is gone, and is made again")), "{plan}");
        assert!(plan.starts_with("restart  server") && plan.contains("\nkeep     other\n"), "{plan}");
        assert!(!plan.contains("two.sock"), "{plan}");
        assert_eq!(daemon.done(&Request::Reload), format!("{plan}reloaded\n"));
        assert_eq!(ask(&daemon), format!("{runs}\n"));
        assert_ne!(daemon.child_pid("server"), before);
    }
    assert_eq!(daemon.child_pid("other"), other);
    daemon.stop();
    assert!(!daemon.path("one.sock").exists() && !daemon.path("two.sock").exists());
}

#[test]
fn all_names_that_went_are_made_again_at_a_signal() {
    let mut daemon = Daemon::start(SERVER);
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

#[test]
fn a_pid_file_that_was_removed_is_there_again_after_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("plumbd.toml"), "[children.one]\ncommand = [\"sleep\", \"1000\"]\n").unwrap();
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plumbd"));
        command.args(["run", "-c", "plumbd.toml", "--pid-file", "pid"]).current_dir(dir.path());
        command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        command
    };
    let mut daemon = run().spawn().unwrap();
    let pid = i32::try_from(daemon.id()).unwrap();
    let is_there = || std::fs::read_to_string(dir.path().join("pid")).is_ok_and(|text| text == format!("{pid}\n"));
    wait_for("it runs", || (is_there() && UnixStream::connect(dir.path().join("plumbd.sock")).is_ok()).then_some(()));
    for _ in 0..2 {
        std::fs::remove_file(dir.path().join("pid")).unwrap();
        crate::daemon::kill(pid, nix::libc::SIGHUP);
        wait_for("it is there again", || is_there().then_some(()));
    }
    let refused = run().output().unwrap();
    assert!(String::from_utf8(refused.stderr).unwrap().contains(&format!("process {pid} holds it")));
    crate::daemon::kill(pid, nix::libc::SIGTERM);
    assert!(daemon.wait().unwrap().success());
    let mut left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["plumbd.toml"]);
}

#[test]
fn a_daemon_that_starts_while_another_ends_is_not_cut_off() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("plumbd.toml"), "[children.one]\ncommand = [\"sleep\", \"1000\"]\n").unwrap();
        let socket = dir.path().join("plumbd.sock");
        let start = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_plumbd"));
            command.args(["run", "-c", "plumbd.toml", "--pid-file", "pid"]).current_dir(dir.path());
            command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
        };
        let kill = |process: &std::process::Child| {
            crate::daemon::kill(i32::try_from(process.id()).unwrap(), nix::libc::SIGTERM);
        };
        let mut first = start();
        wait_for("it runs", || UnixStream::connect(&socket).ok());
        kill(&first);
        let mut next = start();
        assert!(first.wait().unwrap().success());
        wait_for("the second one is reached", || {
            // Refused as long as the first one was there.
            if next.try_wait().unwrap().is_some() {
                next = start();
            }
            UnixStream::connect(&socket).ok()
        });
        let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
        assert_eq!(pid, format!("{}\n", next.id()));
        kill(&next);
        assert!(next.wait().unwrap().success());
        assert!(!socket.exists() && !dir.path().join("pid").exists());
    }
}
