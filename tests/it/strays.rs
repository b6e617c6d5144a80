//! Whatever a child started ends with the child, wherever it went, even if the supervisor was
//! killed.

use crate::daemon::{Daemon, alive, children_of, kill, strays, wait_for};
use crate::strace::Strace;
use nix::libc::{SIGCONT, SIGHUP, SIGKILL, SIGSTOP, SIGTERM};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, DaemonState};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Ways in which a child leaves a process behind. Each such process writes its pid to `$0`,
/// which stands for a file of its own, and goes on forever.
const SORTS: &[(&str, &str)] = &[
    ("session", "setsid sh -c 'echo $$ >> $0; exec sleep 1000' $0 &"),
    ("forked-twice", "(setsid setsid sh -c 'echo $$ >> $0; exec sleep 1000' $0 &)"),
    ("hangup", "nohup setsid sh -c 'echo $$ >> $0; exec sleep 1000' $0 &"),
    ("deaf", "setsid sh -c 'trap \\\"\\\" TERM HUP INT; echo $$ >> $0; while :; do sleep 1000; done' $0 &"),
    ("no-environment", "setsid env -i /bin/sh -c 'echo $$ >> $0; exec /bin/sleep 1000' $0 &"),
    ("orphan", "(setsid env -i /bin/sh -c 'echo $$ >> $0; exec /bin/sleep 1000' $0 &)"),
    (
        "below",
        "setsid sh -c 'setsid env -i /bin/sh -c \\\"echo \\\\$\\\\$ >> $0; exec /bin/sleep 1000\\\" $0 & wait' $0 &",
    ),
    ("busy", "setsid sh -c 'echo $$ >> $0; while :; do setsid sleep 0.01 & sleep 0.002; done' $0 &"),
    ("stopped", "setsid sh -c 'echo $$ >> $0; kill -STOP $$; sleep 1000' $0 &"),
    ("server", "(sh -c 'echo $$ >> $0; exec sleep 1000' $0; true) &"),
];

/// A child of each sort, which then does `then`.
fn one_of_each(then: &str, more: &str) -> String {
    let mut config = String::new();
    for (sort, start) in SORTS {
        let _never_fails = write!(
            config,
            "[children.{sort}]\ncommand = [\"sh\", \"-c\", \"\"\"{start}\n{then}\"\"\", \"left.{sort}\"]\n\
             stop_timeout = \"1000s\"\n{more}\n"
        );
    }
    config
}

/// The process that each sort has left behind the `nth` time.
fn left(daemon: &Daemon, nth: usize) -> Vec<i32> {
    let one = |sort: &str| {
        wait_for(&format!("{sort} has left something"), || {
            daemon.read_text(&format!("left.{sort}")).lines().nth(nth).and_then(|line| line.parse().ok())
        })
    };
    SORTS.iter().map(|(sort, _)| one(sort)).collect()
}

/// Checks that there are no processes except the daemon and its children's own.
fn assert_alone(daemon: &Daemon) {
    let mut known: BTreeSet<i32> = daemon.status().children.iter().filter_map(|child| child.pid).collect();
    known.insert(daemon.pid());
    let left: BTreeSet<i32> = strays(daemon.dir.path()).difference(&known).copied().collect();
    assert_eq!(left, BTreeSet::new(), "log:\n{}", daemon.log());
}

fn names() -> Vec<String> {
    SORTS.iter().map(|(sort, _)| (*sort).to_owned()).collect()
}

#[test]
fn what_a_child_left_behind_is_gone_before_its_replacement_starts() {
    let mut daemon =
        Daemon::start(&one_of_each("exec sleep 1000", "backoff = { first = \"0ms\", factor = 1.0, max = \"1ms\" }"));
    for nth in 0..3 {
        let before = left(&daemon, nth);
        for (sort, _) in SORTS {
            let stray = before[SORTS.iter().position(|(other, _)| other == sort).unwrap()];
            assert!(alive(stray), "{sort}");
            let pid = daemon.child_pid(sort);
            kill(pid, SIGKILL);
            daemon.wait_replaced(sort, pid);
            assert!(!alive(stray), "{sort} of {pid} was outlived by {stray}\nlog:\n{}", daemon.log());
        }
    }
    daemon.stop();
}

#[test]
fn what_a_child_left_behind_ends_when_it_ended_by_itself() {
    for code in [0, 3] {
        let then = format!("while ! test -e go; do sleep 0.01; done; exit {code}");
        let mut daemon = Daemon::start(&one_of_each(&then, "restart = \"never\""));
        let before = left(&daemon, 0);
        std::fs::write(daemon.path("go"), "").unwrap();
        for (sort, _) in SORTS {
            wait_for(&format!("{sort} has ended"), || {
                let state = daemon.child(sort).state;
                (state == ChildState::Down || state == ChildState::Failed).then_some(())
            });
        }
        assert!(before.into_iter().all(|pid| !alive(pid)));
        assert_alone(&daemon);
        daemon.stop();
    }
}

#[test]
fn what_a_child_left_behind_ends_when_it_is_stopped_restarted_or_removed() {
    let config = one_of_each("exec sleep 1000", "");
    let mut daemon = Daemon::start(&format!("{config}\n[children.other]\ncommand = [\"sleep\", \"1000\"]"));
    let before = left(&daemon, 0);
    daemon.done(&Request::Restart { children: names() });
    assert!(before.into_iter().all(|pid| !alive(pid)));
    left(&daemon, 1);
    daemon.done(&Request::Stop { children: names() });
    assert_alone(&daemon);
    daemon.done(&Request::Start { children: names() });
    left(&daemon, 2);
    daemon.reload("[children.other]\ncommand = [\"sleep\", \"1000\"]");
    assert_alone(&daemon);
    daemon.stop();
}

#[test]
fn a_stray_makes_no_shutdown_longer() {
    let mut daemon = Daemon::start(&one_of_each("exec sleep 1000", ""));
    left(&daemon, 0);
    // All children have a stop_timeout of 1000 s.
    daemon.stop();
}

#[test]
fn a_stray_that_holds_a_pipe_does_not_keep_the_sink_from_seeing_its_end() {
    for stray in ["setsid sh", "setsid env -i /bin/sh"] {
        let mut daemon = Daemon::start(&format!(
            r#"
            [daemon]
            stop_timeout = "1000s"
            [children.source]
            command = ["sh", "-c", """echo line; {stray} -c 'trap "" TERM; /bin/sleep 1000; :' & touch ready; exec sleep 1000"""]
            [children.filter]
            command = ["sh", "-c", "{stray} -c '/bin/sleep 1000; :' & exec cat"]
            [children.sink]
            command = ["sh", "-c", "cat > out"]
            [[links]]
            from = "source"
            to = "filter"
            [[links]]
            from = "filter"
            to = "sink"
            "#
        ));
        wait_for("a line is written", || daemon.path("ready").exists().then_some(()));
        daemon.stop();
        assert_eq!(daemon.read_text("out"), "line\n");
    }
}

#[test]
fn a_stray_of_a_living_child_is_left_alone() {
    let mut daemon = Daemon::start(&format!(
        "{}\n[children.other]\ncommand = [\"sleep\", \"1000\"]\n",
        one_of_each("exec sleep 1000", "")
    ));
    let all = left(&daemon, 0);
    for _ in 0..3 {
        let pid = daemon.child_pid("other");
        kill(pid, SIGKILL);
        daemon.wait_replaced("other", pid);
    }
    for (stray, (sort, _)) in all.into_iter().zip(SORTS) {
        assert!(alive(stray), "{sort}");
    }
    daemon.stop();
}

/// Until this is dropped, it takes the supervisor and the processes that look for it this many
/// milliseconds to open that file of that process in /proc.
fn slow_reads(daemon: &Daemon, of: i32, file: &str, ms: u32) -> Strace {
    let (trace, path) = (daemon.path("trace"), format!("/proc/{of}/{file}"));
    let late = format!("inject=openat:delay_enter={ms}000");
    let options = ["-f", "-o", trace.to_str().unwrap(), "-P", &path, "-e", "trace=openat", "-e", &late];
    Strace::attach(daemon.pid(), &options)
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_stray_whose_environment_cannot_be_read_at_first_is_ended_too() {
    // Only its environment shows whose it is.
    let mut daemon = Daemon::start(
        r#"
        [children.other]
        command = ["sleep", "1000"]
        [children.one]
        command = ["sh", "-c", "setsid sh -c 'echo $$ >> stray; exec sleep 1000' >/dev/null 2>&1 & exec sleep 1000"]
        "#,
    );
    for nth in 0..5 {
        let stray = wait_for("a stray", || daemon.read_text("stray").lines().nth(nth).and_then(|l| l.parse().ok()));
        let one = daemon.child_pid("one");
        let strace = slow_reads(&daemon, stray, "environ", 100);
        kill(one, SIGKILL);
        wait_for("another read, because one took too long", || {
            (daemon.read_text("trace").matches("environ").count() > 1).then_some(())
        });
        drop(strace);
        daemon.wait_replaced("one", one);
        if !daemon.log().contains(&format!("which child has left process {stray} behind; no longer waiting for it")) {
            assert!(!alive(stray), "log:\n{}", daemon.log());
            return daemon.stop();
        }
        // The machine was so busy that the time was up.
        kill(stray, SIGKILL);
    }
    panic!("nothing was read in time:\n{}", daemon.log());
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn the_child_of_a_stray_that_ends_while_it_is_looked_at_is_ended_too() {
    let mut daemon = Daemon::start(
        r#"
        [children.other]
        command = ["sleep", "1000"]
        [children.one]
        command = ["sh", "-c", """
        setsid sh -c '
        echo $$ > first
        while ! test -e go; do sleep 0.01; done
        setsid sh -c "echo \\$\\$ > second; exec sleep 1000" &
        while ! test -s second; do sleep 0.01; done' >/dev/null 2>&1 &
        exec sleep 1000
        """]
        "#,
    );
    let process = |name: &str| wait_for(name, || daemon.read_text(name).trim_end().parse().ok());
    let (one, first) = (daemon.child_pid("one"), process("first"));
    let strace = slow_reads(&daemon, first, "stat", 1000);
    kill(one, SIGKILL);
    wait_for("it is looked at", || daemon.read_text("trace").contains("stat").then_some(()));
    // It was listed, but before it is looked at, it has started a child of its own and died.
    std::fs::write(daemon.path("go"), "").unwrap();
    let second = process("second");
    wait_for("it is dead", || (!alive(first)).then_some(()));
    drop(strace);
    daemon.wait_replaced("one", one);
    assert!(!alive(second), "log:\n{}", daemon.log());
    daemon.stop();
}

/// Each generation starts the next, in a session of its own, and ends.
#[test]
fn a_stray_that_keeps_replacing_itself_is_ended_too() {
    let mut daemon = Daemon::start(
        r#"
        [children.one]
        command = ["sh", "-c", """
        echo 'echo >> generations; setsid sh racer &' > racer
        setsid sh racer &
        exec sleep 1000
        """]
        "#,
    );
    let count = || daemon.read("generations").len();
    wait_for("generations", || (count() > 20).then_some(()));
    daemon.done(&Request::Stop { children: vec!["one".to_owned()] });
    wait_for("it is gone", || (strays(daemon.dir.path()) == BTreeSet::from([daemon.pid()])).then_some(()));
    daemon.stop();
}

#[test]
fn a_lock_of_a_stray_is_free_for_the_next_process() {
    let mut daemon = Daemon::start(
        r#"
        [children.one]
        command = ["sh", "-c", """
        flock -n lock true && echo free >> locks || echo taken >> locks
        rm -f has
        setsid env -i /bin/sh -c 'exec 9>lock; /usr/bin/flock 9; echo > has; exec /bin/sleep 1000' &
        until test -s has; do sleep 0.01; done
        echo >&$PLUMBD_READY_FD
        exec sleep 1000
        """]
        ready = "fd"
        start_limit = { burst = 1000, within = "1s" }
        backoff = { first = "0ms", factor = 1.0, max = "1ms" }
        "#,
    );
    for _ in 0..10 {
        let pid = daemon.child_pid_when_up("one");
        kill(pid, SIGKILL);
        daemon.wait_replaced("one", pid);
    }
    assert_eq!(daemon.read_text("locks"), "free\n".repeat(11));
    daemon.stop();
}

#[test]
fn children_that_the_supervisor_had_before_it_began_are_not_strays() {
    let mut daemon = Daemon::start_after(
        r#"sleep 1000 & setsid sleep 1000 &
        sh -c 'until test -e go; do sleep 0.01; done; sleep 1000 & setsid sleep 1000 & echo $$ > later' &"#,
        r#"
        [children.one]
        command = ["sleep", "1000"]
        "#,
    );
    let others = || {
        let one = daemon.child_pid_when_up("one");
        let others: BTreeSet<i32> = children_of(daemon.pid()).into_iter().filter(|&pid| pid != one).collect();
        others
    };
    assert_eq!(others().len(), 3);
    std::fs::write(daemon.path("go"), "").unwrap();
    wait_for("two more orphans in place of their parent", || (others().len() == 4).then_some(()));
    let before = others();
    let pid = daemon.child_pid("one");
    kill(pid, SIGKILL);
    daemon.wait_replaced("one", pid);
    assert_eq!(others(), before);
    assert!(before.into_iter().all(alive));
    daemon.signal(SIGTERM);
    wait_for("only those are left", || (!strays(daemon.dir.path()).contains(&daemon.pid())).then_some(()));
    let spared = strays(daemon.dir.path());
    assert_eq!(spared.len(), 3, "those from before, and one in the supervisor's own session");
    spared.into_iter().for_each(|pid| kill(pid, SIGKILL));
    assert!(daemon.wait_end().success());
}

/// All sorts, and besides a shell that waits for its server, and one that ignores its signal.
fn killed_with_all_sorts() -> String {
    let config = one_of_each("exec sleep 1000", "").replace("\"1000s\"", "\"200ms\"");
    config
        + r#"
        [children.waits]
        command = ["sh", "-c", "sh -c 'echo $$ >> servers; exec sleep 1000'; true"]
        [children.ignores]
        command = ["sh", "-c", "trap '' TERM; echo $$ >> servers; while :; do sleep 1000; done"]
        stop_timeout = "200ms"
        "#
}

#[test]
fn a_start_ends_what_is_left_of_a_supervisor_that_was_killed() {
    let mut daemon = Daemon::start(&killed_with_all_sorts());
    let servers = |daemon: &Daemon, count: usize| {
        wait_for("servers", || {
            let text = daemon.read_text("servers");
            let pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
            (pids.len() == count).then_some(pids)
        })
    };
    for nth in 0..2 {
        let of_sorts = left(&daemon, nth);
        let mut before = servers(&daemon, 2 * (nth + 1)).split_off(2 * nth);
        for ((sort, _), pid) in SORTS.iter().zip(of_sorts) {
            // Nothing shows whose these are once their parents are gone.
            if ["no-environment", "orphan"].contains(sort) {
                kill(pid, SIGKILL);
            } else {
                before.push(pid);
            }
        }
        daemon.signal(SIGKILL);
        daemon.wait_killed();
        daemon.start_again();
        for pid in &before {
            assert!(!alive(*pid), "{pid} of {before:?}\nlog:\n{}", daemon.log());
        }
        daemon.wait_log("a supervisor that was killed has left process");
    }
    servers(&daemon, 6);
    left(&daemon, 2);
    daemon.stop();
}

#[test]
fn a_logger_of_a_killed_supervisor_is_given_its_time() {
    let mut daemon = Daemon::start(
        r#"
        [children.source]
        command = ["sh", "-c", "test -e second || { seq 1 1000; touch second; }; exec sleep 1000"]
        [children.logger]
        plugin = "logger"
        stop_timeout = "1ms"
        settings = { file = "messages.log", format = "raw" }
        [[links]]
        from = "source"
        to = "logger"
        "#,
    );
    let saved = || daemon.read_text("messages.log").lines().count();
    let logger = daemon.child_pid_when_up("logger");
    wait_for("all is saved", || (saved() == 1000 && daemon.path("second").exists()).then_some(()));
    kill(logger, SIGSTOP);
    std::fs::remove_file(daemon.path("second")).unwrap();
    let source = daemon.child_pid("source");
    kill(source, SIGKILL);
    daemon.wait_replaced("source", source);
    wait_for("a thousand lines wait", || daemon.path("second").exists().then_some(()));
    daemon.signal(SIGKILL);
    daemon.wait_killed();
    daemon.spawn_again();
    daemon.wait_log("logger: a supervisor that was killed has left process");
    assert!(alive(logger));
    kill(logger, SIGCONT);
    daemon.wait_state(DaemonState::Running);
    assert!(!alive(logger));
    assert_eq!(daemon.read_text("messages.log").lines().count(), 2000);
    daemon.stop();
}

/// A child that ignores its signal, with a very long time to stop.
const IGNORES: &str = r#"
    [children.ignores]
    command = ["sh", "-c", "trap '' TERM; echo $$ >> servers; while :; do sleep 1000; done"]
    stop_timeout = "1000s"
    "#;

#[test]
fn a_start_that_waits_for_leftover_processes_can_be_ended() {
    for signals in [vec![SIGTERM], vec![SIGHUP, SIGTERM]] {
        let mut daemon = Daemon::start(IGNORES);
        let left = daemon.child_pid("ignores");
        wait_for("it ignores", || daemon.path("servers").exists().then_some(()));
        daemon.signal(SIGKILL);
        daemon.wait_killed();
        daemon.spawn_again();
        daemon.wait_log("ignores: a supervisor that was killed has left process");
        for signal in signals {
            daemon.signal(signal);
        }
        wait_for("it has ended", || daemon.has_ended());
        daemon.wait_log("cannot start: told to stop while ending what a supervisor that was killed has left");
        assert!(alive(left));
        strays(daemon.dir.path()).into_iter().for_each(|pid| kill(pid, SIGKILL));
        assert_eq!(daemon.wait_end().code(), Some(1));
    }
}

#[test]
fn what_another_supervisor_has_left_is_not_touched() {
    let (mut killed, mut other) = (Daemon::start(IGNORES), Daemon::start(IGNORES));
    let left = killed.child_pid("ignores");
    wait_for("it ignores", || killed.path("servers").exists().then_some(()));
    killed.signal(SIGKILL);
    killed.wait_killed();
    other.signal(SIGKILL);
    other.wait_killed();
    let others = strays(other.dir.path());
    others.into_iter().for_each(|pid| kill(pid, SIGKILL));
    other.start_again();
    assert!(alive(left));
    // Nor is it touched while its supervisor lives. The name of the control socket is gone, so another
    // supervisor can start.
    let living = other.child_pid("ignores");
    std::fs::remove_file(other.path("plumbd.sock")).unwrap();
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_plumbd"))
        .args(["run", "-c", "plumbd.toml"])
        .current_dir(other.dir.path())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut second = second.unwrap();
    other.wait_state(DaemonState::Running);
    assert!(alive(living));
    second.kill().unwrap();
    second.wait().unwrap();
    for daemon in [&mut killed, &mut other] {
        daemon.signal(SIGKILL);
        daemon.wait_killed();
        strays(daemon.dir.path()).into_iter().for_each(|pid| kill(pid, SIGKILL));
        daemon.wait_end();
    }
}

#[test]
fn what_a_plumbd_below_another_leaves_ends_with_it() {
    let plumbd = env!("CARGO_BIN_EXE_plumbd");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("inner.toml"),
        r#"
        [daemon]
        control = "inner.sock"
        [children.server]
        command = ["sh", "-c", "setsid env -i /bin/sh -c 'echo $$ >> $0; exec /bin/sleep 1000' inner.strays & trap '' TERM; echo $$ >> servers; while :; do sleep 1000; done"]
        stop_timeout = "100ms"
        "#,
    )
    .unwrap();
    let config = format!(
        r#"
        [children.inner]
        command = ["{plumbd}", "run", "-c", "inner.toml"]
        [children.other]
        command = ["sleep", "1000"]
        "#
    );
    let mut daemon = Daemon::spawn_in(dir, &config);
    let nth = |name: &str, nth: usize| -> i32 {
        wait_for(name, || daemon.read_text(name).lines().nth(nth).and_then(|line| line.parse().ok()))
    };
    for at in 0..3 {
        let (server, stray) = (nth("servers", at), nth("inner.strays", at));
        let inner = daemon.child_pid_when_up("inner");
        kill(inner, SIGKILL);
        daemon.wait_replaced("inner", inner);
        assert!(!alive(server), "log:\n{}", daemon.log());
        // Nothing shows whose it is, so it ends once nothing is left that may have started it.
        kill(stray, SIGKILL);
    }
    let (server, stray) = (nth("servers", 3), nth("inner.strays", 3));
    daemon.signal(SIGKILL);
    daemon.wait_killed();
    kill(stray, SIGKILL);
    daemon.start_again();
    assert!(!alive(server));
    daemon.stop();
}

#[test]
fn what_a_killed_supervisor_left_is_found_even_if_a_reload_had_moved_its_control_socket() {
    let config = IGNORES.replace("1000s", "100ms");
    let mut daemon = Daemon::spawn(&format!("[daemon]\ncontrol = \"other.sock\"\n{config}"));
    let servers = || daemon.read_text("servers").lines().count();
    wait_for("it ignores", || (servers() == 1 && daemon.path("other.sock").exists()).then_some(()));
    daemon.configure(&config);
    daemon.signal(SIGHUP);
    daemon.wait_state(DaemonState::Running);
    let before = daemon.child_pid("ignores");
    kill(before, SIGKILL);
    let left = daemon.wait_replaced("ignores", before);
    wait_for("it ignores again", || (servers() == 2).then_some(()));
    daemon.signal(SIGKILL);
    daemon.wait_killed();
    daemon.start_again();
    assert!(!alive(left), "log:\n{}", daemon.log());
    daemon.stop();
}
