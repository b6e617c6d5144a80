//! Chains of a source, filters and a sink: what a filter has not taken when it is
//! stopped or dies is in the file at the end, whatever ends and for whatever reason.

use crate::daemon::{Daemon, free_port, kill, wait_for};
use nix::libc::{SIGKILL, SIGTERM};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, DaemonState};
use std::io::{Read, Write};

/// How many lines a source writes.
const LINES: usize = 400;

/// A slow filter that takes one line at a time, so that it holds at most one.
const FILTER: &str = r#"
    command = ["/bin/sh", "-c", "while IFS= read -r line; do sleep 0.002; printf '%s\n' \"$line\"; done"]
    stop_timeout = "1000s"
    "#;

/// A chain of children with these names. The first is the source and the last the logger.
fn chain(names: &[&str]) -> String {
    let mut config = "[daemon]\nstop_timeout = \"100s\"\n".to_owned();
    let (first, last) = (names[0], names[names.len() - 1]);
    config += &format!(
        "[children.{first}]\ncommand = [\"/bin/sh\", \"-c\", \"seq 1 {LINES}; touch written; exec sleep 1000\"]\n"
    );
    for name in &names[1..names.len() - 1] {
        config += &format!("[children.{name}]{FILTER}");
    }
    config +=
        &format!("[children.{last}]\nplugin = \"logger\"\nsettings = {{ file = \"out.log\", format = \"raw\" }}\n");
    for pair in names.windows(2) {
        config += &format!("[[links]]\nfrom = \"{}\"\nto = \"{}\"\n", pair[0], pair[1]);
    }
    config
}

fn named(name: &str) -> Vec<String> {
    vec![name.to_owned()]
}

fn wait_written(daemon: &Daemon) {
    wait_for("the source has written", || daemon.path("written").exists().then_some(()));
}

/// How many lines of the source are in the file. Checks that they are in order, and none is
/// there twice. A shell that is killed while it reads loses the beginning of a line, so
/// there may be one remainder of a line for each kill.
#[track_caller]
fn lines_in_order(daemon: &Daemon, kills: usize) -> usize {
    let text = daemon.read_text("out.log");
    let (mut last, mut lines, mut rests) = (0, 0, 0);
    for line in text.lines() {
        match line.parse::<usize>() {
            Ok(number) if number > last => (last, lines) = (number, lines + 1),
            _ => rests += 1,
        }
    }
    assert!(rests <= kills, "{text}");
    lines
}

/// Checks that no line of the source went to the log.
#[track_caller]
fn log_has_no_lines(daemon: &Daemon) {
    let log = daemon.log();
    let lost = log.lines().filter(|line| line.rsplit(": ").next().is_some_and(|word| word.parse::<u32>().is_ok()));
    assert_eq!(lost.count(), 0, "{log}");
}

#[test]
fn a_stopped_filter_is_started_at_the_end_to_take_what_waits_for_it() {
    // For different orders of the names, and with either of the filters down.
    for (names, stopped) in [
        (vec!["source", "transform", "logger"], "transform"),
        (vec!["a", "b", "c", "d"], "b"),
        (vec!["d", "c", "b", "a"], "c"),
        (vec!["b", "d", "a", "e", "c"], "a"),
        (vec!["x", "m", "z"], "z"),
    ] {
        let mut daemon = Daemon::spawn(&chain(&names));
        wait_written(&daemon);
        daemon.done(&Request::Stop { children: named(stopped) });
        daemon.signal(SIGTERM);
        let status = daemon.wait_end();
        assert!(status.success(), "{names:?}: {status}\n{}", daemon.log());
        // The line that it held when it was asked to stop is lost.
        let lines = lines_in_order(&daemon, 1);
        assert!(lines >= LINES - 1, "{names:?}: {lines}\n{}", daemon.log());
        log_has_no_lines(&daemon);
    }
}

#[test]
fn filters_that_die_while_they_drain_are_restarted_before_their_sinks_input_ends() {
    for names in [vec!["source", "filter", "logger"], vec!["c", "b", "a", "d"], vec!["a", "e", "b", "d", "c"]] {
        let filters = &names[1..names.len() - 1];
        let mut daemon = Daemon::spawn(&chain(&names));
        wait_written(&daemon);
        daemon.signal(SIGTERM);
        daemon.wait_state(DaemonState::Stopping);
        let mut kills = 0;
        for filter in filters {
            // It is still at work, so the line that it holds dies with it.
            let drains = |child: &plumbd::control::status::Child| child.state == ChildState::Stopping;
            let pid = wait_for("it drains, or is done", || {
                let status = daemon.try_status();
                match status.and_then(|status| status.children.into_iter().find(|child| child.name == **filter)) {
                    Some(child) if drains(&child) => Some(child.pid),
                    Some(child) if child.state == ChildState::Down => Some(None),
                    Some(_) => None,
                    None => Some(None),
                }
            });
            if let Some(pid) = pid {
                kill(pid, SIGKILL);
                kills += 1;
            }
        }
        let status = daemon.wait_end();
        assert!(status.success(), "{names:?}: {status}\n{}", daemon.log());
        assert!(kills > 0, "{names:?}");
        let lines = lines_in_order(&daemon, kills);
        assert!(lines >= LINES - kills, "{names:?}, {kills} kills: {lines}");
        log_has_no_lines(&daemon);
    }
}

#[test]
fn a_filter_that_dies_while_a_reload_removes_it_is_restarted_to_take_the_rest() {
    let mut daemon = Daemon::spawn(&chain(&["source", "filter", "logger"]));
    wait_written(&daemon);
    daemon.wait_state(DaemonState::Running);
    std::fs::remove_file(daemon.path("written")).unwrap();
    daemon.configure(&chain(&["source", "logger"]));
    let reload = daemon.ask_meanwhile(Request::Reload);
    let filter = daemon.wait_child("filter", ChildState::Stopping);
    kill(filter.pid.unwrap(), SIGKILL);
    let (status, out, err) = reload.join().unwrap().unwrap();
    assert_eq!((status, err.as_str()), (0, ""), "{out}\n{}", daemon.log());
    // The new source writes the same lines once more, straight to the logger.
    wait_written(&daemon);
    daemon.stop();
    let text = daemon.read_text("out.log");
    let lines: Vec<&str> = text.lines().collect();
    let again = lines.iter().rposition(|&line| line == "1").unwrap();
    assert!(again >= LINES - 1 && lines[again..].len() == LINES, "{again} and {}", lines[again..].len());
    log_has_no_lines(&daemon);
}

#[test]
fn if_a_filter_may_not_be_restarted_the_loss_is_reported() {
    let config = chain(&["source", "filter", "logger"]).replace("stop_timeout = \"1000s\"", "restart = \"never\"");
    let mut daemon = Daemon::spawn(&config);
    wait_written(&daemon);
    daemon.signal(SIGTERM);
    let filter = daemon.wait_child("filter", ChildState::Stopping);
    kill(filter.pid.unwrap(), SIGKILL);
    assert_eq!(daemon.wait_end().code(), Some(1));
    assert!(daemon.log().contains("in the link source -> filter"), "{}", daemon.log());
    log_has_no_lines(&daemon);
}

/// An echo server and its logger, which is restarted only after a long time if it dies.
fn echo(port: u16) -> String {
    format!(
        r#"
        [daemon]
        stop_timeout = "100s"
        [children.echo]
        plugin = "echo"
        listen = ["tcp://127.0.0.1:{port}"]
        stop_timeout = "100s"
        [children.logger]
        plugin = "logger"
        settings = {{ file = "out.log", format = "raw" }}
        backoff = {{ first = "1000s", factor = 1.0, max = "1000s" }}
        [[links]]
        from = "echo"
        to = "logger"
        "#
    )
}

#[test]
fn a_sink_that_is_down_at_the_end_is_started_to_take_what_its_source_holds() {
    for down in ["stopped", "in backoff"] {
        let port = free_port();
        let mut daemon = Daemon::start(&echo(port));
        let logger = daemon.child_pid("logger");
        if down == "stopped" {
            daemon.done(&Request::Stop { children: named("logger") });
        } else {
            kill(logger, SIGKILL);
            daemon.wait_child("logger", ChildState::Backoff);
        }
        let mut client = daemon.connect(port);
        client.write_all(b"one\ntwo\n").unwrap();
        wait_for("it waits", || (daemon.link("echo", "logger").queued_bytes > 0).then_some(()));
        daemon.signal(SIGTERM);
        let mut echoed = [0; 8];
        client.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"one\ntwo\n");
        let status = daemon.wait_end();
        assert!(status.success(), "{down}: {status}\n{}", daemon.log());
        assert_eq!(daemon.read_text("out.log"), "one\ntwo\n");
    }
}

#[test]
fn what_a_source_wrote_while_its_sink_was_down_is_saved_at_the_end() {
    let mut daemon = Daemon::spawn(&chain(&["source", "logger"]));
    wait_written(&daemon);
    daemon.done(&Request::Stop { children: named("logger") });
    let source = daemon.child_pid("source");
    std::fs::remove_file(daemon.path("written")).unwrap();
    kill(source, SIGKILL);
    wait_written(&daemon);
    daemon.stop();
    assert_eq!(daemon.read_text("out.log").lines().count(), 2 * LINES);
}

#[test]
fn an_ordinary_sink_that_is_down_at_the_end_gets_its_sources_last_lines() {
    let mut daemon = Daemon::start(
        r#"
        [children.source]
        command = ["/bin/sh", "-c", "trap 'echo bye; exit 0' TERM; echo >&$PLUMBD_READY_FD; while :; do sleep 0.01; done"]
        ready = "fd"
        [children.sink]
        command = ["/bin/sh", "-c", "cat >>out"]
        [[links]]
        from = "source"
        to = "sink"
        "#,
    );
    daemon.done(&Request::Stop { children: named("sink") });
    daemon.stop();
    assert_eq!(daemon.read_text("out"), "bye\n");
}
