//! Stops, starts and reloads that overlap: a child that is being removed is not started once
//! more, answers are true, jobs run once, and a shutdown takes a bounded time.

use crate::daemon::{Daemon, alive, kill, wait_for};
use crate::strace::Strace;
use nix::libc::{SIGKILL, SIGTERM};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, DaemonState};
use std::time::{Duration, Instant};

fn named(name: &str) -> Vec<String> {
    vec![name.to_owned()]
}

/// A child that counts its starts, and stops only once the file `go` exists.
fn slow(name: &str, more: &str) -> String {
    format!(
        r#"
        [children.{name}]
        command = ["/bin/sh", "-c", """
        echo x >> {name}.starts
        trap 'while ! test -e go; do sleep 0.01; done; exit 0' TERM
        echo >&$PLUMBD_READY_FD
        while :; do sleep 0.01; done
        """]
        ready = "fd"
        stop_timeout = "1000s"
        {more}
        "#
    )
}

fn starts(daemon: &Daemon, name: &str) -> usize {
    daemon.read_text(&format!("{name}.starts")).lines().count()
}

/// A new child that never serves, so that its reload is undone.
const BAD: &str = "[children.bad]\ncommand = [\"sleep\", \"1000\"]\nready = \"fd\"\nready_timeout = \"200ms\"\n";

#[test]
fn a_restart_under_way_starts_nothing_if_the_daemon_ends() {
    let mut daemon = Daemon::start(&slow("one", ""));
    let restart = daemon.ask_meanwhile(Request::Restart { children: named("one") });
    daemon.wait_child("one", ChildState::Stopping);
    daemon.signal(SIGTERM);
    let (status, _, err) = restart.join().unwrap().unwrap();
    assert_eq!((status, err.as_str()), (1, "cannot start one: the daemon is stopping\n"));
    std::fs::write(daemon.path("go"), "").unwrap();
    assert!(daemon.wait_end().success());
    assert_eq!(starts(&daemon, "one"), 1);
}

#[test]
fn a_restart_under_way_starts_nothing_if_a_reload_removes_the_child() {
    let other = "[children.other]\ncommand = [\"sleep\", \"1000\"]\n";
    let mut daemon = Daemon::start(&(slow("one", "") + other));
    let restart = daemon.ask_meanwhile(Request::Restart { children: named("one") });
    daemon.wait_child("one", ChildState::Stopping);
    daemon.configure(other);
    let reload = daemon.ask_meanwhile(Request::Reload);
    daemon.wait_state(DaemonState::Reloading);
    std::fs::write(daemon.path("go"), "").unwrap();
    assert_eq!(reload.join().unwrap().unwrap().0, 0);
    let (status, _, err) = restart.join().unwrap().unwrap();
    assert_eq!((status, err.as_str()), (1, "cannot start one: it is no longer there\n"));
    assert_eq!(starts(&daemon, "one"), 1);
    daemon.stop();
}

#[test]
fn a_child_killed_because_it_was_late_is_not_started_again_when_the_reload_is_undone() {
    let one = "[children.one]\ncommand = [\"sleep\", \"1000\"]\n";
    let mut daemon = Daemon::start(one);
    let late = r#"
        [children.late]
        command = ["/bin/sh", "-c", "echo x >> late.starts; exec sleep 1000"]
        ready = "fd"
        ready_timeout = "200ms"
        "#;
    daemon.configure(&format!("{one}{late}"));
    assert_eq!(daemon.ask(&Request::Reload).0, 1);
    assert_eq!(starts(&daemon, "late"), 1);
    daemon.stop();
}

#[test]
fn a_start_or_restart_during_a_reload_is_answered_once_it_is_done() {
    for restart in [false, true] {
        let mut daemon = Daemon::start(&slow("one", ""));
        let before = daemon.child_pid("one");
        daemon.configure(&slow("one", "umask = \"0077\""));
        let reload = daemon.ask_meanwhile(Request::Reload);
        daemon.wait_child("one", ChildState::Stopping);
        let children = named("one");
        let asked = if restart { Request::Restart { children } } else { Request::Start { children } };
        let asked = daemon.ask_meanwhile(asked);
        // The daemon answers requests in order, so after this it knows the first one.
        daemon.status();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!asked.is_finished(), "answered while the child is on its way down");
        std::fs::write(daemon.path("go"), "").unwrap();
        assert_eq!(reload.join().unwrap().unwrap().0, 0);
        assert_eq!(asked.join().unwrap().unwrap().0, 0);
        let now = daemon.child("one");
        assert!(now.state == ChildState::Up && now.pid != Some(before), "{now:?}");
        daemon.stop();
    }
}

#[test]
fn a_child_that_an_operator_stops_while_a_reload_restarts_it_stays_down() {
    let mut daemon = Daemon::start(&slow("one", ""));
    daemon.configure(&slow("one", "umask = \"0077\""));
    let reload = daemon.ask_meanwhile(Request::Reload);
    daemon.wait_child("one", ChildState::Stopping);
    let stop = daemon.ask_meanwhile(Request::Stop { children: named("one") });
    daemon.status();
    std::fs::write(daemon.path("go"), "").unwrap();
    assert_eq!(reload.join().unwrap().unwrap().0, 0);
    assert_eq!(stop.join().unwrap().unwrap().0, 0);
    assert_eq!(daemon.child("one").state, ChildState::Down);
    assert_eq!(starts(&daemon, "one"), 1);
    daemon.stop();
}

#[test]
fn a_job_that_failed_does_not_run_again_because_a_reload_is_undone() {
    let job = |policy: &str, exit: u8, more: &str| {
        format!(
            "[children.job]\ncommand = [\"/bin/sh\", \"-c\", \"echo x >> job.starts; exit {exit}\"]\n\
             restart = \"{policy}\"\n{more}\n"
        )
    };
    for (policy, exit) in [("never", 1), ("never", 0), ("on-failure", 0)] {
        let mut daemon = Daemon::spawn(&job(policy, exit, ""));
        daemon.wait_state(DaemonState::Running);
        wait_for("it has run", || (daemon.child("job").last_exit.is_some()).then_some(()));
        let before = daemon.child("job");
        // The reload is undone, with and without a change of the job itself. If the job changes,
        // the reload itself runs it once.
        for (more, runs) in [("", 1), ("umask = \"0077\"", 2)] {
            daemon.configure(&(job(policy, exit, more) + BAD));
            assert_eq!(daemon.ask(&Request::Reload).0, 1);
            assert!(starts(&daemon, "job") <= runs, "{policy}, {exit}: {} runs", starts(&daemon, "job"));
            let after = daemon.child("job");
            assert_eq!((after.state, after.pid, after.problem), (before.state, None, before.problem.clone()));
        }
        daemon.signal(SIGTERM);
        daemon.wait_end();
    }
}

#[test]
fn a_shutdown_during_a_reload_restarts_what_the_reload_had_asked_to_stop() {
    // The filter ends successfully when it is asked to stop, and is not restarted by itself.
    let config = |umask: &str| {
        // A hundred lines take a busy machine a while.
        "[daemon]\nstop_timeout = \"60s\"\n".to_owned()
            + &slow("late", &format!("umask = \"{umask}\""))
            + &format!(
                r#"
        [children.source]
        command = ["/bin/sh", "-c", "seq 1 100; exec sleep 1000"]
        [children.filter]
        command = ["/bin/sh", "-c", """
        trap 'exit 0' TERM
        while IFS= read -r line; do sleep 0.01; printf '%s\\n' "$line"; done
        """]
        restart = "on-failure"
        stop_timeout = "60s"
        umask = "{umask}"
        [children.logger]
        plugin = "logger"
        settings = {{ file = "out.log", format = "raw" }}
        [[links]]
        from = "source"
        to = "filter"
        [[links]]
        from = "filter"
        to = "logger"
        "#
            )
    };
    let mut daemon = Daemon::start(&config("0022"));
    // All lines are written at once, and the filter has its trap.
    wait_for("the first line", || (!daemon.read_text("out.log").is_empty()).then_some(()));
    daemon.configure(&config("0077"));
    let reload = daemon.ask_meanwhile(Request::Reload);
    daemon.wait_child("filter", ChildState::Down);
    daemon.signal(SIGTERM);
    assert_eq!(reload.join().unwrap().unwrap().0, 1);
    std::fs::write(daemon.path("go"), "").unwrap();
    assert!(daemon.wait_end().success(), "{}", daemon.log());
    // It may have held one line.
    assert!(daemon.read_text("out.log").lines().count() >= 99, "{}", daemon.read_text("out.log"));
}

#[test]
fn a_child_that_an_operator_stops_during_a_reload_stays_down_when_it_is_undone() {
    let one = "[children.one]\ncommand = [\"sleep\", \"1000\"]\n";
    let mut daemon = Daemon::start(&(slow("slow", "") + one));
    daemon.configure(&(slow("slow", "umask = \"0077\"") + BAD));
    let reload = daemon.ask_meanwhile(Request::Reload);
    daemon.wait_child("one", ChildState::Down);
    let stop = daemon.ask_meanwhile(Request::Stop { children: named("one") });
    daemon.status();
    std::fs::write(daemon.path("go"), "").unwrap();
    assert_eq!(reload.join().unwrap().unwrap().0, 1);
    assert_eq!(stop.join().unwrap().unwrap().0, 0);
    assert_eq!(daemon.child("one").state, ChildState::Down);
    daemon.stop();
}

#[test]
fn what_waits_in_a_link_is_still_there_after_a_reload_that_removes_it_is_undone() {
    let one = "[daemon]\nstop_timeout = \"200ms\"\n[children.one]\ncommand = [\"sleep\", \"1000\"]\n";
    let link = |source: &str, sink: &str| {
        format!(
            "[children.source]\ncommand = [\"/bin/sh\", \"-c\", \"{source}; exec sleep 1000\"]\n\
             [children.sink]\ncommand = [\"/bin/sh\", \"-c\", \"exec {sink}\"]\n\
             [[links]]\nfrom = \"source\"\nto = \"sink\"\n"
        )
    };
    for again in [true, false] {
        let mut daemon = Daemon::start(one);
        daemon.configure(&format!("{one}{}{BAD}", link("seq 1 10", "sleep 1000")));
        let (status, _, err) = daemon.ask(&Request::Reload);
        assert_eq!(status, 1, "{err}");
        assert_eq!(daemon.link("*", "sink").queued_bytes, 21);
        if again {
            daemon.reload(&format!("{one}{}", link("true", "cat > out")));
            wait_for("it is taken", || (daemon.read_text("out").lines().count() == 10).then_some(()));
            daemon.stop();
        } else {
            daemon.signal(SIGTERM);
            assert_eq!(daemon.wait_end().code(), Some(1));
            assert!(daemon.log().contains("nobody took 21 bytes in the link * -> sink"), "{}", daemon.log());
        }
    }
}

#[test]
fn a_child_that_has_failed_stays_failed_when_a_reload_is_undone() {
    let job = |more: &str| {
        format!(
            "[children.job]\ncommand = [\"/bin/sh\", \"-c\", \"echo x >> job.starts; exit 1\"]\n\
             restart = \"on-failure\"\nstart_limit = {{ burst = 2, within = \"60s\" }}\n{more}\n"
        )
    };
    let mut daemon = Daemon::spawn(&job(""));
    daemon.wait_child("job", ChildState::Failed);
    let before = daemon.child("job");
    for (more, runs) in [("", 2), ("umask = \"0077\"", 4)] {
        daemon.configure(&(job(more) + BAD));
        assert_eq!(daemon.ask(&Request::Reload).0, 1);
        assert!(starts(&daemon, "job") <= runs, "{} runs", starts(&daemon, "job"));
        let after = daemon.child("job");
        assert_eq!((after.state, after.problem), (ChildState::Failed, before.problem.clone()));
    }
    daemon.signal(SIGTERM);
    daemon.wait_end();
}

#[test]
fn a_shutdown_is_bounded_even_if_children_ignore_signals() {
    // There are four in a row, and each waits for the one before it.
    let deaf = |name: &str, after: &str| {
        format!(
            "[children.{name}]\ncommand = [\"/bin/sh\", \"-c\", \"trap '' TERM; echo >&$PLUMBD_READY_FD; while :; do sleep 0.1; done\"]\n\
             ready = \"fd\"\nstop_timeout = \"2s\"\nafter = [{after}]\n"
        )
    };
    let config = format!(
        "[daemon]\nstop_timeout = \"2s\"\n{}{}{}{}",
        deaf("a", ""),
        deaf("b", "\"a\""),
        deaf("c", "\"b\""),
        deaf("d", "\"c\"")
    );
    let mut daemon = Daemon::start(&config);
    let began = Instant::now();
    daemon.signal(SIGTERM);
    daemon.wait_end();
    // One after the other, they would take four times 2 s.
    assert!(began.elapsed() < Duration::from_millis(6500), "{:?}", began.elapsed());
}

/// A strace that makes the supervisor's kill(2) do nothing.
fn powerless(daemon: &Daemon) -> Strace {
    Strace::inject(daemon.pid(), "kill", "retval=0")
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_child_that_cannot_be_killed_is_reported_and_a_second_sigterm_does_not_wait_for_it() {
    // Nor does it end when its supervisor dies.
    let mut daemon = Daemon::start(
        "[children.one]\nready = \"fd\"\n\
         command = [\"sh\", \"-c\", \"trap '' TERM; echo >&$PLUMBD_READY_FD; while :; do sleep 0.1; done\"]\n",
    );
    let one = daemon.child_pid("one");
    let strace = powerless(&daemon);
    daemon.signal(SIGTERM);
    daemon.wait_state(DaemonState::Stopping);
    daemon.signal(SIGTERM);
    wait_for("the daemon ends", || (!alive(daemon.pid())).then_some(()));
    assert!(alive(one));
    kill(one, SIGKILL);
    drop(strace);
    assert_eq!(daemon.wait_end().code(), Some(1));
    let named = format!("stopped, but cannot end one: process {one} does not die of SIGKILL");
    assert!(daemon.log().contains(&named), "{}", daemon.log());
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_child_that_cannot_be_killed_makes_a_reload_be_undone() {
    let config = |more: &str| {
        format!(
            "[daemon]\nstop_timeout = \"500ms\"\n[children.one]\ncommand = [\"sleep\", \"1000\"]\nstop_timeout = \"100ms\"\n{more}\n\
             [children.other]\ncommand = [\"sleep\", \"1000\"]\n"
        )
    };
    let mut daemon = Daemon::start(&config(""));
    let one = daemon.child_pid("one");
    let strace = powerless(&daemon);
    daemon.configure(&config("umask = \"0077\""));
    let (status, _, err) = daemon.ask(&Request::Reload);
    assert_eq!(status, 1);
    assert!(err.contains(&format!("cannot end one: process {one} does not die of SIGKILL")), "{err}");
    // Once the operator has ended it, everything is as before.
    drop(strace);
    kill(one, SIGKILL);
    daemon.wait_replaced("one", one);
    daemon.stop();
}
