//! Signals to the supervisor and to built-in plugins, including those that are not sent
//! on purpose, and which processes a child's stop signal reaches.

use crate::daemon::{Daemon, alive, children_of, echo_and_logger, free_port, kill, send, wait_for};
use nix::libc::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGKILL, SIGPIPE, SIGPROF, SIGPWR, SIGQUIT, SIGRTMAX, SIGRTMIN, SIGSTKFLT, SIGSTOP,
    SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, Ended};
use std::io::{Read, Write};

const ONE: &str = "[children.one]\ncommand = [\"sleep\", \"1000\"]\n";

fn named(name: &str) -> Vec<String> {
    vec![name.to_owned()]
}

#[test]
fn sigquit_ends_it_in_order_and_its_sender_is_logged() {
    let mut daemon = Daemon::start(
        r#"
        [children.source]
        command = ["sh", "-c", "trap 'seq 1 1000; exit 0' TERM; echo >&$PLUMBD_READY_FD; while :; do sleep 0.01; done"]
        ready = "fd"
        [children.sink]
        command = ["sh", "-c", "cat > out"]
        [[links]]
        from = "source"
        to = "sink"
        "#,
    );
    daemon.signal(SIGQUIT);
    assert!(daemon.wait_end().success());
    assert_eq!(daemon.read_text("out").lines().count(), 1000);
    assert!(!daemon.path("plumbd.sock").exists());
    let (pid, uid) = (std::process::id(), nix::unistd::getuid());
    let log = daemon.log();
    assert!(log.contains(&format!("SIGQUIT from process {pid} (")), "{log}");
    assert!(log.contains(&format!(") of user {uid}\n")), "{log}");
}

#[test]
fn unintended_signals_are_logged_and_otherwise_ignored() {
    let mut daemon = Daemon::start(ONE);
    let one = daemon.child_pid("one");
    let real_time = [SIGRTMIN(), SIGRTMIN() + 6, SIGRTMAX()];
    for signal in
        [SIGUSR2, SIGALRM, SIGSTKFLT, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGIO, SIGPWR].into_iter().chain(real_time)
    {
        send(daemon.pid(), signal);
        let name = plumbd::sys::process::signal_name(signal);
        wait_for(&format!("{name} in the log"), || {
            let log = daemon.log();
            log.lines().find(|line| line.contains(&format!("{name} from process ")) && line.ends_with(": ignored"))?;
            Some(())
        });
    }
    send(daemon.pid(), SIGPIPE);
    assert_eq!(daemon.child_pid("one"), one);
    // A child is not affected.
    kill(one, SIGKILL);
    let one = daemon.wait_replaced("one", one);
    kill(one, SIGALRM);
    daemon.wait_replaced("one", one);
    assert_eq!(daemon.child("one").last_exit.unwrap().how, Ended::Signal("SIGALRM".to_owned()));
    daemon.stop();
}

#[test]
fn plugins_do_not_get_signals_that_are_sent_to_all_processes_called_plumbd() {
    let port = free_port();
    let mut daemon = Daemon::start(&echo_and_logger(port));
    let mut client = daemon.connect(port);
    let [echo, logger] = ["echo", "logger"].map(|name| daemon.child_pid(name));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGUSR2, SIGALRM, SIGPROF, SIGXCPU, SIGPWR, SIGRTMIN() + 3] {
        send(echo, signal);
        send(logger, signal);
        client.write_all(b"a message\n").unwrap();
        client.read_exact(&mut [0; 10]).unwrap();
    }
    assert_eq!(["echo", "logger"].map(|name| daemon.child_pid(name)), [echo, logger]);
    assert_eq!(daemon.read_text("messages.log").lines().count(), 10);
    daemon.stop();
}

#[test]
fn stop_signals_of_job_control_work() {
    for signal in ["TSTP", "TTIN", "TTOU", "WINCH"] {
        for halted in [false, true] {
            let mut daemon = Daemon::start(&format!(
                r#"
                [children.one]
                command = ["sh", "-c", """
                trap 'exit 7' {signal}
                echo >&$PLUMBD_READY_FD
                while :; do sleep 0.01; done
                """]
                ready = "fd"
                stop_signal = "SIG{signal}"
                stop_timeout = "1000s"
                "#
            ));
            if halted {
                kill(daemon.child_pid("one"), SIGSTOP);
            }
            daemon.done(&Request::Stop { children: named("one") });
            assert_eq!(daemon.child("one").last_exit.unwrap().how, Ended::Code(7), "{signal}");
            daemon.stop();
        }
    }
}

/// A server with two workers. Each of them finishes its work once there is a file `go`, but
/// SIGTERM would interrupt it. `leader` is what the server does at SIGTERM.
fn prefork(leader: &str, keys: &str) -> String {
    format!(
        r#"
        [children.server]
        command = ["sh", "-c", """
        work() {{
            trap 'echo cut >> ends; exit 1' TERM
            echo >> begun
            while ! test -e go; do sleep 0.01; done
            echo whole >> ends
        }}
        work & work &
        trap '{leader}' TERM
        while ! test "$(wc -l < begun)" = 2; do sleep 0.01; done
        echo >&$PLUMBD_READY_FD
        while :; do sleep 0.01; done
        """]
        ready = "fd"
        {keys}
        "#
    )
}

#[test]
fn if_only_the_leader_gets_the_signal_its_workers_can_finish() {
    let mut daemon = Daemon::start(&prefork("wait; exit 0", "stop_to = \"leader\"\nstop_timeout = \"1000s\""));
    let stop = daemon.ask_meanwhile(Request::Stop { children: named("server") });
    daemon.wait_child("server", ChildState::Stopping);
    std::fs::write(daemon.path("go"), "").unwrap();
    assert_eq!(stop.join().unwrap().unwrap().0, 0);
    assert_eq!(daemon.read_text("ends"), "whole\nwhole\n");
    assert_eq!(daemon.child("server").last_exit.unwrap().how, Ended::Code(0));
    daemon.stop();
}

#[test]
fn by_default_the_whole_group_gets_the_signal() {
    let mut daemon = Daemon::start(&prefork("wait; exit 0", "stop_timeout = \"1000s\""));
    daemon.done(&Request::Stop { children: named("server") });
    assert_eq!(daemon.read_text("ends"), "cut\ncut\n");
    daemon.stop();
}

#[test]
fn what_a_leader_leaves_is_killed_when_it_has_ended_or_its_time_is_up() {
    for (leader, keys) in [("exit 0", "stop_timeout = \"1000s\""), ("", "stop_timeout = \"100ms\"")] {
        let mut daemon = Daemon::start(&prefork(leader, &format!("stop_to = \"leader\"\n{keys}")));
        let workers = children_of(daemon.child_pid("server"));
        daemon.done(&Request::Stop { children: named("server") });
        assert!(workers.into_iter().all(|pid| !alive(pid)));
        assert_eq!(daemon.read_text("ends"), "", "they got no signal");
        daemon.stop();
    }
}

#[test]
fn stop_to_changes_with_a_reload_and_no_restart() {
    let config = |more: &str| prefork("wait; exit 0", &format!("stop_timeout = \"1000s\"\n{more}"));
    let mut daemon = Daemon::start(&config(""));
    let server = daemon.child_pid("server");
    let said = daemon.reload(&config("stop_to = \"leader\""));
    assert!(said.contains("stop_to changes from \"group\" to \"leader\"; its process stays"), "{said}");
    assert_eq!(daemon.child_pid("server"), server);
    std::fs::write(daemon.path("go"), "").unwrap();
    daemon.done(&Request::Stop { children: named("server") });
    assert_eq!(daemon.read_text("ends"), "whole\nwhole\n");
    daemon.stop();
}
