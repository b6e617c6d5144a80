//! What a service manager keeps for the next supervisor, and what it gives to the first:
//! links, listening sockets, and sockets of its own.

use crate::daemon::{Daemon, alive, children_of, free_port, kill, wait_for};
use crate::manager::Manager;
use nix::libc::SIGKILL;
use plumbd::control::Request;
use plumbd::control::status::ChildState;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

fn echo_and_logger(port: u16) -> String {
    format!(
        "[children.echo]\nplugin = \"echo\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [children.logger]\nplugin = \"logger\"\n[children.logger.settings]\nfile = \"messages.log\"\nformat = \"raw\"\n\
         [[links]]\nfrom = \"echo\"\nto = \"logger\"\n"
    )
}

const LINES: &str = "[children.lines]\ncommand = [\"./lines\"]\n\
     [children.sink]\ncommand = [\"/bin/sleep\", \"1000\"]\nstop_signal = \"SIGKILL\"\n\
     [[links]]\nfrom = \"lines\"\nto = \"sink\"\n";

/// Kills the daemon and all its children, like a crash that leaves no process.
fn kill_all(daemon: &mut Daemon) {
    let children = children_of(daemon.pid());
    kill(daemon.pid(), SIGKILL);
    children.iter().for_each(|&pid| kill(pid, SIGKILL));
    daemon.wait_killed();
    wait_for("the children are dead", || children.iter().all(|&pid| !alive(pid)).then_some(()));
}

#[test]
fn sockets_and_links_are_stored_while_they_are_in_use_and_sockets_for_a_restart() {
    let (first, second) = (free_port(), free_port());
    let mut daemon = Daemon::start_managed(&echo_and_logger(first));
    let stored = |daemon: &Daemon, port: u16| {
        let [ledger, queue, staging] =
            ["ledger", "queue", "staging"].map(|part| format!("link/records/echo/logger/{part}"));
        let socket = format!("listen/tcp%3A//127.0.0.1%3A{port}");
        daemon.manager().wait_stored(&[&ledger, &queue, &staging, &socket]);
    };
    stored(&daemon, first);
    daemon.reload(&echo_and_logger(second));
    stored(&daemon, second);
    daemon.reload("[children.one]\ncommand = [\"/bin/sleep\", \"1000\"]\n");
    daemon.manager().wait_stored(&[]);
    daemon.reload(&echo_and_logger(first));
    stored(&daemon, first);
    daemon.stop();
    daemon.manager().wait_stored(&[&format!("listen/tcp%3A//127.0.0.1%3A{first}")]);
    // A client that connects now waits for the restart.
    let mut client = daemon.connect(first);
    client.write_all(b"early\n").unwrap();
    daemon.start_again();
    let mut echo = [0; 6];
    client.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"early\n");
    drop(client);
    daemon.stop();
}

#[test]
fn a_client_that_connects_between_two_supervisors_waits_and_is_served() {
    let port = free_port();
    let mut daemon = Daemon::start_managed(&echo_and_logger(port));
    kill_all(&mut daemon);
    let mut client = daemon.connect(port);
    client.write_all(b"early\n").unwrap();
    daemon.start_again();
    let mut echo = [0; 6];
    client.read_exact(&mut echo).unwrap();
    assert_eq!((&echo, daemon.read_text("messages.log").as_str()), (b"early\n", "early\n"));
    drop(client);
    daemon.stop();
}

#[test]
fn what_was_in_an_ordinary_link_is_kept_for_the_next_sink() {
    let dir = tempfile::tempdir().unwrap();
    write_program(&dir, "lines", "echo one; echo two; touch written; exec sleep 1000");
    let manager = Manager::new(dir.path());
    let mut daemon = Daemon::start_under(manager, dir, LINES);
    wait_for("the lines are in the pipe", || daemon.path("written").exists().then_some(()));
    kill_all(&mut daemon);
    daemon.manager().wait_stored(&["link/lines/*/sink/queue"]);

    // The next configuration does not have the link. The daemon reports that and keeps it.
    write_program(&daemon.dir, "lines", "exec sleep 1000");
    let without = LINES.split("[[links]]").next().unwrap().to_owned();
    daemon.configure(&without);
    daemon.start_again();
    daemon.wait_log("the last supervisor left 8 bytes in the link * -> sink");
    daemon.manager().wait_stored(&["link/lines/*/sink/queue"]);

    // A configuration that has the link again takes it up.
    let reading = LINES.replace(
        "[\"/bin/sleep\", \"1000\"]",
        "[\"/bin/sh\", \"-c\", \"while read -r line; do echo $line >>taken; done\"]",
    );
    daemon.reload(&reading);
    wait_for("both lines are taken", || (daemon.read_text("taken") == "one\ntwo\n").then_some(()));
    daemon.stop();
    daemon.manager().wait_stored(&[]);
}

#[test]
fn what_no_sink_takes_before_the_end_is_reported_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    write_program(&dir, "lines", "echo one; touch written; exec sleep 1000");
    let manager = Manager::new(dir.path());
    let mut daemon = Daemon::start_under(manager, dir, &format!("[daemon]\nstop_timeout = \"100ms\"\n{LINES}"));
    wait_for("the line is in the pipe", || daemon.path("written").exists().then_some(()));
    daemon.signal(nix::libc::SIGTERM);
    assert_eq!(daemon.wait_end().code(), Some(1));
    assert!(daemon.log().contains("nobody took 4 bytes in the link lines -> sink"), "{}", daemon.log());
    daemon.manager().wait_stored(&["link/lines/*/sink/queue"]);
}

#[test]
fn sockets_of_a_socket_unit_are_taken_and_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lent.sock");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let mut manager = Manager::new(dir.path());
    manager.lent =
        vec![tcp.into(), UnixListener::bind(&path).unwrap().into(), TcpListener::bind("127.0.0.1:0").unwrap().into()];
    let mut daemon = Daemon::start_under(
        manager,
        dir,
        &format!(
            "{}[children.other]\ncommand = [\"/bin/sleep\", \"1000\"]\nlisten = [\"unix:{}\"]\n",
            echo_and_logger(port),
            path.display()
        ),
    );
    daemon.wait_log("for this daemon, but no child does");
    let mut client = daemon.connect(port);
    client.write_all(b"hello\n").unwrap();
    client.read_exact(&mut [0; 6]).unwrap();
    drop(client);
    // The sockets belong to the manager, so they are not stored.
    let [ledger, queue, staging] =
        ["ledger", "queue", "staging"].map(|part| format!("link/records/echo/logger/{part}"));
    daemon.manager().wait_stored(&[&ledger, &queue, &staging]);
    // If it is removed and added again, it is the same socket.
    daemon.reload(&echo_and_logger(free_port()));
    daemon.reload(&echo_and_logger(port));
    daemon.wait_child("echo", ChildState::Up);
    daemon.stop();
    assert!(path.exists(), "the name of a socket that is the manager's");
    daemon.connect(port);
}

#[test]
fn the_watchdog_is_fed_while_nothing_happens() {
    let dir = tempfile::tempdir().unwrap();
    let mut manager = Manager::new(dir.path());
    manager.environment = vec![("WATCHDOG_USEC", "200000".to_owned())];
    let mut daemon = Daemon::start_under(manager, dir, "[children.one]\ncommand = [\"/bin/sleep\", \"1000\"]\n");
    for _ in 0..5 {
        daemon.manager().wait_heard("WATCHDOG=1");
    }
    assert_eq!(daemon.done(&Request::Reopen), "no child reopens a file at SIGUSR1\n");
    daemon.stop();
}

fn write_program(dir: &tempfile::TempDir, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.path().join(name);
    // It must be a new file, because the old one may be running just now.
    let _none_before = std::fs::remove_file(&path);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn a_queue_that_was_kept_alone_is_taken_up_and_what_is_missing_is_reported() {
    let port = free_port();
    let mut daemon = Daemon::start_managed(
        &echo_and_logger(port).replace("[children.echo]", "[children.echo]\nsettings = { echo_after = \"queued\" }"),
    );
    // The logger is stopped, so that the line stays in the queue.
    daemon.done(&Request::Stop { children: vec!["logger".into()] });
    let mut client = daemon.connect(port);
    client.write_all(b"early\n").unwrap();
    client.read_exact(&mut [0; 6]).unwrap();
    kill_all(&mut daemon);
    daemon.manager().lose("link/records/echo/logger/staging");
    daemon.start_again();
    daemon.wait_log("kept its queue alone");
    wait_for("the line is saved", || (daemon.read_text("messages.log") == "early\n").then_some(()));
    drop(client);
    daemon.stop();
}

/// A child that listens at `s.sock`.
const UNIX: &str = "[children.one]\ncommand = [\"/bin/sleep\", \"1000\"]\nlisten = [\"unix:s.sock\"]\n";

#[track_caller]
fn is_reached(daemon: &Daemon) {
    let client = std::os::unix::net::UnixStream::connect(daemon.path("s.sock")).unwrap();
    // The connection is in the backlog of a socket that this daemon holds, and no other.
    let peer = nix::sys::socket::getsockopt(&client, nix::sys::socket::sockopt::PeerCredentials).unwrap();
    assert_eq!(peer.pid(), daemon.pid());
}

#[test]
fn a_unix_socket_is_taken_up_with_its_name() {
    let mut daemon = Daemon::start_managed(UNIX);
    let first = daemon.manager().kept("listen/unix").0;
    let early = std::os::unix::net::UnixStream::connect(daemon.path("s.sock")).unwrap();
    kill_all(&mut daemon);
    let late = std::os::unix::net::UnixStream::connect(daemon.path("s.sock")).unwrap();
    daemon.start_again();
    daemon.manager().wait_stored(&[&first]);
    drop((early, late));
    daemon.stop();
    assert!(!daemon.path("s.sock").exists());
    daemon.manager().wait_stored(&[]);
}

#[test]
fn a_stored_unix_socket_whose_name_is_gone_or_belongs_to_another_is_made_anew() {
    let mut daemon = Daemon::start_managed(UNIX);
    let path = daemon.path("s.sock");
    let mut rounds: Vec<Box<dyn Fn()>> = Vec::new();
    let at = path.clone();
    rounds.push(Box::new(move || std::fs::remove_file(&at).unwrap()));
    let at = path.clone();
    rounds.push(Box::new(move || {
        // A dead socket of another daemon.
        std::fs::remove_file(&at).unwrap();
        drop(UnixListener::bind(&at).unwrap());
    }));
    let at = path.clone();
    rounds.push(Box::new(move || std::fs::rename(&at, at.with_extension("away")).unwrap()));
    for spoil in rounds {
        let before = daemon.manager().kept("listen/unix").0;
        kill_all(&mut daemon);
        spoil();
        daemon.start_again();
        is_reached(&daemon);
        wait_for("another socket is stored", || (daemon.manager().kept("listen/unix").0 != before).then_some(()));
    }
    daemon.stop();
    assert!(!path.exists());
    daemon.manager().wait_stored(&[]);
}

#[test]
fn a_start_that_fails_leaves_a_stored_unix_socket_to_the_next_one() {
    let mut daemon = Daemon::start_managed(UNIX);
    let first = daemon.manager().kept("listen/unix").0;
    std::fs::write(daemon.path("file"), "").unwrap();
    let wrong = [("control = \"file\"", "cannot listen on "), ("nothing = 1", "unknown key")];
    kill_all(&mut daemon);
    let mut early = std::os::unix::net::UnixStream::connect(daemon.path("s.sock")).unwrap();
    for (line, why) in wrong {
        daemon.configure(&format!("[daemon]\n{line}\n{UNIX}"));
        daemon.spawn_again();
        let status = wait_for("it fails", || daemon.has_ended());
        assert!(!status.success());
        assert!(daemon.log().contains(why), "{}", daemon.log());
        assert!(daemon.path("s.sock").exists());
    }
    daemon.configure(UNIX);
    daemon.start_again();
    daemon.manager().wait_stored(&[&first]);
    // The connection was not reset: it still waits to be accepted.
    early.set_nonblocking(true).unwrap();
    assert_eq!(early.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    daemon.stop();
    assert!(!daemon.path("s.sock").exists());
}

#[test]
fn a_socket_that_is_bound_anew_when_its_child_ends_is_stored_at_once() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/misuse.pl");
    let mut daemon = Daemon::start_managed(&format!(
        r#"
        [children.one]
        command = ["sh", "-c", "while ! [ -e go ]; do sleep 0.01; done; exec perl {script} given shutdown2"]
        listen = ["unix:s.sock"]
        restart = "never"
        "#
    ));
    let before = daemon.manager().kept("listen/unix").0;
    std::fs::write(daemon.path("go"), "").unwrap();
    wait_for("its end", || daemon.child("one").last_exit);
    wait_for("another socket is stored", || (daemon.manager().kept("listen/unix").0 != before).then_some(()));
    is_reached(&daemon);
    daemon.stop();
}

#[test]
fn a_unix_socket_that_the_manager_was_not_told_to_forget_is_made_anew() {
    let mut daemon = Daemon::start_managed(UNIX);
    let kept = daemon.manager().kept("listen/unix");
    daemon.stop();
    daemon.manager().keep(kept);
    daemon.start_again();
    is_reached(&daemon);
    daemon.stop();
}

#[test]
fn a_name_that_now_belongs_to_a_living_daemon_is_left_to_it() {
    let mut daemon = Daemon::start_managed(UNIX);
    kill_all(&mut daemon);
    let path = daemon.path("s.sock");
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    let log = std::fs::File::options().append(true).open(daemon.path("daemon.log")).unwrap();
    let mut second = daemon.manager().start(daemon.dir.path(), log.into());
    daemon.wait_log(&format!("cannot listen on unix:{}: Address already in use by ", path.display()));
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    kill(i32::try_from(second.id()).unwrap(), nix::libc::SIGTERM);
    assert!(wait_for("it ends", || second.try_wait().unwrap()).success());
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    drop(other);
}

#[test]
fn a_name_that_now_belongs_to_another_socket_is_left_at_the_end() {
    let mut daemon = Daemon::start(UNIX);
    let path = daemon.path("s.sock");
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    daemon.stop();
    std::os::unix::net::UnixStream::connect(&path).unwrap();
}

/// A manager's socket that is full, and the number of datagrams in it.
fn full_socket(dir: &tempfile::TempDir) -> (std::os::unix::net::UnixDatagram, usize) {
    let path = dir.path().join("full");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(crate::daemon::DEADLINE)).unwrap();
    let filler = std::os::unix::net::UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    let count = (0..).find(|_| filler.send_to(b"FILLED", &path).is_err()).unwrap();
    (manager, count)
}

/// The next message that was sent to it.
#[track_caller]
fn hear(manager: &std::os::unix::net::UnixDatagram) -> String {
    let mut bytes = [0; 4096];
    let length = wait_for("something is said", || match manager.recv(&mut bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => None,
        other => Some(other.unwrap()),
    });
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

#[test]
fn a_missed_watchdog_feed_is_tried_again_at_once_and_before_all_other_messages() {
    let dir = tempfile::tempdir().unwrap();
    let (manager, count) = full_socket(&dir);
    let socket = dir.path().join("full");
    // Half of this interval is longer than this test waits for anything.
    let first = format!("export NOTIFY_SOCKET='{}' WATCHDOG_USEC=3600000000", socket.display());
    let mut daemon = Daemon::start_after(&first, "[children.one]\ncommand = [\"/bin/sleep\", \"1000\"]\n");
    for _ in 0..30 {
        daemon.done(&Request::Reload);
    }
    let hear = || hear(&manager);
    for _ in 0..count {
        assert_eq!(hear(), "FILLED");
    }
    assert_eq!(hear(), "WATCHDOG=1");
    // Then the rest, in order.
    wait_for("the first thing that waited", || hear().contains("READY=1").then_some(()));
    assert!(hear().starts_with("RELOADING=1"));
    daemon.stop();
}

#[test]
fn a_watchdog_feed_that_no_process_received_is_tried_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let first = format!("export NOTIFY_SOCKET='{}' WATCHDOG_USEC=3600000000", socket.display());
    let mut daemon = Daemon::start_after(&first, "[children.one]\ncommand = [\"/bin/sleep\", \"1000\"]\n");
    daemon.wait_log("cannot feed the watchdog: ");
    let bind = || {
        let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(crate::daemon::DEADLINE)).unwrap();
        manager
    };
    assert_eq!(hear(&bind()), "WATCHDOG=1");
    daemon.stop();
}

#[test]
fn a_unix_socket_that_a_reload_made_anew_is_stored_and_taken_up() {
    let mut daemon = Daemon::start_managed(UNIX);
    let before = daemon.manager().kept("listen/unix").0;
    std::fs::remove_file(daemon.path("s.sock")).unwrap();
    daemon.done(&Request::Reload);
    wait_for("another socket is stored", || (daemon.manager().kept("listen/unix").0 != before).then_some(()));
    let second = daemon.manager().kept("listen/unix").0;
    daemon.manager().wait_stored(&[&second]);
    kill_all(&mut daemon);
    daemon.start_again();
    is_reached(&daemon);
    daemon.manager().wait_stored(&[&second]);
    daemon.stop();
}

#[test]
fn what_the_manager_could_not_take_is_reported_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (manager, count) = full_socket(&dir);
    let first = format!("export NOTIFY_SOCKET='{}'", dir.path().join("full").display());
    let mut daemon = Daemon::start_after(&first, "[children.one]\ncommand = [\"/bin/sleep\", \"1000\"]\n");
    daemon.signal(nix::libc::SIGTERM);
    daemon.wait_log("stopped");
    for _ in 0..count {
        hear(&manager);
    }
    wait_for("it is heard that it stops", || hear(&manager).starts_with("STOPPING=1").then_some(()));
    assert!(daemon.wait_end().success());
}

#[test]
fn a_manager_that_does_not_listen_holds_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deaf");
    let deaf = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let config = "[children.one]\ncommand = [\"/bin/sleep\", \"1000\"]\n";
    let mut daemon =
        Daemon::start_after(&format!("export NOTIFY_SOCKET='{}' WATCHDOG_USEC=100000", path.display()), config);
    for _ in 0..50 {
        daemon.done(&Request::Reload);
    }
    // Once it listens, it receives everything in order.
    deaf.set_read_timeout(Some(crate::daemon::DEADLINE)).unwrap();
    let (mut bytes, mut reloads) = ([0; 4096], 0);
    while reloads < 50 {
        let length = deaf.recv(&mut bytes).unwrap();
        reloads += usize::from(bytes[..length].starts_with(b"RELOADING=1"));
    }
    daemon.stop();
}
