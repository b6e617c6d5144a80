//! When a child counts as ready, and which others wait for it.

use crate::daemon::{Daemon, kill, wait_for};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg, setsockopt, sockopt};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, DaemonState};
use std::io::{IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Not a test but a program that tests run as a child: it sends READY=1 once
/// there is a file named `go`, and goes on.
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
    plumbd::sys::notify::send("READY=1").unwrap();
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
fn a_child_that_notifies_is_ready_when_it_reports_it_and_no_stranger_can_do_so() {
    let mut daemon = Daemon::spawn(&notifier("one"));
    let name = wait_for("the socket's name", || Some(daemon.read_text("socket")).filter(|name| name.starts_with('@')));
    assert_eq!(daemon.status().state, DaemonState::Starting);
    let address = SocketAddr::from_abstract_name(&name[1..]).unwrap();
    UnixDatagram::unbound().unwrap().send_to_addr(b"READY=1", &address).unwrap();
    daemon.wait_log(&format!("ignoring a notification from process {}", std::process::id()));
    let one = daemon.child("one");
    assert_eq!((one.state, one.ready), (ChildState::Starting, false));
    std::fs::write(daemon.path("go"), "").unwrap();
    let one = daemon.wait_child("one", ChildState::Up);
    assert!(one.ready);
    daemon.wait_state(DaemonState::Running);
    daemon.stop();
}

/// Not a test but a program that tests run below a child: it sends `$SAYS`, with an end of
/// a pipe. With `$GOES` it ends at once. Otherwise it ends once that end of the pipe is closed
/// and, if `$UNTIL` is set, the file of that name exists.
#[test]
#[ignore = "a program that other tests run below a child"]
fn says_something() {
    let Ok(says) = std::env::var("SAYS") else { return };
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    assert_eq!(plumbd::sys::notify::try_send(&says, Some(write.as_fd())).unwrap(), plumbd::sys::notify::Sent::Taken);
    drop(write);
    if std::env::var_os("GOES").is_some() {
        return;
    }
    // This waits until every process has closed it, as with BARRIER=1 (sd_notify(3)).
    assert_eq!(nix::unistd::read(&read, &mut [0]), Ok(0));
    if let Ok(until) = std::env::var("UNTIL") {
        wait_for("the end is allowed", || std::path::Path::new(&until).exists().then_some(()));
    }
}

/// A child's table whose script has `SPEAK`, which runs [`says_something`].
fn speaker(name: &str, script: &str, environment: &str) -> String {
    let script = script.replace("SPEAK", "$SAYER --exact readiness::says_something --include-ignored >/dev/null");
    format!(
        r#"
        [children.{name}]
        command = ["sh", "-c", '''{script}''']
        ready = "notify"
        ready_timeout = "1000s"
        environment = {{ SAYER = "{}", {environment} }}
        "#,
        std::env::current_exe().unwrap().display()
    )
}

/// Ways in which a child can have another process send something.
const WAYS: [(&str, &str); 5] = [
    ("below", "SPEAK & exec sleep 1000"),
    ("group", "set -m; SPEAK & exec sleep 1000"),
    ("session", "setsid SPEAK & exec sleep 1000"),
    // Its parent ends, so it becomes the supervisor's child, in a session of its own.
    ("orphan", "(setsid SPEAK &); exec sleep 1000"),
    ("deep", "setsid sh -c 'setsid sh -c \"setsid SPEAK & wait\" & wait' & exec sleep 1000"),
];

#[test]
fn any_process_of_a_child_may_say_that_it_is_ready() {
    for until in ["", ", UNTIL = \"end\""] {
        let environment = format!("SAYS = \"READY=1\"{until}");
        let children = WAYS.iter().map(|(name, script)| speaker(name, script, &environment));
        let mut daemon = Daemon::spawn(&children.collect::<String>());
        daemon.wait_state(DaemonState::Running);
        assert!(daemon.status().all_up());
        assert!(!daemon.log().contains("ignoring a notification"), "{}", daemon.log());
        std::fs::write(daemon.path("end"), "").unwrap();
        daemon.stop();
    }
}

/// Has each child send something by a process that is gone before the supervisor receives it.
fn heard_late(children: &[(&str, &str)]) -> Daemon {
    let tables = children.iter().map(|(name, command)| {
        let script =
            format!("while ! test -e speak; do sleep 0.01; done; {command}; touch {name}.spoken; exec sleep 1000");
        speaker(name, &script, "SAYS = \"READY=1\", GOES = \"yes\"")
    });
    let dir = tempfile::tempdir().unwrap();
    // Another user reads and writes here too.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let daemon = Daemon::spawn_in(dir, &tables.collect::<String>());
    for (name, _) in children {
        daemon.wait_child(name, ChildState::Starting);
    }
    daemon.signal(nix::libc::SIGSTOP);
    wait_for("it stands", || (crate::daemon::state(daemon.pid()) == Some('T')).then_some(()));
    std::fs::write(daemon.path("speak"), "").unwrap();
    for (name, _) in children {
        wait_for("it has spoken", || daemon.path(&format!("{name}.spoken")).exists().then_some(()));
    }
    daemon.signal(nix::libc::SIGCONT);
    daemon
}

#[test]
fn a_process_that_is_gone_when_its_message_is_received_is_believed() {
    let mut daemon = heard_late(&[("plain", "SPEAK"), ("session", "setsid SPEAK"), ("deep", "sh -c 'SPEAK; true'")]);
    daemon.wait_state(DaemonState::Running);
    assert!(daemon.status().all_up());
    daemon.stop();
}

#[test]
#[ignore = "needs root"]
fn a_process_that_is_gone_is_attributed_by_its_user() {
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let dropped = format!("exec {nobody} sh -c 'SPEAK; touch dropped.spoken; exec sleep 1000'");
    let mut daemon = heard_late(&[("dropped", &dropped), ("helper", &format!("{nobody} SPEAK"))]);
    // The child's own process is that user now.
    daemon.wait_child("dropped", ChildState::Up);
    daemon.wait_log("helper: ignoring a notification from process ");
    assert_eq!(daemon.child("helper").state, ChildState::Starting);
    daemon.signal(nix::libc::SIGTERM);
    assert!(daemon.wait_end().success());
}

#[test]
#[ignore = "needs root"]
fn a_process_of_another_user_is_attributed_by_its_ancestors() {
    let script = "setpriv --reuid=65534 --regid=65534 --clear-groups SPEAK & exec sleep 1000";
    let mut daemon = Daemon::start(&speaker("one", script, "SAYS = \"READY=1\", UNTIL = \"/nonexistent\""));
    assert!(daemon.status().all_up());
    daemon.stop();
}

#[test]
fn any_process_of_a_child_may_report_a_problem() {
    let script = "SPEAK & SAYS=X_PLUMBD_PROBLEM=thirsty setsid SPEAK; exec sleep 1000";
    let environment = "SAYS = \"READY=1\\nFDSTORE=1\\nBARRIER=1\\nMAINPID=1\"";
    let mut daemon = Daemon::start(&speaker("one", script, environment));
    wait_for("its problem", || (daemon.child("one").problem.as_deref() == Some("thirsty")).then_some(()));
    daemon.stop();
}

#[test]
fn another_childs_process_cannot_speak_for_a_child() {
    let script =
        "while ! test -s socket; do sleep 0.01; done; NOTIFY_SOCKET=$(cat socket) setsid SPEAK & exec sleep 1000";
    let two = speaker("two", script, "SAYS = \"READY=1\", UNTIL = \"end\"");
    let mut daemon = Daemon::spawn(&(notifier("one") + &two));
    daemon.wait_log("one: ignoring a notification from process ");
    assert_eq!(daemon.child("one").state, ChildState::Starting);
    std::fs::write(daemon.path("end"), "").unwrap();
    std::fs::write(daemon.path("go"), "").unwrap();
    daemon.wait_child("one", ChildState::Up);
    daemon.signal(nix::libc::SIGTERM);
    assert!(daemon.wait_end().success());
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
fn descriptors_that_strangers_send_with_a_notification_hold_up_nothing() {
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
        // The daemon is stopped meanwhile, so that the message holds the last descriptor of each
        // connection.
        kill(daemon.pid(), nix::libc::SIGSTOP);
        sendmsg(sender.as_raw_fd(), &[IoSlice::new(b"READY=1")], &with, MsgFlags::empty(), Some(&address)).unwrap();
        drop(sent);
        kill(daemon.pid(), nix::libc::SIGCONT);
    }
    daemon.wait_log(&format!("ignoring a notification from process {}", std::process::id()));
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
fn children_that_need_a_failed_one_wait_and_report_it_until_it_is_repaired() {
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
fn a_dependent_keeps_running_when_the_child_it_started_after_restarts() {
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
