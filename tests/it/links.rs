//! Links between ordinary programs: what flows through them, what waits in them, and that
//! they outlive both ends.

use crate::daemon::{Daemon, alive, kill, wait_for};
use plumbd::control::Request;
use plumbd::control::status::ChildState;

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
    daemon.wait_child("source", ChildState::Down);
    daemon.stop();
}

#[test]
fn two_programs_talk_both_ways_over_two_pipes() {
    let mut daemon = Daemon::start(
        r#"
        [daemon]
        stop_timeout = "1000s"
        [children.host]
        command = ["sh", "-c", "echo 'Hello, who are you?'; read -r answer; echo \"$answer\" > host; cat > /dev/null"]
        [children.guest]
        command = ["sh", "-c", "read -r question; echo \"$question\" > guest; echo 'Hi, I am the guest!'; cat > /dev/null"]
        [[links]]
        from = "host"
        to = "guest"
        [[links]]
        from = "guest"
        to = "host"
        "#,
    );
    wait_for("the answer", || (daemon.read_text("host") == "Hi, I am the guest!\n").then_some(()));
    assert_eq!(daemon.read_text("guest"), "Hello, who are you?\n");
    // Neither sees the end of its input before the other has ended. So the first one is asked
    // to stop, rather than waited for until its deadline.
    daemon.stop();
}

#[test]
fn several_sources_flow_into_one_sink_by_whole_lines() {
    let source = |name: &str| {
        format!(
            r#"
            [children.{name}]
            command = ["sh", "-c", "n=0; while test $n -lt 500; do n=$((n+1)); echo {name} $n; done"]
            restart = "never"
            [[links]]
            from = "{name}"
            to = "sink"
            "#
        )
    };
    let sink = "[children.sink]\ncommand = [\"sh\", \"-c\", \"cat > out\"]\n";
    let mut daemon = Daemon::start(&[sink, &source("one"), &source("two"), &source("three")].concat());
    wait_for("all lines", || (daemon.read_text("out").lines().count() == 1500).then_some(()));
    let out = daemon.read_text("out");
    for name in ["one", "two", "three"] {
        let lines: Vec<&str> = out.lines().filter(|line| line.starts_with(name)).collect();
        let expected: Vec<String> = (1..=500).map(|n| format!("{name} {n}")).collect();
        assert_eq!(lines, expected, "in their order, whole");
    }
    daemon.stop();
}

#[test]
fn a_slow_sink_holds_its_source_back_and_nothing_is_lost() {
    let mut daemon = Daemon::start(
        r#"
        [children.source]
        command = ["sh", "-c", "head -c 3000000 /dev/zero && echo done > done"]
        restart = "never"
        [children.sink]
        command = ["sh", "-c", "while ! test -e go; do sleep 0.01; done; cat > out"]
        [[links]]
        from = "source"
        to = "sink"
        capacity = "64KiB"
        "#,
    );
    let full = wait_for("pressure", || {
        let link = daemon.link("source", "sink");
        assert!(link.queued_bytes <= link.capacity_bytes, "{link:?}");
        (link.queued_bytes == link.capacity_bytes).then_some(link)
    });
    assert_eq!(full.capacity_bytes, 65536);
    wait_for("a stall is reported", || (daemon.link("source", "sink").stalled_for_ms > 20).then_some(()));
    assert_eq!(daemon.child("source").state, ChildState::Up);
    assert!(!daemon.path("done").exists(), "the source waits");
    std::fs::write(daemon.path("go"), "").unwrap();
    wait_for("all of it", || (daemon.read("out").len() == 3_000_000).then_some(()));
    daemon.wait_child("source", ChildState::Down);
    wait_for("the stall is over", || (daemon.link("source", "sink").stalled_for_ms == 0).then_some(()));
    daemon.stop();
    assert_eq!(daemon.read("out").len(), 3_000_000);
}

#[test]
fn a_link_keeps_what_is_in_it_while_both_ends_die_and_come_back() {
    let mut daemon = Daemon::start(
        r#"
        [children.source]
        command = ["sh", "-c", "test -e once || { touch once; echo one; echo two; }; exec sleep 1000"]
        backoff = { factor = 1.0, max = "0ms" }
        start_limit = { burst = 1000, within = "60s" }
        [children.sink]
        command = ["sh", "-c", "test -e go || exec sleep 1000; cat > out"]
        backoff = { factor = 1.0, max = "0ms" }
        start_limit = { burst = 1000, within = "60s" }
        [[links]]
        from = "source"
        to = "sink"
        "#,
    );
    wait_for("both lines wait", || (daemon.link("source", "sink").queued_bytes == 8).then_some(()));
    for _ in 0..20 {
        for name in ["source", "sink"] {
            let pid = daemon.child_pid(name);
            kill(pid, nix::libc::SIGKILL);
            daemon.wait_replaced(name, pid);
        }
        assert_eq!(daemon.link("source", "sink").queued_bytes, 8);
    }
    let pid = daemon.child_pid("sink");
    wait_for("it has seen that it must read nothing", || {
        (std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n").then_some(())
    });
    std::fs::write(daemon.path("go"), "").unwrap();
    kill(pid, nix::libc::SIGKILL);
    daemon.wait_replaced("sink", pid);
    wait_for("both lines arrive", || (daemon.read_text("out") == "one\ntwo\n").then_some(()));
    assert_eq!((daemon.child("source").restarts, daemon.child("sink").restarts), (20, 21));
    daemon.stop();
}

#[test]
fn what_a_killed_source_has_written_arrives_exactly_once() {
    let mut daemon = Daemon::start(
        r#"
        [children.source]
        command = ["sh", "-c", "n=0; while :; do n=$((n+1)); echo line $n; done"]
        backoff = { factor = 1.0, max = "0ms" }
        start_limit = { burst = 1000, within = "60s" }
        [children.sink]
        command = ["sh", "-c", "exec cat > out"]
        [[links]]
        from = "source"
        to = "sink"
        capacity = "64KiB"
        "#,
    );
    let sink = daemon.child_pid("sink");
    for kills in 1..=30 {
        let pid = daemon.child_pid("source");
        let before = daemon.read("out").len();
        wait_for("it flows", || (daemon.read("out").len() > before).then_some(()));
        kill(pid, nix::libc::SIGKILL);
        wait_for("a replacement", || (daemon.child("source").restarts >= kills).then_some(()));
    }
    daemon.done(&Request::Stop { children: vec!["source".into()] });
    wait_for("the link is empty", || (daemon.link("source", "sink").queued_bytes == 0).then_some(()));
    assert_eq!(daemon.child_pid("sink"), sink);
    daemon.stop();
    // Each process counts from 1. Every line is whole, and none is missing or there twice.
    let mut runs = 0;
    let mut last = 0;
    for line in daemon.read_text("out").lines() {
        let number: u64 = line.strip_prefix("line ").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{line:?}"));
        if number == 1 {
            runs += 1;
        } else {
            assert_eq!(number, last + 1);
        }
        last = number;
    }
    assert!((20..=31).contains(&runs), "{runs} processes wrote something");
}

#[test]
fn a_killed_sink_loses_only_what_it_had_read() {
    let mut daemon = Daemon::start(
        r#"
        [children.source]
        command = ["sh", "-c", "seq 1 100000; exec sleep 1000"]
        [children.sink]
        command = ["dd", "bs=1", "status=none", "of=out", "oflag=append", "conv=notrunc"]
        backoff = { factor = 1.0, max = "0ms" }
        start_limit = { burst = 1000, within = "60s" }
        [[links]]
        from = "source"
        to = "sink"
        "#,
    );
    let source = daemon.child_pid("source");
    let expected: Vec<u8> = (1..=100000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let mut kills = 0;
    while daemon.read("out").len() + 10_000 < expected.len() && kills < 30 {
        let before = daemon.read("out").len();
        wait_for("some more", || (daemon.read("out").len() > before + 500).then_some(()));
        let pid = daemon.child_pid("sink");
        kill(pid, nix::libc::SIGKILL);
        daemon.wait_replaced("sink", pid);
        kills += 1;
    }
    assert!(kills > 3, "{kills}");
    wait_for("the link is empty", || (daemon.link("source", "sink").queued_bytes == 0).then_some(()));
    assert_eq!(daemon.child_pid("source"), source);
    daemon.stop();
    // It reads one byte at a time, so each kill can lose one byte, and nothing
    // comes twice or in another order.
    let out = daemon.read("out");
    let mut rest = expected.iter();
    assert!(out.iter().all(|byte| rest.any(|other| other == byte)), "out of order, or twice");
    assert!(out.len() + kills >= expected.len(), "{} of {} bytes after {kills} kills", out.len(), expected.len());
}

#[test]
fn a_stopped_sink_finds_everything_when_it_is_started_again() {
    let mut daemon = Daemon::start(
        r#"
        [children.source]
        command = ["sh", "-c", "while ! test -e go; do sleep 0.01; done; seq 1 5000; touch written; exec sleep 1000"]
        [children.sink]
        command = ["sh", "-c", "exec cat > out"]
        [[links]]
        from = "source"
        to = "sink"
        "#,
    );
    let expected: String = (1..=5000).map(|n| format!("{n}\n")).collect();
    daemon.done(&Request::Stop { children: vec!["sink".into()] });
    std::fs::write(daemon.path("go"), "").unwrap();
    wait_for("it is written", || daemon.path("written").exists().then_some(()));
    assert_eq!(daemon.link("source", "sink").queued_bytes, expected.len() as u64);
    daemon.done(&Request::Start { children: vec!["sink".into()] });
    wait_for("all of it", || (daemon.read_text("out") == expected).then_some(()));
    daemon.stop();
}

#[test]
fn a_source_whose_sink_is_down_waits_rather_than_dies() {
    // The supervisor holds the sink's end too, so there is no SIGPIPE.
    let mut daemon = Daemon::start(
        r#"
        [children.source]
        command = ["sh", "-c", "while ! test -e go; do sleep 0.01; done; head -c 100000 /dev/zero && touch written; exec sleep 1000"]
        [children.sink]
        command = ["sh", "-c", "exec cat > out"]
        [[links]]
        from = "source"
        to = "sink"
        capacity = "64KiB"
        "#,
    );
    let source = daemon.child_pid("source");
    daemon.done(&Request::Stop { children: vec!["sink".into()] });
    std::fs::write(daemon.path("go"), "").unwrap();
    wait_for("the link is full", || (daemon.link("source", "sink").queued_bytes == 65536).then_some(()));
    assert!(alive(source) && !daemon.path("written").exists());
    daemon.done(&Request::Start { children: vec!["sink".into()] });
    wait_for("all of it", || (daemon.read("out").len() == 100_000).then_some(()));
    assert_eq!(daemon.child_pid("source"), source);
    daemon.stop();
}

#[test]
fn a_link_gets_the_most_that_the_kernel_grants_if_that_is_less_than_asked_for() {
    let most: u64 = std::fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap().trim().parse().unwrap();
    let config = |asked: u64| {
        format!(
            r#"
            [children.source]
            command = ["sleep", "1000"]
            [children.sink]
            command = ["cat"]
            [[links]]
            from = "source"
            to = "sink"
            capacity = "{asked}B"
            "#
        )
    };
    // Root may exceed the limit, unless it gives up the capability.
    let first = if nix::unistd::geteuid().is_root() {
        "exec setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource -- \"$0\" run -c plumbd.toml"
    } else {
        ""
    };
    let mut daemon = Daemon::start_after(first, &config(4 * most));
    assert_eq!(daemon.link("source", "sink").capacity_bytes, most);
    daemon.wait_log(&format!("link source -> sink: the kernel grants {most} of {} bytes", 4 * most));
    // This is also reported when a reload enlarges it.
    daemon.reload(&config(most / 4));
    assert_eq!(daemon.link("source", "sink").capacity_bytes, most / 4);
    daemon.reload(&config(3 * most));
    assert_eq!(daemon.link("source", "sink").capacity_bytes, most);
    daemon.wait_log(&format!("link source -> sink: the kernel grants {most} of {} bytes", 3 * most));
    daemon.stop();
}

#[test]
fn if_only_a_part_of_a_link_can_be_made_smaller_the_other_is_named() {
    let config = |capacity: u32| {
        format!(
            r#"
            [children.source]
            command = ["sleep", "1000"]
            [children.sink]
            command = ["sh", "-c", '''
                staging=$(printf %s "$PLUMBD_LINKS" | sed 's/.*"staging":.[0-9]*,\([0-9]*\).*/\1/')
                head -c 60000 /dev/zero > /proc/self/fd/$staging
                touch filled
                while ! test -e go; do sleep 0.01; done
                head -c 60000 < /proc/self/fd/$staging > /dev/null
                touch emptied
                exec cat > /dev/null
            ''']
            [[links]]
            from = "source"
            to = "sink"
            protocol = "records"
            capacity = "{capacity}B"
            "#
        )
    };
    let mut daemon = Daemon::start(&config(65536));
    wait_for("staging is filled", || daemon.path("filled").exists().then_some(()));
    daemon.reload(&config(16384));
    assert_eq!(daemon.link("source", "sink").capacity_bytes, 16384);
    daemon.wait_log("cannot set the capacity of its staging to 16384 bytes: ");
    daemon.wait_log("; the staging stays as it was");
    std::fs::write(daemon.path("go"), "").unwrap();
    wait_for("staging is empty", || daemon.path("emptied").exists().then_some(()));
    daemon.stop();
}
