//! When a child counts as ready, and who waits for it.

use crate::daemon::{Daemon, kill, wait_for};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg, setsockopt, sockopt};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, DaemonState};
use std::io::{IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Not a test but a program that tests run as a child: it says READY=1 once
/// there is a file named `go`, and stays.
#[test]
#[ignore = "a program that other tests run as a child"]
fn says_ready_when_told() {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    std::fs::write("socket", std::env::var("NOTIFY_SOCKET").unwrap()).unwrap();
    while !std::path::Path::new("go").exists() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    plumbd::notify::send("READY=1").unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1000));
}

/// A child's table that runs [`says_ready_when_told`].
fn notifier(name: &str) -> String {
    let this = std::env::current_exe().unwrap();
    format!(
        r#"
        [children.{name}]
        command = ["{}", "--exact", "readiness::says_ready_when_told", "--include-ignored"]
        ready = "notify"
        "#,
        this.display()
    )
}

#[test]
fn a_child_that_notifies_is_ready_when_it_says_so_and_nobody_else_can() {
    let mut daemon = Daemon::spawn(&notifier("one"));
    let name = wait_for("the socket's name", || Some(daemon.read_text("socket")).filter(|name| name.starts_with('@')));
    assert_eq!(daemon.status().state, DaemonState::Starting);
    let address = SocketAddr::from_abstract_name(&name[1..]).unwrap();
    UnixDatagram::unbound().unwrap().send_to_addr(b"READY=1", &address).unwrap();
    daemon.wait_log(&format!("a notification of process {} is not its own", std::process::id()));
    let one = daemon.child("one");
    assert_eq!((one.state, one.ready), (ChildState::Starting, false));
    std::fs::write(daemon.path("go"), "").unwrap();
    let one = daemon.wait_child("one", ChildState::Up);
    assert!(one.ready);
    daemon.wait_state(DaemonState::Running);
    daemon.stop();
}

/// A connection whose close waits ten minutes for a peer that reads nothing, and the peer.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    setsockopt(&near, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 600 }).unwrap();
    near.set_nonblocking(true).unwrap();
    while (&near).write(&[0; 65536]).is_ok() {}
    (near, far)
}

#[test]
fn what_strangers_send_along_with_a_notification_holds_nobody_up() {
    let mut daemon = Daemon::spawn(&notifier("one"));
    let name = wait_for("the socket's name", || Some(daemon.read_text("socket")).filter(|name| name.starts_with('@')));
    let address = UnixAddr::new_abstract(&name.as_bytes()[1..]).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    let mut peers = Vec::new();
    for count in [1, 1, 5, 20] {
        let (sent, read): (Vec<TcpStream>, Vec<TcpStream>) = (0..count).map(|_| lingering()).unzip();
        peers.extend(read);
        let numbers: Vec<i32> = sent.iter().map(AsRawFd::as_raw_fd).collect();
        let with = [ControlMessage::ScmRights(&numbers)];
        // Stopped meanwhile, so that the message has the last use of each connection.
        kill(daemon.pid(), nix::libc::SIGSTOP);
        sendmsg(sender.as_raw_fd(), &[IoSlice::new(b"READY=1")], &with, MsgFlags::empty(), Some(&address)).unwrap();
        drop(sent);
        kill(daemon.pid(), nix::libc::SIGCONT);
    }
    daemon.wait_log(&format!("a notification of process {} is not its own", std::process::id()));
    std::fs::write(daemon.path("go"), "").unwrap();
    daemon.wait_child("one", ChildState::Up);
    daemon.stop();
}

#[test]
fn a_child_with_a_ready_descriptor_is_ready_at_the_newline() {
    let mut daemon = Daemon::spawn(
        r#"
        [children.one]
        command = ["sh", "-c", """
        printf almost >&$PLUMBD_READY_FD
        touch said
        while ! test -e go; do sleep 0.01; done
        echo >&$PLUMBD_READY_FD
        exec sleep 1000
        """]
        ready = "fd"
        "#,
    );
    wait_for("half a word", || daemon.path("said").exists().then_some(()));
    assert_eq!(daemon.child("one").state, ChildState::Starting);
    std::fs::write(daemon.path("go"), "").unwrap();
    daemon.wait_child("one", ChildState::Up);
    daemon.stop();
}

#[test]
fn a_child_that_is_not_ready_in_time_is_killed_and_counts_as_failed() {
    let mut daemon = Daemon::start(
        r#"
        [children.late]
        command = ["sh", "-c", "trap '' TERM; sleep 1000 & wait"]
        ready = "fd"
        ready_timeout = "50ms"
        start_limit = { burst = 2, within = "60s" }
        [children.mute]
        command = ["sh", "-c", "exec 1>&- 2>&- 3>&- 4>&-; exec sleep 1000"]
        ready = "fd"
        ready_timeout = "50ms"
        start_limit = { burst = 1, within = "60s" }
        "#,
    );
    let late = daemon.wait_child("late", ChildState::Failed);
    assert_eq!(late.restarts, 1);
    assert!(late.problem.unwrap().contains("not ready within 0.05 s"));
    let mute = daemon.wait_child("mute", ChildState::Failed);
    assert!(mute.problem.unwrap().contains("not ready within 0.05 s"));
    daemon.wait_log("late: not ready within 0.05 s; killed");
    daemon.stop();
}

#[test]
fn a_child_starts_after_those_that_it_waits_for_are_ready() {
    let mut daemon = Daemon::spawn(
        r#"
        [children.third]
        command = ["sh", "-c", "echo third >> order; exec sleep 1000"]
        after = ["second"]
        [children.second]
        command = ["sh", "-c", "echo second >> order; echo >&$PLUMBD_READY_FD; exec sleep 1000"]
        ready = "fd"
        after = ["first"]
        [children.first]
        command = ["sh", "-c", """
        while ! test -e go; do sleep 0.01; done
        echo first >> order
        echo >&$PLUMBD_READY_FD
        exec sleep 1000
        """]
        ready = "fd"
        "#,
    );
    daemon.wait_child("first", ChildState::Starting);
    let second = daemon.child("second");
    assert_eq!((second.state, second.problem.as_deref()), (ChildState::Down, Some("waits for first")));
    assert_eq!(daemon.child("third").problem.as_deref(), Some("waits for second"));
    std::fs::write(daemon.path("go"), "").unwrap();
    daemon.wait_state(DaemonState::Running);
    wait_for("all three", || (daemon.read_text("order") == "first\nsecond\nthird\n").then_some(()));
    assert!(daemon.status().all_up());
    daemon.stop();
}

#[test]
fn sinks_start_before_their_sources() {
    let mut daemon = Daemon::spawn(
        r#"
        [children.source]
        command = ["sh", "-c", "echo source >> order; exec sleep 1000"]
        [children.filter]
        command = ["sh", "-c", "echo filter >> order; echo >&$PLUMBD_READY_FD; cat"]
        ready = "fd"
        [children.sink]
        command = ["sh", "-c", "echo sink >> order; echo >&$PLUMBD_READY_FD; cat"]
        ready = "fd"
        [[links]]
        from = "source"
        to = "filter"
        [[links]]
        from = "filter"
        to = "sink"
        "#,
    );
    daemon.wait_state(DaemonState::Running);
    wait_for("all three", || (daemon.read_text("order") == "sink\nfilter\nsource\n").then_some(()));
    daemon.stop();
}

#[test]
fn those_that_need_a_failed_child_wait_and_say_so_until_it_is_mended() {
    let mut daemon = Daemon::start(
        r#"
        [children.source]
        command = ["sh", "-c", "echo line; exec sleep 1000"]
        [children.sink]
        command = ["sh", "-c", "test -e mended || exit 7; echo >&$PLUMBD_READY_FD; cat > out"]
        ready = "fd"
        start_limit = { burst = 2, within = "60s" }
        [children.other]
        command = ["sleep", "1000"]
        [[links]]
        from = "source"
        to = "sink"
        "#,
    );
    let sink = daemon.wait_child("sink", ChildState::Failed);
    assert!(sink.problem.unwrap().contains("given up after 2 starts"));
    let source = daemon.child("source");
    assert_eq!((source.state, source.problem.as_deref()), (ChildState::Down, Some("waits for sink")));
    daemon.wait_child("other", ChildState::Up);
    assert!(!daemon.status().all_up());

    let (status, _, err) = daemon.ask(&Request::Start { children: vec!["source".into()] });
    assert_eq!((status, err.as_str()), (1, "cannot start source: it waits for sink, which is not up\n"));

    std::fs::write(daemon.path("mended"), "").unwrap();
    daemon.done(&Request::Start { children: vec!["sink".into()] });
    daemon.wait_child("source", ChildState::Up);
    wait_for("the line", || (daemon.read_text("out") == "line\n").then_some(()));
    assert!(daemon.status().all_up());
    daemon.stop();
}

#[test]
fn a_dependent_stays_when_what_it_came_after_restarts() {
    let mut daemon = Daemon::start(
        r#"
        [children.first]
        command = ["sleep", "1000"]
        [children.second]
        command = ["sleep", "1000"]
        after = ["first"]
        "#,
    );
    let (first, second) = (daemon.child_pid("first"), daemon.child_pid("second"));
    kill(first, nix::libc::SIGKILL);
    daemon.wait_replaced("first", first);
    assert_eq!(daemon.child_pid("second"), second);
    daemon.stop();
}
