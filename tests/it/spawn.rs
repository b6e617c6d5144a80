//! What a child starts with, and what is reported if it can't start.

use crate::daemon::{self, Daemon, alive, kill, wait_for};
use plumbd::control::Request;
use plumbd::control::status::ChildState;
use std::collections::{BTreeMap, BTreeSet};

/// A child's descriptors: their numbers, and their targets from proc(5).
fn descriptors(pid: i32) -> BTreeMap<i32, String> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let each = folder.map(|entry| {
        let entry = entry.unwrap();
        // It may have been closed since.
        let target = std::fs::read_link(entry.path()).unwrap_or_default().to_str().unwrap().to_owned();
        (entry.file_name().to_str().unwrap().parse().unwrap(), target)
    });
    each.collect()
}

/// A field of proc_pid_status(5).
fn status_field(pid: i32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
}

fn environment(pid: i32) -> BTreeMap<String, String> {
    daemon::environment(pid).into_iter().collect()
}

#[test]
fn a_child_has_the_descriptors_that_it_was_given_and_no_other() {
    // The daemon itself is started with an extra descriptor. (This sink does not see the end of
    // its input, so the daemon's end does not wait for it.)
    let mut daemon = Daemon::start_after(
        "exec 9</etc/passwd",
        r#"
        [daemon]
        stop_timeout = "0ms"
        [children.alone]
        command = ["sleep", "1000"]
        [children.source]
        command = ["sleep", "1000"]
        [children.sink]
        command = ["sleep", "1000"]
        listen = ["tcp://127.0.0.1:0", "unix:here.sock"]
        ready = "exec"
        [[links]]
        from = "source"
        to = "sink"
        "#
        .replace("127.0.0.1:0", &format!("127.0.0.1:{}", daemon::free_port()))
        .as_str(),
    );
    // While it starts, the program itself opens some files.
    let settled = |name: &str, expected: &[i32]| {
        let pid = daemon.child_pid(name);
        wait_for(&format!("{name} has {expected:?}, not {:?}", descriptors(pid)), || {
            Some(descriptors(pid)).filter(|all| all.keys().copied().eq(expected.iter().copied()))
        })
    };
    let alone = settled("alone", &[0, 1, 2, 3]);
    let source = settled("source", &[0, 1, 2, 3]);
    let sink = settled("sink", &[0, 1, 2, 3, 4, 5]);

    assert_eq!(alone[&0], "/dev/null");
    assert!(alone[&1].starts_with("pipe:") && alone[&1] == alone[&2], "{alone:?}");
    assert!(alone[&3].starts_with("/memfd:plumbd-settings"), "{alone:?}");

    assert_eq!(source[&1], sink[&0], "the link");
    assert!(sink[&3].starts_with("socket:") && sink[&4].starts_with("socket:"), "{sink:?}");
    let logs = BTreeSet::from([&alone[&2], &source[&2], &sink[&2], &sink[&0]]);
    assert_eq!(logs.len(), 4, "a log pipe each, and the link");
    daemon.stop();
}

#[test]
fn a_child_starts_with_nothing_blocked_ignored_or_caught() {
    let mut daemon = Daemon::start_after(
        "trap '' PIPE USR2 QUIT 40 64",
        r#"
        [children.one]
        command = ["sleep", "1000"]
        "#,
    );
    let pid = daemon.child_pid("one");
    for field in ["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"] {
        assert_eq!(status_field(pid, field), "0000000000000000", "{field}");
    }
    daemon.stop();
}

#[test]
fn umask_directory_limits_and_session_are_as_configured() {
    let mut daemon = Daemon::start_after(
        "umask 0077; ulimit -n 500",
        r#"
        [children.default]
        command = ["sleep", "1000"]
        [children.other]
        command = ["sleep", "1000"]
        directory = "/"
        umask = "0027"
        limits = { nofile = 77, core = 0 }
        "#,
    );
    let (default, other) = (daemon.child_pid("default"), daemon.child_pid("other"));
    assert_eq!((status_field(default, "Umask"), status_field(other, "Umask")), ("0022".into(), "0027".into()));
    let cwd = |pid: i32| std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    assert_eq!(cwd(default), daemon.dir.path().canonicalize().unwrap());
    assert_eq!(cwd(other), std::path::Path::new("/"));
    let limit = |pid: i32, name: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let mut fields = line.split_ascii_whitespace();
        (fields.next().unwrap().to_owned(), fields.next().unwrap().to_owned())
    };
    assert_eq!(limit(default, "Max open files").0, "500");
    assert_eq!(limit(other, "Max open files"), ("77".into(), "77".into()));
    assert_eq!(limit(other, "Max core file size"), ("0".into(), "0".into()));
    for pid in [default, other] {
        let of = nix::unistd::Pid::from_raw(pid);
        assert_eq!(nix::unistd::getsid(Some(of)).unwrap(), of, "a session of its own");
        assert_eq!(nix::unistd::getpgid(Some(of)).unwrap(), of, "a process group of its own");
    }
    daemon.stop();
}

#[test]
fn the_environment_is_the_minimal_one_and_what_was_asked_for() {
    let first = "export PATH=/usr/bin:/bin LANG=C.UTF-8 TZ=UTC SECRET=no WANTED=yes; unset ABSENT";
    let mut daemon = Daemon::start_after(
        first,
        r#"
        [children.minimal]
        command = ["/bin/sleep", "1000"]
        [children.more]
        command = ["/bin/sleep", "1000"]
        environment = { GREETING = "hello, world", PATH = "/bin" }
        pass_environment = ["WANTED", "ABSENT"]
        "#,
    );
    let expected = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let given = |name: &str| {
        let pid = daemon.child_pid(name);
        let mut given = environment(pid);
        // This mark identifies what the child starts. It ends with the child's own pid.
        let mark = given.remove("PLUMBD_START").unwrap();
        assert!(mark.contains(&format!(":{}.", daemon.pid())), "{mark}");
        assert!(mark.contains(&format!(":{name}:")) && mark.ends_with(&format!(":{pid}")), "{mark}");
        given
    };
    assert_eq!(
        given("minimal"),
        expected(&[
            ("PATH", "/usr/bin:/bin"),
            ("LANG", "C.UTF-8"),
            ("TZ", "UTC"),
            ("PLUMBD_CHILD", "minimal"),
            ("PLUMBD_SETTINGS", "3"),
        ])
    );
    assert_eq!(
        given("more"),
        expected(&[
            ("PATH", "/bin"),
            ("LANG", "C.UTF-8"),
            ("TZ", "UTC"),
            ("GREETING", "hello, world"),
            ("WANTED", "yes"),
            ("PLUMBD_CHILD", "more"),
            ("PLUMBD_SETTINGS", "3"),
        ])
    );
    daemon.stop();
}

#[test]
fn listening_sockets_come_as_sd_listen_fds_has_them() {
    let port = daemon::free_port();
    let config = format!(
        r#"
        [children.one]
        command = ["sleep", "1000"]
        listen = ["tcp://127.0.0.1:{port}", "unix:here.sock", "udp://127.0.0.1:{port}"]
        "#
    );
    let mut daemon = Daemon::start(&config);
    // Each new process after a death has its own pid in LISTEN_PID.
    for _ in 0..2 {
        let pid = daemon.child_pid("one");
        let environment = environment(pid);
        assert_eq!(environment["LISTEN_FDS"], "3");
        assert_eq!(environment["LISTEN_PID"], pid.to_string());
        assert_eq!(environment["LISTEN_FDNAMES"], "tcp:unix:udp");
        let descriptors = descriptors(pid);
        assert!((3..6).all(|fd| descriptors[&fd].starts_with("socket:")), "{descriptors:?}");
        daemon.connect(port);
        kill(pid, nix::libc::SIGKILL);
        daemon.wait_replaced("one", pid);
    }
    daemon.stop();
    assert!(!daemon.path("here.sock").exists(), "the Unix socket's name is left behind");
}

#[test]
fn settings_are_json_at_each_start_and_cannot_be_written_to() {
    let mut daemon = Daemon::start(
        r#"
        [children.one]
        command = ["sh", "-c", """
        cat <&$PLUMBD_SETTINGS >> read
        echo >> read
        echo x >&$PLUMBD_SETTINGS || echo refused >> refused
        exec sleep 1000
        """]
        settings = { answer = 42, words = ["a", "ü"] }
        "#,
    );
    for starts in 1..=3 {
        wait_for("settings are read", || (daemon.read_text("refused").lines().count() == starts).then_some(()));
        let pid = daemon.child_pid("one");
        kill(pid, nix::libc::SIGKILL);
        daemon.wait_replaced("one", pid);
    }
    for line in daemon.read_text("read").lines() {
        let settings: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(settings, serde_json::json!({"answer": 42, "words": ["a", "ü"]}));
    }
    daemon.stop();
}

#[test]
fn children_die_with_the_supervisor() {
    let mut daemon = Daemon::start(
        r#"
        [children.one]
        command = ["sleep", "1000"]
        [children.source]
        command = ["sh", "-c", "while :; do echo line; sleep 0.01; done"]
        [children.sink]
        command = ["cat"]
        [[links]]
        from = "source"
        to = "sink"
        "#,
    );
    let pids = ["one", "source", "sink"].map(|name| daemon.child_pid(name));
    daemon.signal(nix::libc::SIGKILL);
    daemon.wait_end();
    assert!(pids.iter().all(|&pid| !alive(pid)));
    // The socket that it left behind does not hinder the next daemon.
    daemon.start_again();
    assert!(daemon.status().all_up());
    daemon.stop();
}

#[test]
fn a_directory_that_vanished_is_reported_and_the_child_starts_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("there")).unwrap();
    let mut daemon = Daemon::spawn_in(
        dir,
        r#"
        [children.one]
        command = ["sleep", "1000"]
        directory = "there"
        backoff = { first = "1ms", factor = 1.0 }
        start_limit = { burst = 3, within = "60s" }
        "#,
    );
    let one = daemon.wait_child("one", ChildState::Up);
    std::fs::remove_dir(daemon.path("there")).unwrap();
    kill(one.pid.unwrap(), nix::libc::SIGKILL);
    let problem = daemon.wait_child("one", ChildState::Failed).problem.unwrap();
    assert!(problem.contains("cannot start: changing the directory: No such file or directory"), "{problem}");
    let (status, _, err) = daemon.ask(&Request::Start { children: vec!["one".into()] });
    assert_eq!(status, 1);
    assert!(err.contains("changing the directory: No such file or directory"), "{err}");
    // No attempt is under way that began before the folder was there.
    daemon.wait_child("one", ChildState::Failed);
    std::fs::create_dir(daemon.path("there")).unwrap();
    daemon.done(&Request::Start { children: vec!["one".into()] });
    assert_eq!(daemon.child("one").problem, None);
    daemon.stop();
}

#[test]
fn what_a_child_prints_is_in_the_log_with_its_name_and_priority() {
    let mut daemon = Daemon::start(
        r#"
        [daemon]
        log_level = "debug"
        [children.talker]
        command = ["sh", "-c", """
        echo to standard output
        echo to standard error >&2
        echo '<3>an error' >&2
        echo '<7>a detail'
        printf 'esc \\033[31m nul \\000 bad \\377 end\\n'
        printf 'no newline at its end'
        """]
        restart = "never"
        "#,
    );
    daemon.wait_log("no newline at its end\n");
    let log = daemon.log();
    for expected in [
        " INFO talker: to standard output\n",
        " INFO talker: to standard error\n",
        " ERROR talker: an error\n",
        " DEBUG talker: a detail\n",
        " INFO talker: esc \\x1b[31m nul \\x00 bad \\xff end\n",
        " INFO talker: no newline at its end\n",
    ] {
        assert!(log.contains(expected), "{expected:?} is not in {log}");
    }
    daemon.stop();
}

#[test]
fn entries_below_the_log_level_are_left_out() {
    let mut daemon = Daemon::start(
        r#"
        [daemon]
        log_level = "warn"
        [children.talker]
        command = ["sh", "-c", "echo '<6>quiet'; echo '<4>loud'"]
        restart = "never"
        "#,
    );
    daemon.wait_log("WARN talker: loud");
    assert!(!daemon.log().contains("quiet"));
    daemon.stop();
}
