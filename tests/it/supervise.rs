//! Ordinary programs that end: whether they are started again or given up, and what
//! becomes of what they leave behind.

use crate::daemon::{Daemon, alive, children_of, free_port, kill, wait_for};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, DaemonState, Ended};
use std::time::{Duration, Instant};

#[test]
fn the_restart_policy_decides_whether_a_child_is_restarted() {
    let child = |name: &str, exit: u8, policy: &str| {
        format!(
            r#"
            [children.{name}]
            command = ["sh", "-c", "echo start >> {name}; test $(wc -l < {name}) = 3 && exec sleep 1000; exit {exit}"]
            restart = "{policy}"
            backoff = {{ first = "1ms", factor = 1.0 }}
            "#
        )
    };
    let mut daemon = Daemon::start(
        &[
            child("always-well", 0, "always"),
            child("always-badly", 1, "always"),
            child("failing-well", 0, "on-failure"),
            child("failing-badly", 2, "on-failure"),
            child("never-well", 0, "never"),
            child("never-badly", 3, "never"),
        ]
        .concat(),
    );
    let third_time = |name: &str| {
        wait_for(&format!("{name} runs for the third time"), || {
            Some(daemon.child(name)).filter(|c| c.state == ChildState::Up && c.restarts == 2)
        })
    };
    assert_eq!(third_time("always-well").last_exit.unwrap().how, Ended::Code(0));
    assert_eq!(third_time("always-badly").last_exit.unwrap().how, Ended::Code(1));
    assert_eq!(third_time("failing-badly").last_exit.unwrap().how, Ended::Code(2));
    for (name, code) in [("failing-well", 0), ("never-well", 0), ("never-badly", 3)] {
        let child = wait_for(name, || Some(daemon.child(name)).filter(|c| c.last_exit.is_some()));
        assert_eq!((child.state, child.restarts, child.pid), (ChildState::Down, 0, None), "{name}");
        assert_eq!(child.last_exit.unwrap().how, Ended::Code(code), "{name}");
        let problem = (code != 0).then(|| format!("exited with status {code}, and restart = \"never\""));
        assert_eq!(child.problem, problem, "{name}");
        assert_eq!(daemon.read_text(name), "start\n");
    }
    daemon.stop();
}

#[test]
fn plugins_have_names_in_process_lists() {
    let port = free_port();
    let mut daemon = Daemon::start(&format!(
        r#"
        [children.echo]
        plugin = "echo"
        listen = ["tcp://127.0.0.1:{port}"]
        [children.store]
        plugin = "logger"
        [children.store.settings]
        file = "messages.log"
        [[links]]
        from = "echo"
        to = "store"
        "#
    ));
    for (child, name) in [("echo", "plumbd-echo\n"), ("store", "plumbd-logger\n")] {
        let comm = format!("/proc/{}/comm", daemon.child_pid(child));
        assert_eq!(std::fs::read_to_string(comm).unwrap(), name);
    }
    daemon.stop();
}

#[test]
fn a_killed_child_is_replaced_at_once_and_the_signal_is_reported() {
    let mut daemon = Daemon::start(
        r#"
        [children.one]
        command = ["sleep", "1000"]
        "#,
    );
    let pid = daemon.child_pid("one");
    kill(pid, nix::libc::SIGKILL);
    let next = daemon.wait_replaced("one", pid);
    let one = daemon.child("one");
    assert_eq!((one.restarts, one.last_exit.unwrap().how), (1, Ended::Signal("SIGKILL".to_owned())));
    daemon.wait_log("one: was killed by SIGKILL; starts again at once");
    // This holds for ordinary signals and for those without a name.
    kill(next, nix::libc::SIGSEGV);
    let next = daemon.wait_replaced("one", next);
    assert_eq!(daemon.child("one").last_exit.unwrap().how, Ended::Signal("SIGSEGV".to_owned()));
    crate::daemon::send(next, 40);
    daemon.wait_replaced("one", next);
    let expected = format!("SIGRTMIN+{}", 40 - nix::libc::SIGRTMIN());
    assert_eq!(daemon.child("one").last_exit.unwrap().how, Ended::Signal(expected));
    daemon.stop();
}

#[test]
fn starts_in_a_row_are_further_and_further_apart() {
    let mut daemon = Daemon::start(
        r#"
        [children.one]
        command = ["sh", "-c", "date +%s%N >> starts; exit 1"]
        backoff = { first = "0ms", factor = 3.0, max = "250ms" }
        start_limit = { burst = 5, within = "60s" }
        "#,
    );
    daemon.wait_child("one", ChildState::Failed);
    let starts: Vec<u64> = daemon.read_text("starts").lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(starts.len(), 5);
    let gaps: Vec<u64> = starts.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000_000).collect();
    // The waits are 0, 100 ms, 300 ms cut to 250 ms, and 250 ms; never less. A start itself takes a
    // little.
    let slack = 20;
    assert!(gaps[1] + slack >= 100 && gaps[2] + slack >= 250 && gaps[3] + slack >= 250, "{gaps:?}");
    daemon.wait_log("starts again at once");
    daemon.wait_log("starts again in 0.1 s");
    daemon.wait_log("starts again in 0.25 s");
    daemon.stop();
}

#[test]
fn a_child_that_dies_at_once_is_given_up_and_an_operator_starts_it_again() {
    let mut daemon = Daemon::start(
        r#"
        [children.one]
        command = ["sh", "-c", "echo start >> starts; test -e mended || exit 9; exec sleep 1000"]
        backoff = { first = "1ms", factor = 1.0 }
        start_limit = { burst = 4, within = "60s" }
        "#,
    );
    let one = daemon.wait_child("one", ChildState::Failed);
    assert_eq!(daemon.read_text("starts").lines().count(), 4);
    assert_eq!((one.restarts, one.pid, one.last_exit.unwrap().how), (3, None, Ended::Code(9)));
    let problem = one.problem.unwrap();
    assert!(problem.contains("given up after 4 starts within 60 s; it exited with status 9"), "{problem}");

    std::fs::write(daemon.path("mended"), "").unwrap();
    daemon.done(&Request::Start { children: vec!["one".into()] });
    let one = daemon.wait_child("one", ChildState::Up);
    assert_eq!(one.problem, None);
    // Earlier starts no longer count: it may die three times more.
    for _ in 0..3 {
        let pid = daemon.child_pid("one");
        kill(pid, nix::libc::SIGKILL);
        daemon.wait_replaced("one", pid);
    }
    daemon.stop();
}

#[test]
fn what_a_child_leaves_in_its_group_is_gone_before_the_next_one_starts() {
    // The second process can only get the lock once no process of the first group lives.
    let mut daemon = Daemon::start(
        r#"
        [children.one]
        command = ["sh", "-c", """
        exec 9>lock
        flock -n 9 && echo free >> locks || echo taken >> locks
        for n in 1 2 3 4 5 6 7 8; do sh -c "trap '' TERM HUP; sleep 1000; :" & done
        echo >&$PLUMBD_READY_FD
        wait
        """]
        ready = "fd"
        backoff = { factor = 1.0, max = "0ms" }
        start_limit = { burst = 1000, within = "60s" }
        "#,
    );
    for _ in 0..10 {
        let one = daemon.wait_child("one", ChildState::Up);
        let pid = one.pid.unwrap();
        let grandchildren = children_of(pid);
        assert_eq!(grandchildren.len(), 8);
        kill(pid, nix::libc::SIGKILL);
        daemon.wait_replaced("one", pid);
        for grandchild in grandchildren {
            let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat"));
            assert!(stat.is_err(), "of {pid}: {stat:?}");
        }
    }
    assert_eq!(daemon.read_text("locks"), "free\n".repeat(11));
    daemon.stop();
}

#[test]
fn a_grandchild_that_left_the_group_is_reaped_when_it_ends() {
    let mut daemon = Daemon::start(
        r#"
        [children.one]
        command = ["sh", "-c", """
        (setsid sh -c 'trap "" TERM HUP; echo $$ >> strays; sleep 1000; :' &)
        exec sleep 1000
        """]
        "#,
    );
    let stray = wait_for("a stray", || daemon.read_text("strays").trim().parse::<i32>().ok());
    wait_for("its parent is the supervisor", || children_of(daemon.pid()).contains(&stray).then_some(()));
    kill(stray, nix::libc::SIGKILL);
    wait_for("it is reaped", || (!std::path::Path::new(&format!("/proc/{stray}")).exists()).then_some(()));
    daemon.stop();
}

#[test]
fn a_child_that_ignores_its_stop_signal_is_killed_with_its_group() {
    let mut daemon = Daemon::start(
        r#"
        [children.deaf]
        command = ["sh", "-c", "trap '' TERM; sleep 1000 & echo >&$PLUMBD_READY_FD; while :; do sleep 1000; done"]
        ready = "fd"
        stop_timeout = "100ms"
        [children.polite]
        command = ["sh", "-c", "trap 'exit 5' QUIT; echo >&$PLUMBD_READY_FD; while :; do sleep 0.01; done"]
        ready = "fd"
        stop_signal = "SIGQUIT"
        "#,
    );
    let group: Vec<i32> = children_of(daemon.child_pid("deaf")).into_iter().collect();
    assert!(!group.is_empty());
    daemon.done(&Request::Stop { children: vec!["deaf".into(), "polite".into()] });
    let deaf = daemon.child("deaf");
    assert_eq!(deaf.last_exit.unwrap().how, Ended::Signal("SIGKILL".to_owned()));
    daemon.wait_log("deaf: did not stop within 0.1 s; killed");
    assert!(group.into_iter().all(|pid| !alive(pid)));
    assert_eq!(daemon.child("polite").last_exit.unwrap().how, Ended::Code(5));
    daemon.stop();
}

#[test]
fn a_stopped_process_can_be_stopped_for_good() {
    let mut daemon = Daemon::start(
        r#"
        [children.one]
        command = ["sleep", "1000"]
        stop_timeout = "1000s"
        "#,
    );
    kill(daemon.child_pid("one"), nix::libc::SIGSTOP);
    daemon.done(&Request::Stop { children: vec!["one".into()] });
    assert_eq!(daemon.child("one").last_exit.unwrap().how, Ended::Signal("SIGTERM".to_owned()));
    daemon.stop();
}

#[test]
fn a_child_that_writes_without_end_does_not_keep_others_from_being_served() {
    // The log goes into a pipe that is not read until the end.
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let mut daemon = Daemon::logging_to(
        write,
        r#"
        [children.loud]
        command = ["sh", "-c", "while :; do echo 'on and on and on and on and on and on and on'; done"]
        [children.louder]
        command = ["yes", "on and on and on and on and on and on"]
        [children.quiet]
        command = ["sleep", "1000"]
        "#,
    );
    daemon.wait_state(DaemonState::Running);
    wait_for("a log pipe is full, and its writer waits a moment", || {
        let pid = daemon.child_pid("louder");
        let text = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        let state = crate::daemon::state(pid);
        (text.contains("pipe") || state == Some('S')).then_some(())
    });
    let resident = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let before = resident(daemon.pid());
    for _ in 0..100 {
        let asked = Instant::now();
        assert!(daemon.try_status().is_some());
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    }
    let pid = daemon.child_pid("quiet");
    kill(pid, nix::libc::SIGKILL);
    daemon.wait_replaced("quiet", pid);
    let after = resident(daemon.pid());
    assert!(after < before + (4 << 20), "{before} bytes became {after}");
    drop(read);
    daemon.stop();
}

#[test]
fn a_plugin_without_any_descriptor_left_can_report_that() {
    let port = free_port();
    let mut daemon = Daemon::start(&format!(
        r#"
        [children.echo]
        plugin = "echo"
        listen = ["tcp://127.0.0.1:{port}"]
        limits = {{ nofile = 32 }}
        [children.logger]
        plugin = "logger"
        settings = {{ file = "messages.log" }}
        [[links]]
        from = "echo"
        to = "logger"
        "#
    ));
    let clients: Vec<_> = (0..40).map(|_| daemon.connect(port)).collect();
    let problem = || daemon.child("echo").problem;
    let told = "cannot accept clients for now: Too many open files (the limit is";
    wait_for("the status says so", || problem().filter(|problem| problem.starts_with(told)));
    drop(clients);
    wait_for("the status no longer says so", || problem().is_none().then_some(()));
    daemon.stop();
}
