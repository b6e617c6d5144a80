//! A reload runs out of descriptors, memory or watches: what it reports is true.

use crate::daemon::{Daemon, alive, environment, free_port, wait_for};
use crate::strace::Strace;
use plumbd::control::Request;
use plumbd::control::status::ChildState;
use std::process::Command;

/// Two children that are given `value`: a plugin, and a program.
fn config(port: u16, value: &str, other: bool) -> String {
    let mut text = format!(
        "[children.echo]\nplugin = \"echo\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         backoff = {{ first = \"10ms\", max = \"100ms\" }}\n\
         settings = {{ idle_timeout = \"{value}\" }}\n\
         [children.one]\ncommand = [\"sleep\", \"1000\"]\nready_timeout = \"1000s\"\nsettings = {{ value = \"{value}\" }}\n\
         [children.logger]\nplugin = \"logger\"\nsettings = {{ file = \"messages.log\" }}\n\
         [[links]]\nfrom = \"echo\"\nto = \"logger\"\n"
    );
    if other {
        text += "[children.other]\ncommand = [\"sleep\", \"1000\"]\n";
    }
    text
}

/// The settings that the running program was given.
fn given(daemon: &Daemon) -> String {
    let pid = daemon.child_pid_when_up("one");
    let given = environment(pid).into_iter().find(|(name, _)| name == "PLUMBD_SETTINGS");
    let (_, number) = given.unwrap();
    std::fs::read_to_string(format!("/proc/{pid}/fd/{number}")).unwrap()
}

/// Whether the running program has the new settings; `plan` must agree.
#[track_caller]
fn is_new(daemon: &Daemon) -> bool {
    daemon.wait_child("echo", ChildState::Up);
    let settings = given(daemon);
    let new = settings == "{\"value\":\"7s\"}";
    assert!(new || settings == "{\"value\":\"3s\"}", "{settings}");
    let plan = daemon.done(&Request::Plan { file: None });
    assert_eq!(plan.contains("nothing would change"), new, "{settings}: {plan}");
    new
}

/// Sets how many more descriptors the daemon may have than it has now; `None`: as
/// many as the system allows.
fn leave_descriptors(daemon: &Daemon, more: Option<usize>) {
    let soft = match more {
        None => String::new(),
        Some(more) => {
            let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
            let open: Vec<usize> =
                open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
            let free = (0..).filter(|fd| !open.contains(fd)).nth(more).unwrap();
            free.to_string()
        }
    };
    let hard = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let hard = hard.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let hard = hard.split_whitespace().nth(4).unwrap().to_owned();
    let soft = if soft.is_empty() { hard.clone() } else { soft };
    let pid = daemon.pid().to_string();
    let set = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={soft}:{hard}")]).status().unwrap();
    assert!(set.success());
}

#[test]
fn a_reload_that_runs_out_of_descriptors_anywhere_reports_the_truth() {
    let port = free_port();
    let mut daemon = Daemon::start(&config(port, "3s", false));
    let (mut undone, mut done) = (0, 0);
    // One is for the operator's connection.
    for more in 1..=16 {
        leave_descriptors(&daemon, Some(more));
        daemon.configure(&config(port, "7s", more % 2 == 0));
        let (status, said, why) = daemon.ask(&Request::Reload);
        leave_descriptors(&daemon, None);
        let new = is_new(&daemon);
        assert_eq!(status == 0, said.ends_with("reloaded\n"), "{more}: {said}");
        match status {
            0 => assert!(new, "{more}: {said}"),
            _ if new => assert!(why.contains("reloaded, but"), "{more}: {why}"),
            _ => assert!(why.contains("cannot reload: "), "{more}: {why}"),
        }
        if new {
            done += 1
        } else {
            undone += 1
        }
        daemon.reload(&config(port, "3s", false));
        assert_eq!(given(&daemon), "{\"value\":\"3s\"}");
    }
    assert!(undone > 0 && done > 0, "{undone} undone, {done} done");
    daemon.stop();
}

/// Checks that a reload under that fault fails, changes nothing and reports that.
#[track_caller]
fn changes_nothing(call: &str, inject: &str, other: bool, why: &str) {
    let port = free_port();
    let mut daemon = Daemon::start(&config(port, "3s", false));
    let pid = daemon.child_pid("echo");
    daemon.configure(&config(port, "7s", other));
    let strace = Strace::inject(daemon.pid(), call, inject);
    let (status, said, told) = daemon.ask(&Request::Reload);
    drop(strace);
    assert_eq!(status, 1, "{said}");
    assert!(told.contains(why) && told.contains("cannot reload: nothing is changed"), "{told}");
    assert_eq!(daemon.child_pid("echo"), pid);
    assert!(!is_new(&daemon));
    daemon.done(&Request::Reload);
    assert!(is_new(&daemon));
    daemon.stop();
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_child_whose_settings_cannot_be_made_changes_nothing() {
    // The first one is for what a separate process finds out about the configuration.
    changes_nothing(
        "memfd_create",
        "error=EMFILE:when=2+",
        false,
        "cannot prepare child \"echo\": Too many open files",
    );
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_look_that_cannot_be_started_changes_nothing() {
    let start = "cannot reload: cannot start a process that looks at the system: ";
    changes_nothing("memfd_create", "error=EMFILE:when=1", false, &format!("{start}Too many open files"));
    changes_nothing("clone", "error=EAGAIN:when=1", false, &format!("{start}Resource temporarily unavailable"));
    let watch = "cannot reload: cannot watch a process that looks: No space left";
    changes_nothing("epoll_ctl", "error=ENOSPC:when=2", false, watch);
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_child_whose_settings_do_not_fit_into_memory_changes_nothing() {
    changes_nothing("write", "error=ENOSPC:when=1", false, "cannot prepare child \"echo\": No space left");
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_child_whose_notifications_cannot_be_watched_changes_nothing() {
    // Earlier calls are for the operator's connection, which then waits, and for the process
    // that looks, which is then gone.
    changes_nothing("epoll_ctl", "error=ENOSPC:when=5", false, "cannot prepare child \"echo\": No space left");
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_new_child_whose_log_cannot_be_watched_changes_nothing() {
    changes_nothing("epoll_ctl", "error=ENOMEM:when=6", true, "cannot prepare child \"other\": Cannot allocate memory");
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn a_child_whose_start_cannot_be_watched_is_killed_and_restarted() {
    let port = free_port();
    let mut daemon = Daemon::start(&config(port, "3s", false));
    let pid = daemon.child_pid("one");
    let strace = Strace::inject(daemon.pid(), "epoll_ctl", "error=ENOSPC:when=1");
    crate::daemon::kill(pid, nix::libc::SIGKILL);
    daemon.wait_log("cannot watch its start: No space left");
    drop(strace);
    daemon.wait_replaced("one", pid);
    daemon.stop();
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn if_an_operator_hangs_up_while_a_forked_child_is_slow_the_loop_stays_asleep() {
    // Because it has a directory, it is forked, with a copy of every descriptor.
    let slow = "[children.one]\ncommand = [\"sleep\", \"1000\"]\ndirectory = \".\"\n";
    let mut daemon = Daemon::start(slow);
    daemon.done(&Request::Stop { children: vec!["one".into()] });
    let trace = daemon.path("trace");
    let options = ["-f", "-o", trace.to_str().unwrap(), "-e", "trace=umask,epoll_wait,epoll_pwait"];
    // The forked process waits for this long before it executes the program.
    let late = ["-e", "inject=umask:delay_enter=3000000"];
    let strace = Strace::attach(daemon.pid(), &[&options[..], &late].concat());
    let idle = std::os::unix::net::UnixStream::connect(daemon.path("plumbd.sock")).unwrap();
    // The operator waits for the child, and meanwhile there is nothing else to do.
    let asked = daemon.ask_meanwhile(Request::Start { children: vec!["one".into()] });
    wait_for("a child is forked", || (crate::daemon::children_of(daemon.pid()).len() == 1).then_some(()));
    drop(idle);
    assert_eq!(asked.join().unwrap().unwrap().0, 0);
    drop(strace);
    let waits = daemon.read_text("trace").lines().filter(|line| line.contains("epoll_")).count();
    assert!(waits < 100, "it woke {waits} times");
    daemon.stop();
}

#[test]
#[ignore = "needs strace, run by .ci/run"]
fn strays_are_ended_even_if_no_process_can_be_started() {
    let leaves = "setsid sh -c 'echo $$ >> left; exec sleep 1000' & while ! test -e go; do sleep 0.01; done";
    let mut daemon =
        Daemon::start(&format!("[children.one]\ncommand = [\"sh\", \"-c\", \"{leaves}\"]\nrestart = \"never\"\n"));
    let left = wait_for("it has left something", || daemon.read_text("left").trim().parse().ok());
    let strace = Strace::inject(daemon.pid(), "clone", "error=EAGAIN");
    std::fs::write(daemon.path("go"), "").unwrap();
    wait_for("it has ended", || (!alive(left)).then_some(()));
    drop(strace);
    daemon.stop();
}
