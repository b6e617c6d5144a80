//! The controls: the faults of the trials with a protection really taken away, which
//! the checker must notice.

use super::halves;
use super::rig;
use super::service::{self, Load, Service, Setting};
use crate::daemon::{DEADLINE, Daemon, alive, children_of, free_port, kill, wait_for};
use crate::load::checker::{self, Format, Verdict};
use crate::load::generator::{self, Plan};
use crate::load::rotated;
use nix::libc::SIGKILL;
use plumbd::control::Request;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// A sink that reads, then writes, and notes nothing.
const TEE: &str = "exec tee -a messages.log >/dev/null";
/// A sink that also keeps some lines in memory.
const AWK: &str = "exec awk '{ print }' >>messages.log";
/// After this many tries, a control must have been found out.
const TRIES: u32 = 200;

/// Makes the fault until the checker finds something. Reports how long that took.
pub(super) fn until_found(what: &str, mut make: impl FnMut() -> Verdict) -> String {
    for tries in 1..=TRIES {
        let verdict = make();
        if !verdict.is_clean() {
            let Verdict { lost, doubled, torn, forged, .. } = verdict;
            let times = if tries == 1 { "at once".to_owned() } else { format!("at the {tries}th try") };
            return format!("{what}: found out {times}, {lost} lost, {doubled} doubled, {} torn", torn + forged);
        }
    }
    panic!("{what}: {TRIES} tries were not found out");
}

fn clients(port: u16) -> Plan {
    // If this panics, its clients end first.
    Plan { connections: 12, lasts: DEADLINE * 4, ..Plan::usual(port) }
}

/// A daemon whose echo answers once a message is in the queue.
fn config(port: u16, sink: &str) -> String {
    format!(
        "[children.echo]\nplugin = \"echo\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [children.echo.settings]\necho_after = \"queued\"\npartial_after = \"60s\"\n\
         [children.sink]\n{sink}\n[[links]]\nfrom = \"echo\"\nto = \"sink\"\n"
    )
}

fn program(sink: &str) -> String {
    format!("command = [\"/bin/sh\", \"-c\", \"{sink}\"]\nenvironment = {{ ROUND = \"\" }}")
}

/// Makes this many faults under load, one after the other. Returns the verdict about the file.
fn disturbed(config: &str, port: u16, format: Format, faults: u32, fault: impl Fn(&mut Daemon)) -> Verdict {
    let mut daemon = Daemon::start(config);
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        let clients = scope.spawn(|| generator::run(&clients(port), &stop).unwrap());
        for _ in 0..faults {
            wait_progress(&daemon);
            fault(&mut daemon);
        }
        stop.store(true, Ordering::Relaxed);
        clients.join().unwrap()
    });
    daemon.stop();
    checker::check(rotated::open(&daemon.path("messages.log")).unwrap(), format, &outcome.connections).unwrap()
}

fn wait_progress(daemon: &Daemon) {
    let size = || std::fs::metadata(daemon.path("messages.log")).map_or(0, |file| file.len());
    let before = size();
    wait_for("messages are saved", || (size() != before).then_some(()));
}

pub(super) fn kill_and_see_replaced(daemon: &Daemon, names: &[&str]) {
    let pids: Vec<i32> = names.iter().map(|name| daemon.child_pid_when_up(name)).collect();
    pids.iter().for_each(|&pid| kill(pid, SIGKILL));
    for (name, pid) in names.iter().zip(pids) {
        daemon.wait_replaced(name, pid);
    }
}

/// An ordinary program is the sink; five faults at a time.
fn with_sink(what: &str, sink: &str, fault: impl Fn(&mut Daemon)) -> String {
    until_found(what, || {
        let port = free_port();
        disturbed(&config(port, &program(sink)), port, Format::Raw, 5, &fault)
    })
}

/// For kills of the logger.
pub(crate) fn a_sink_without_a_ledger() -> String {
    with_sink("`tee -a` as the sink, killed 5 times", TEE, |daemon| kill_and_see_replaced(daemon, &["sink"]))
}

/// For kills of all children.
pub(crate) fn a_sink_without_a_ledger_and_its_source() -> String {
    let what = "`awk` as the sink, killed 5 times with its source";
    with_sink(what, AWK, |daemon| kill_and_see_replaced(daemon, &["sink", "echo"]))
}

/// For kills of the supervisor.
pub(crate) fn a_sink_that_does_not_outlive_its_supervisor() -> String {
    until_found("`awk` as the sink, which ends when it is asked to", || {
        let port = free_port();
        disturbed(&config(port, &program(AWK)), port, Format::Raw, 1, |daemon| {
            let children = children_of(daemon.pid());
            kill(daemon.pid(), SIGKILL);
            daemon.wait_killed();
            wait_for("the children are dead", || children.iter().all(|&pid| !alive(pid)).then_some(()));
            daemon.start_again();
        })
    })
}

/// For kills during a reload.
pub(crate) fn a_sink_without_a_ledger_in_a_reload() -> String {
    let what = "`awk` as the sink, killed during 5 reloads";
    with_sink(what, AWK, |daemon| {
        let before = daemon.child_pid_when_up("sink");
        // The configuration is different each time.
        daemon.configure(&daemon.read_text("plumbd.toml").replace("ROUND = \"", "ROUND = \"another "));
        let reload = daemon.ask_meanwhile(Request::Reload);
        kill(before, SIGKILL);
        let _whatever_it_says = reload.join().unwrap();
        daemon.wait_replaced("sink", before);
    })
}

/// For kills during a stop.
pub(crate) fn a_sink_without_a_ledger_in_a_stop() -> String {
    let what = "`awk` as the sink, killed during 5 stops";
    with_sink(what, AWK, |daemon| {
        let children = vec!["sink".to_owned()];
        let pid = daemon.child_pid_when_up("sink");
        let stop = daemon.ask_meanwhile(Request::Stop { children: children.clone() });
        kill(pid, SIGKILL);
        let _whatever_it_says = stop.join().unwrap();
        daemon.done(&Request::Start { children });
    })
}

/// For kills of all at once: no process keeps what is only in the pipes.
pub(crate) fn nobody_keeps_the_pipes() -> String {
    let port = free_port();
    let sink = "plugin = \"logger\"\n[children.sink.settings]\nfile = \"messages.log\"";
    let mut daemon = Daemon::start(&config(port, sink));
    let mut connections = Vec::new();
    let mut first = 0;
    let found = until_found("`queued`, and no process keeps the pipes", || {
        let (stop, plan) = (AtomicBool::new(false), Plan { first, reconnect: false, ..clients(port) });
        first += 1000;
        std::thread::scope(|scope| {
            let clients = scope.spawn(|| generator::run(&plan, &stop).unwrap());
            wait_progress(&daemon);
            let children = children_of(daemon.pid());
            kill(daemon.pid(), SIGKILL);
            children.iter().for_each(|&pid| kill(pid, SIGKILL));
            connections.extend(clients.join().unwrap().connections);
        });
        daemon.wait_killed();
        daemon.start_again();
        checker::check(&*daemon.read("messages.log"), Format::Text, &connections).unwrap()
    });
    daemon.stop();
    found
}

/// For kills of sources: a source that notes lines before it has written them.
pub(crate) fn a_source_that_buffers() -> String {
    let setting =
        Setting { echo_after: "saved", load: Load::Many, managed: false, pipes_are_lost: false, rotate: false };
    let (written, buffered) =
        (r#"fflush(); printf "." >>told; fflush(told); system("sleep 0.003")"#, r#"printf "." >>told; fflush(told)"#);
    let program = service::PROGRAM.replace(written, buffered);
    assert_ne!(program, service::PROGRAM);
    until_found("an ordinary program that buffers its lines", || {
        let mut service = Service::start_with(setting, &program);
        service.wait_any_instant();
        service.kill_and_see_replaced(&["tick"]);
        service.verdict()
    })
}

/// For kills while the daemon rotates: the file is copied and truncated, as some rotators do.
pub(crate) fn copied_and_truncated() -> String {
    until_found("the file copied and truncated instead of renamed, 5 times", || {
        let port = free_port();
        let sink = "plugin = \"logger\"\n[children.sink.settings]\nfile = \"messages.log\"";
        disturbed(&config(port, sink), port, Format::Text, 5, |daemon| {
            const ROTATE: &str = "cp messages.log messages.log.$(date -u +%Y%m%dT%H%M%S.%6NZ) && : >messages.log";
            let rotated = Command::new("sh").args(["-c", ROTATE]).current_dir(daemon.dir.path()).status().unwrap();
            assert!(rotated.success());
        })
    })
}

/// Options for strace, under which some system calls of a process seem to succeed but do not
/// happen.
fn left_out<'a>(trace: &'a str, inject: &'a str) -> [&'a str; 8] {
    ["strace", "-qq", "-o", "/dev/null", "-e", trace, "-e", inject]
}

/// For a rotation that is cut at any call: renames that do not happen.
pub(crate) fn renames_left_out() -> String {
    until_found("renames left out (strace)", || {
        let (mut rig, sent) = rig::full();
        rig.settings["rotate"] = serde_json::json!({"size": 4096, "least_ms": 0});
        rig.start_under(&left_out("trace=renameat2", "inject=renameat2:retval=0")).wait_success();
        rig.drain();
        checker::check(&*rig.all_bytes(), Format::Text, &sent).unwrap()
    })
}

/// For kills of archivists: an archivist that removes an archive before its compressed
/// form is in place, and is killed between the two.
pub(crate) fn removed_and_not_in_place() -> String {
    until_found("an archive that is removed before its compressed form is in place", || {
        let (mut rig, sent) = rig::full();
        rig.settings["rotate"] = serde_json::json!({"size": 4096, "least_ms": 0});
        rig.start().wait_success();
        let is_archive = |path: &std::path::PathBuf| path.to_str().is_some_and(|path| path.contains("m.log.2"));
        let mut paths = rig.folder.path().read_dir().unwrap().map(|entry| entry.unwrap().path());
        std::fs::remove_file(paths.find(is_archive).unwrap()).unwrap();
        rig.drain();
        checker::check(&*rig.all_bytes(), Format::Text, &sent).unwrap()
    })
}

/// For half lines: a sink that is killed after it has read one.
pub(crate) fn a_sink_that_reads_lines() -> String {
    const SINK: &str = "while IFS= read -r line; do echo \\\"$line\\\" >>messages.log; done";
    for tries in 1..=TRIES {
        let dir = tempfile::tempdir().unwrap();
        service::put_program(dir.path(), halves::PROGRAM);
        let mut daemon = Daemon::spawn_in(
            dir,
            &format!(
                "[children.tick]\ncommand = [\"./program\"]\n[children.sink]\n{}\n\
                 [[links]]\nfrom = \"tick\"\nto = \"sink\"\n",
                program(SINK)
            ),
        );
        for _ in 0..5 {
            wait_progress(&daemon);
            kill_and_see_replaced(&daemon, &["sink"]);
        }
        daemon.stop();
        if let Err(what) = halves::check(daemon.dir.path(), "tick", &daemon.read("messages.log")) {
            return format!("a shell that reads lines as the sink, killed 5 times: found out at try {tries}, {what}");
        }
    }
    panic!("a sink that loses halves was not found out");
}
