//! Whether children are well: checks, WATCHDOG=1, bytes that a sink does not take.

use crate::daemon::{DEADLINE, Daemon, children_of, free_port, kill, wait_for};
use crate::events::{events, follow, names};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, DaemonState, Ended, RestartsBy};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// A child that notes in the file `drained` that it was asked to stop, and is well again after
/// that; with these keys besides.
fn patient(keys: &str) -> String {
    format!(
        r#"
        [children.patient]
        command = ["sh", "-c", 'trap "echo yes >>drained; touch well; exit 0" TERM; while :; do sleep 0.02; done']
        {keys}
        "#
    )
}

const FILE_CHECK: &str = r#"health = { command = ["sh", "-c", "test -e well || { echo not now; echo it is ill >&2; exit 7; }"], every = "20ms", failures = 2 }"#;

fn sick(daemon: &Daemon) {
    std::fs::remove_file(daemon.path("well")).unwrap();
}

/// A folder with the file `well`.
fn well() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("well"), "").unwrap();
    dir
}

fn start_well(config: &str) -> Daemon {
    let daemon = Daemon::spawn_in(well(), config);
    daemon.wait_state(DaemonState::Running);
    daemon
}

#[test]
fn an_unhealthy_child_drains_and_starts_again_and_the_reason_is_told() {
    let mut daemon = start_well(&patient(FILE_CHECK));
    let mut all = follow(&daemon, &["--since", "0"], "all");
    let pid = daemon.child_pid("patient");
    sick(&daemon);
    daemon.wait_replaced("patient", pid);
    assert_eq!(daemon.read_text("drained"), "yes\n");
    let reason = "unhealthy: 2 checks failed in a row; the last one: \"it is ill\"";
    daemon.wait_log(&format!("ERROR patient: {reason}; sending SIGTERM"));
    daemon.wait_log("WARN patient: a check failed, 1 of 2 in a row: \"it is ill\"");
    daemon.wait_log("WARN patient: exited with status 0");
    let child = daemon.child("patient");
    assert_eq!((child.problem, child.restarts), (None, 1));
    assert_eq!(child.restarts_by, RestartsBy { health: 1, ..RestartsBy::default() });
    // Its own end, and an operator's wish, are other causes.
    kill(child.pid.unwrap(), nix::libc::SIGKILL);
    daemon.wait_replaced("patient", child.pid.unwrap());
    assert_eq!(daemon.child("patient").restarts_by, RestartsBy { health: 1, failure: 1, ..RestartsBy::default() });
    wait_for("the events", || (names(&events(&daemon, "all"), "patient").len() >= 13).then_some(()));
    let seen = events(&daemon, "all");
    assert_eq!(
        names(&seen, "patient"),
        [
            "starting",
            "up",
            "unhealthy",
            "stopping",
            "problem",
            "exited",
            "starting",
            "up",
            "solved",
            "exited",
            "backoff",
            "starting",
            "up"
        ]
    );
    let unhealthy = seen.iter().find(|event| event["event"] == "unhealthy").unwrap();
    assert_eq!((&unhealthy["reason"], &unhealthy["pid"]), (&reason.into(), &pid.into()));
    daemon.stop();
    assert!(all.wait().unwrap().success());
}

#[test]
fn an_unhealthy_child_that_is_not_restarted_has_failed() {
    let mut daemon = start_well(&patient(&format!("restart = \"never\"\n{FILE_CHECK}")));
    sick(&daemon);
    let child = daemon.wait_child("patient", ChildState::Down);
    assert_eq!(child.problem.as_deref(), Some("unhealthy: 2 checks failed in a row; the last one: \"it is ill\""));
    daemon.stop();
}

#[test]
fn a_check_that_takes_too_long_is_killed_with_all_that_it_started() {
    let mut daemon = Daemon::start(&patient(
        r#"
        restart = "never"
        health = { command = ["sh", "-c", "setsid sleep 1000 & echo waiting; sleep 1000"], every = "10ms", timeout = "300ms", failures = 1 }
        "#,
    ));
    let child = daemon.wait_child("patient", ChildState::Down);
    assert_eq!(child.problem.as_deref(), Some("unhealthy: a check failed: timed out after 0.3 s: \"waiting\""));
    wait_for("nothing is left", || children_of(daemon.pid()).is_empty().then_some(()));
    daemon.stop();
}

#[test]
fn what_a_check_that_succeeds_leaves_behind_ends_too() {
    let mut daemon = Daemon::start(&patient(
        r#"health = { command = ["sh", "-c", "test -e once && exec sleep 1000; touch once; (setsid sleep 1000 &)"], every = "10ms", timeout = "1000s" }"#,
    ));
    wait_for("the second check", || daemon.path("once").exists().then_some(()));
    // The child itself, and the check.
    wait_for("nothing is left", || (children_of(daemon.pid()).len() == 2).then_some(()));
    daemon.stop();
}

#[test]
fn a_check_runs_as_its_child_and_may_write_a_lot() {
    const CHECK: &str = "test -e seen || {
        echo $PLUMBD_CHILD $COLOUR $(umask) $(ulimit -n) ${NOTIFY_SOCKET-none} $(pwd -P) >seen.new; mv seen.new seen
    }
    head -c 500000 /dev/zero";
    let mut daemon = Daemon::start(&format!(
        r#"
        [children.patient]
        command = ["sleep", "1000"]
        directory = "."
        umask = "0077"
        environment = {{ COLOUR = "red" }}
        limits = {{ nofile = 77 }}
        watchdog = "1000s"
        health = {{ command = ["sh", "-c", '''{CHECK}'''], every = "10ms", failures = 1 }}
        "#
    ));
    let seen = wait_for("a check", || Some(daemon.read_text("seen")).filter(|text| !text.is_empty()));
    let folder = daemon.dir.path().canonicalize().unwrap();
    assert_eq!(seen, format!("patient red 0077 77 none {}\n", folder.display()));
    assert_eq!(daemon.child("patient").restarts, 0);
    daemon.stop();
}

#[test]
fn a_check_that_writes_without_end_has_failed() {
    let mut daemon = Daemon::start(&patient(
        r#"
        restart = "never"
        health = { command = ["yes"], every = "10ms", timeout = "1000s", failures = 1 }
        "#,
    ));
    let child = daemon.wait_child("patient", ChildState::Down);
    assert_eq!(child.problem.as_deref(), Some("unhealthy: a check failed: it wrote more than 1 MiB"));
    daemon.stop();
}

#[test]
fn a_check_that_can_not_be_executed_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::set_permissions(dir.path().join(name), PermissionsExt::from_mode(0o755)).unwrap();
    };
    write("check", "#!/bin/sh\nexit 0\n");
    write("new", "#!/nowhere/sh\n");
    let config = patient("restart = \"never\"\nhealth = { command = [\"./check\"], every = \"10ms\", failures = 1 }");
    let mut daemon = Daemon::spawn_in(dir, &config);
    daemon.wait_child("patient", ChildState::Up);
    std::fs::rename(daemon.path("new"), daemon.path("check")).unwrap();
    let problem = daemon.wait_child("patient", ChildState::Down).problem.unwrap();
    assert!(problem.starts_with("unhealthy: a check failed: cannot start it: executing: "), "{problem}");
    daemon.stop();
}

#[test]
fn with_ready_health_a_child_is_ready_at_the_first_check_that_succeeds() {
    let config = patient(&format!("ready = \"health\"\nready_timeout = \"1000s\"\n{FILE_CHECK}"))
        + "[children.later]\ncommand = [\"sleep\", \"1000\"]\nafter = [\"patient\"]\n";
    let mut daemon = Daemon::spawn(&config);
    wait_for("a process", || daemon.try_status()?.children[0].pid);
    // Long after two failures in a row.
    let before = Instant::now();
    while before.elapsed() < Duration::from_millis(500) {
        let status = daemon.status();
        let states: Vec<ChildState> = status.children.iter().map(|child| child.state).collect();
        assert_eq!(states, [ChildState::Starting, ChildState::Down]);
    }
    std::fs::write(daemon.path("well"), "").unwrap();
    daemon.wait_child("later", ChildState::Up);
    let pid = daemon.child_pid("patient");
    sick(&daemon);
    daemon.wait_replaced("patient", pid);
    daemon.stop();
}

#[test]
fn a_child_whose_checks_never_succeed_is_not_ready_in_time() {
    let mut daemon = Daemon::spawn(&patient(
        r#"
        restart = "never"
        ready = "health"
        ready_timeout = "1500ms"
        health = { command = ["sh", "-c", "test -e once && exec sleep 1000; touch once; echo no database; false"], every = "10ms" }
        "#,
    ));
    daemon.wait_log("patient: not ready within 1.5 s; its last check: \"no database\"; killed");
    daemon.wait_child("patient", ChildState::Down);
    wait_for("the check is over", || children_of(daemon.pid()).is_empty().then_some(()));
    daemon.stop();
}

#[test]
fn a_check_that_ends_late_because_the_daemon_was_halted_does_not_count() {
    let mut daemon = Daemon::start(&patient(
        r#"
        restart = "never"
        health = { command = ["sh", "-c", "test -e began && exit 0; touch began; exec sleep 1000"], every = "10ms", timeout = "3s", failures = 1 }
        "#,
    ));
    wait_for("a check", || daemon.path("began").exists().then_some(()));
    let began = Instant::now();
    kill(daemon.pid(), nix::libc::SIGSTOP);
    // It has to be halted until after the check's time is over, so time must pass here.
    std::thread::sleep(Duration::from_secs(4).saturating_sub(began.elapsed()));
    kill(daemon.pid(), nix::libc::SIGCONT);
    daemon.wait_log("a check failed, which does not count, because the machine was too busy: timed out after 3 s");
    assert_eq!(daemon.child("patient").state, ChildState::Up);
    daemon.stop();
}

#[test]
fn a_reload_changes_checks_without_a_new_process() {
    let mut daemon = start_well(&patient(""));
    let pid = daemon.child_pid("patient");
    assert!(daemon.reload(&patient(FILE_CHECK)).contains("health changes"));
    sick(&daemon);
    let next = daemon.wait_replaced("patient", pid);
    daemon.reload(&patient(
        &FILE_CHECK.replace("exit 7", "touch asked; exit 7").replace("failures = 2", "failures = 1000"),
    ));
    sick(&daemon);
    wait_for("the new check", || daemon.path("asked").exists().then_some(()));
    daemon.reload(&patient(""));
    wait_for("no more checks", || (children_of(daemon.pid()).len() == 1).then_some(()));
    assert_eq!(daemon.child_pid("patient"), next);
    daemon.stop();
}

#[test]
fn a_tcp_check_follows_who_listens() {
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut daemon = Daemon::start(&patient(&format!(
        r#"
        restart = "never"
        ready = "health"
        health = {{ tcp = "localhost:{port}", every = "20ms", failures = 2 }}
        "#
    )));
    // Each check connects, and sends nothing.
    for _ in 0..3 {
        let (mut client, _) = listener.accept().unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    drop(listener);
    let child = daemon.wait_child("patient", ChildState::Down);
    let problem = child.problem.unwrap();
    assert!(problem.starts_with("unhealthy: 2 checks failed in a row; the last one: cannot connect"), "{problem}");
    assert!(problem.contains(": Connection refused"), "{problem}");
    daemon.stop();
}

#[test]
fn an_http_check_follows_the_status_of_the_answer() {
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let answer = |answer: &[&[u8]]| {
        let (mut client, _) = listener.accept().unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(client.read(&mut byte).unwrap(), 1);
            request.push(byte[0]);
        }
        answer.iter().for_each(|part| client.write_all(part).unwrap());
        String::from_utf8(request).unwrap()
    };
    let mut daemon = Daemon::spawn(&patient(&format!(
        r#"
        restart = "never"
        ready = "health"
        health = {{ http = "http://127.0.0.1:{port}/well?now", every = "20ms", failures = 3 }}
        "#
    )));
    answer(&[b"HTTP/1.1 503 Not Yet\r\n\r\n"]);
    let request = answer(&[b"HTTP/1.1 ", b"200 OK\r\nContent-Length: 3\r\n\r\nyes"]);
    assert!(request.starts_with(&format!("GET /well?now HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n")), "{request}");
    daemon.wait_child("patient", ChildState::Up);
    answer(&[b"HTTP/1.1 404 Not Found\r\n\r\n"]);
    answer(&[b"HTTP/1.0 301 Moved\r\n\r\n"]);
    answer(&[b"SSH-2.0-OpenSSH\r\n"]);
    answer(&[b""]);
    answer(&[b"HTTP/1.1 500 Internal Server Error\r\n"]);
    let child = daemon.wait_child("patient", ChildState::Down);
    assert_eq!(
        child.problem.as_deref(),
        Some("unhealthy: 3 checks failed in a row; the last one: it answered \"HTTP/1.1 500 Internal Server Error\"")
    );
    daemon.stop();
}

/// Not a test but a program that tests run as a child: while there is no file `silent`, it
/// sends WATCHDOG=1 as often as it is told to; then it goes on without, or, if the file has
/// words, sends those first.
#[test]
#[ignore = "a program that other tests run as a child"]
fn says_that_it_is_alive() {
    let Ok(micros) = std::env::var("WATCHDOG_USEC") else { return };
    assert_eq!(std::env::var("WATCHDOG_PID").unwrap(), std::process::id().to_string());
    let pause = Duration::from_micros(micros.parse::<u64>().unwrap() / 10);
    loop {
        if let Ok(words) = std::fs::read_to_string("silent") {
            if !words.is_empty() {
                plumbd::sys::notify::send(&words).unwrap();
            }
            break;
        }
        plumbd::sys::notify::send("WATCHDOG=1").unwrap();
        std::thread::sleep(pause);
    }
    std::thread::sleep(Duration::from_secs(1000));
}

fn watched(keys: &str) -> String {
    format!(
        r#"
        [children.patient]
        command = ["{}", "--exact", "health::says_that_it_is_alive", "--include-ignored"]
        restart = "never"
        limits = {{ core = 0 }}
        {keys}
        "#,
        std::env::current_exe().unwrap().display()
    )
}

#[test]
fn a_child_that_stops_sending_watchdog_1_gets_sigabrt() {
    let mut daemon = Daemon::start(&watched("watchdog = \"2s\""));
    let mut all = follow(&daemon, &["--since", "0"], "all");
    let pid = daemon.child_pid("patient");
    std::fs::write(daemon.path("silent"), "").unwrap();
    let child = daemon.wait_child("patient", ChildState::Down);
    assert_eq!(child.problem.as_deref(), Some("watchdog: no WATCHDOG=1 for 2 s"));
    assert_eq!(child.last_exit.unwrap().how, Ended::Signal("SIGABRT".to_owned()));
    daemon.wait_log("ERROR patient: watchdog: no WATCHDOG=1 for 2 s; sending SIGABRT");
    daemon.stop();
    assert!(all.wait().unwrap().success());
    let seen = events(&daemon, "all");
    let event = seen.iter().find(|event| event["event"] == "watchdog").unwrap();
    assert_eq!((&event["pid"], &event["reason"]), (&pid.into(), &"watchdog: no WATCHDOG=1 for 2 s".into()));
}

#[test]
fn a_child_that_says_that_it_is_broken_gets_sigabrt_at_once() {
    let mut daemon = Daemon::start(&watched("watchdog = \"2s\""));
    std::fs::write(daemon.path("silent.new"), "WATCHDOG=trigger").unwrap();
    std::fs::rename(daemon.path("silent.new"), daemon.path("silent")).unwrap();
    let child = daemon.wait_child("patient", ChildState::Down);
    assert_eq!(child.problem.as_deref(), Some("it sent WATCHDOG=trigger"));
    assert_eq!(child.last_exit.unwrap().how, Ended::Signal("SIGABRT".to_owned()));
    daemon.stop();
}

#[test]
fn a_reload_adds_a_watchdog_from_the_next_start_on_and_removes_it_at_once() {
    let sleeps = "[children.patient]\ncommand = [\"sleep\", \"1000\"]\n";
    let mut daemon = Daemon::start(sleeps);
    let pid = daemon.child_pid("patient");
    daemon.reload(&format!("{sleeps}watchdog = \"100ms\"\n"));
    assert_eq!(daemon.child_pid("patient"), pid);
    kill(pid, nix::libc::SIGKILL);
    daemon.wait_log("patient: watchdog: no WATCHDOG=1 for 0.1 s; sending SIGABRT");
    daemon.reload(sleeps);
    wait_for("it stays up", || {
        let child = daemon.child("patient");
        (child.state == ChildState::Up).then_some(())
    });
    daemon.stop();
}

#[test]
fn a_sink_that_takes_nothing_while_bytes_wait_is_unhealthy() {
    let config = |sink: &str| {
        format!(
            r#"
            [children.source]
            command = ["sh", "-c", "echo line; exec sleep 1000"]
            [children.patient]
            command = ["sh", "-c", '{sink}']
            stalled = "400ms"
            [[links]]
            from = "source"
            to = "patient"
            "#
        )
    };
    let mut daemon = Daemon::start(&config("test -e again && exec cat >got; touch again; exec sleep 1000"));
    daemon.wait_log("patient: stalled: bytes wait for it, and it took none for 0.4 s; sending SIGTERM");
    wait_for("the line", || (daemon.read_text("got") == "line\n").then_some(()));
    let mut all = follow(&daemon, &["--since", "0", "--child", "patient"], "all");
    wait_for("the events", || (names(&events(&daemon, "all"), "patient").len() >= 9).then_some(()));
    let seen = names(&events(&daemon, "all"), "patient");
    assert_eq!(seen[..6], ["starting", "up", "stalled", "stopping", "problem", "exited"]);
    daemon.stop();
    assert!(all.wait().unwrap().success());
    // One that takes a little now and then is well, however full its link is.
    let slow = config("while head -c 4096 >/dev/null; do echo >>taken; sleep 0.1; done");
    let slow = slow.replace("400ms", "1s");
    let mut daemon = Daemon::start(&slow.replace("echo line; exec sleep 1000", "yes | dd bs=1M 2>/dev/null"));
    wait_for("it takes some", || (daemon.read("taken").len() > 30).then_some(()));
    let child = daemon.child("patient");
    assert_eq!((child.restarts, child.state, child.problem), (0, ChildState::Up, None));
    daemon.ask(&Request::Shutdown { fast: true });
    daemon.wait_end();
}

#[test]
fn a_plugin_that_is_halted_while_bytes_wait_is_stalled() {
    let mut daemon = Daemon::start(
        r#"
        [children.source]
        command = ["sh", "-c", "until test -e go; do sleep 0.02; done; echo line; exec sleep 1000"]
        [children.logger]
        plugin = "logger"
        stalled = "400ms"
        stop_timeout = "100ms"
        settings = { file = "messages.log" }
        [[links]]
        from = "source"
        to = "logger"
        "#,
    );
    let pid = daemon.child_pid("logger");
    kill(pid, nix::libc::SIGSTOP);
    std::fs::write(daemon.path("go"), "").unwrap();
    daemon.wait_log("logger: stalled: bytes wait for it, and it took none for 0.4 s; sending SIGTERM");
    daemon.wait_replaced("logger", pid);
    wait_for("the line", || daemon.read_text("messages.log").ends_with(" line\n").then_some(()));
    daemon.stop();
}

#[test]
fn without_these_keys_the_daemon_sleeps() {
    // A check in an hour is the only timer.
    let config = patient("health = { command = [\"true\"], every = \"1h\" }\nstalled = \"50ms\"\n")
        + "[children.source]\ncommand = [\"sleep\", \"1000\"]\n[[links]]\nfrom = \"source\"\nto = \"patient\"\n";
    let mut daemon = Daemon::start(&config);
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap().trim().to_owned()
    };
    // A time in which it would have woken up many times.
    let quiet = (0..20).any(|_| {
        let before = switches();
        std::thread::sleep(Duration::from_millis(300));
        before == switches()
    });
    assert!(quiet);
    daemon.stop();
}

#[test]
#[ignore = "needs root"]
fn a_check_runs_as_the_user_of_its_child() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let mut daemon = Daemon::spawn_in(
        dir,
        r#"
        [children.patient]
        command = ["sleep", "1000"]
        user = "nobody"
        ready = "health"
        restart = "never"
        ready_timeout = "1000s"
        health = { command = ["sh", "-c", "echo $(id -un) $HOME >seen; test -e well || exec sleep 1000"], every = "10ms", timeout = "300ms", failures = 1 }
        "#,
    );
    let seen = wait_for("a check", || Some(daemon.read_text("seen")).filter(|text| text.ends_with('\n')));
    assert!(seen.starts_with("nobody "), "{seen}");
    // One that takes too long is killed, though it is another user's.
    std::fs::write(daemon.path("well"), "").unwrap();
    daemon.wait_child("patient", ChildState::Up);
    daemon.stop();
}
