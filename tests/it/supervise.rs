//! Ordinary programs: started, linked, restarted, stopped.

use crate::daemon::{Daemon, wait_for};
use plumbd::control::status::{ChildState, Ended};

#[test]
fn what_a_program_writes_flows_to_another_through_a_pipe() {
    let mut daemon = Daemon::start(
        r#"
        [children.source]
        command = ["sh", "-c", "for n in 1 2 3; do echo line $n; done"]
        restart = "never"
        [children.sink]
        command = ["sh", "-c", "cat > out"]
        [[links]]
        from = "source"
        to = "sink"
        "#,
    );
    wait_for("three lines", || (daemon.read_text("out") == "line 1\nline 2\nline 3\n").then_some(()));
    let source = daemon.wait_child("source", ChildState::Down);
    assert_eq!(source.last_exit.unwrap().how, Ended::Code(0));
    daemon.stop();
}

#[test]
fn a_killed_child_is_replaced_and_its_link_keeps_what_was_in_it() {
    let mut daemon = Daemon::start(
        r#"
        [children.source]
        command = ["sh", "-c", "echo one; echo two; exec sleep 1000"]
        [children.sink]
        command = ["sh", "-c", "test -e go || exec sleep 1000; cat > out"]
        [[links]]
        from = "source"
        to = "sink"
        "#,
    );
    wait_for("both lines wait", || (daemon.link("source", "sink").queued_bytes == 8).then_some(()));
    std::fs::write(daemon.path("go"), "").unwrap();
    let pid = daemon.child_pid("sink");
    crate::daemon::kill(pid, nix::libc::SIGKILL);
    daemon.wait_replaced("sink", pid);
    wait_for("both lines arrive", || (daemon.read_text("out") == "one\ntwo\n").then_some(()));
    let sink = daemon.child("sink");
    assert_eq!((sink.restarts, sink.last_exit.unwrap().how), (1, Ended::Signal("SIGKILL".to_owned())));
    daemon.stop();
}
