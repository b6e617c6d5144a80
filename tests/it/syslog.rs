//! Logging to syslog: a real rsyslogd at /dev/log, in a mount
//! namespace of its own with a /dev of its own.

use crate::daemon::{alive, kill, wait_for};
use nix::libc::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM};
use plumbd::control::status::Status;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What looks like a machine with its own /dev/log, with a syslog daemon and plumbd.
struct Machine {
    dir: TempDir,
    /// It holds the namespace, and ends when its standard input does.
    holder: Child,
    rsyslogd: Option<Child>,
    plumbd: Option<Child>,
}

/// How rsyslogd listens at /dev/log.
const DATAGRAM: &str = "module(load=\"imuxsock\")";
const STREAM: &str =
    "module(load=\"imptcp\")\ninput(type=\"imptcp\" path=\"/dev/log\" unlink=\"on\" addtlFrameDelimiter=\"0\")";

const PLUMBD: &str = env!("CARGO_BIN_EXE_plumbd");

/// A child that prints the lines which the test writes to a named pipe.
const TALKER: &str = "
    [daemon]
    log = \"syslog\"
    [children.talker]
    command = [\"cat\", \"lines\"]
    directory = \".\"
    ";

impl Machine {
    fn new() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let own_dev = "mkdir dev && mount -t tmpfs tmpfs dev
            for name in null zero full random urandom; do
                touch dev/$name && mount --bind /dev/$name dev/$name || exit
            done
            mount --rbind dev /dev && touch there && exec cat";
        let mut holder = Command::new("unshare");
        holder.args(["--mount", "sh", "-c", own_dev]).current_dir(&dir).stdin(Stdio::piped()).stdout(Stdio::null());
        let machine = Machine { holder: holder.spawn().unwrap(), dir, rsyslogd: None, plumbd: None };
        wait_for("a namespace", || machine.path("there").exists().then_some(()));
        nix::unistd::mkfifo(&machine.path("lines"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program inside; the process that is started becomes it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()));
        command.arg(format!("--wd={}", self.dir.path().display()));
        command.arg(program).stdin(Stdio::null()).stdout(Stdio::null()).env_remove("PLUMBD_CONTROL");
        command
    }

    fn start_rsyslogd(&mut self, input: &str) {
        let out = self.path("out").display().to_string();
        let template = "%syslogfacility-text%.%syslogseverity-text% %programname%[%procid%]%msg%\\n";
        let config = format!(
            "{input}\ntemplate(name=\"test\" type=\"string\" string=\"{template}\")\n\
             action(type=\"omfile\" file=\"{out}\" template=\"test\")\n"
        );
        fs::write(self.path("rsyslog.conf"), config).unwrap();
        let started = self.out().matches("] start").count();
        let mut rsyslogd = self.command("rsyslogd");
        rsyslogd.arg("-n").arg("-f").arg(self.path("rsyslog.conf")).arg("-i").arg(self.path("rsyslog.pid"));
        self.rsyslogd = Some(rsyslogd.stderr(Stdio::null()).spawn().unwrap());
        wait_for("rsyslogd runs", || (self.out().matches("] start").count() > started).then_some(()));
    }

    fn end_rsyslogd(&mut self, signal: i32) {
        let mut rsyslogd = self.rsyslogd.take().unwrap();
        kill(i32::try_from(rsyslogd.id()).unwrap(), signal);
        wait_for("rsyslogd is gone", || rsyslogd.try_wait().unwrap());
    }

    /// Sends rsyslogd a signal, such as SIGSTOP.
    fn signal_rsyslogd(&self, signal: i32) {
        kill(i32::try_from(self.rsyslogd.as_ref().unwrap().id()).unwrap(), signal);
    }

    fn start_plumbd(&mut self, config: &str) {
        fs::write(self.path("plumbd.toml"), config).unwrap();
        let stderr = File::create(self.path("stderr")).unwrap();
        self.plumbd = Some(self.command(PLUMBD).arg("run").stderr(stderr).spawn().unwrap());
        wait_for("plumbd serves", || self.answers().then_some(()));
    }

    fn answers(&self) -> bool {
        let mut status = self.command(PLUMBD);
        status.arg("status").stderr(Stdio::null()).status().unwrap().success()
    }

    /// Everything that rsyslogd saved.
    fn out(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("out")).unwrap_or_default()).into_owned()
    }

    fn wait_out(&self, text: &str) {
        wait_for(&format!("{text:?} in the system's log"), || self.out().contains(text).then_some(()));
    }

    /// The pipe to which the talker's lines are written.
    fn lines(&self) -> File {
        File::options().write(true).open(self.path("lines")).unwrap()
    }

    /// The talker's lines that rsyslogd has saved.
    fn said(&self) -> Vec<String> {
        let out = self.out();
        out.lines().filter_map(|line| line.split_once(" talker: ").map(|(_, said)| said.to_owned())).collect()
    }

    fn end_plumbd(&mut self) {
        let mut plumbd = self.plumbd.take().unwrap();
        kill(i32::try_from(plumbd.id()).unwrap(), SIGTERM);
        let status = wait_for("plumbd ends", || plumbd.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for process in [&mut self.plumbd, &mut self.rsyslogd].into_iter().flatten() {
            let _killed = process.kill();
            let _reaped = process.wait();
        }
        drop(self.holder.stdin.take());
        let _reaped = self.holder.wait();
        if std::thread::panicking() {
            let out = self.out();
            eprintln!("rsyslogd saved, last:");
            out.lines().rev().take(20).for_each(|line| eprintln!("{:.200}", line));
        }
    }
}

#[test]
#[ignore = "needs root and rsyslogd"]
fn each_entry_has_its_facility_severity_process_and_child() {
    let mut machine = Machine::new();
    machine.start_rsyslogd(DATAGRAM);
    let config = r#"
        daemon.syslog_facility = "local3"
        [children.talker]
        command = ["sh", "-c", """
        echo '<0>emergency'; echo '<3>an error'; echo '<4>a warning'; echo '<5>a notice'; echo plain; echo '<7>detail'
        printf '<33>esc \\033]0;x\\007 nul \\000 bad \\377 caf\\303\\251 #012 %%n\\n'
        head -c 20000 /dev/zero | tr '\\000' x
        """]
        restart = "never"
        "#;
    fs::write(machine.path("plumbd.toml"), config).unwrap();
    let run = machine.command(PLUMBD).args(["run", "--daemon", "--pid-file", "pid"]).output().unwrap();
    assert_eq!((run.status.code(), String::from_utf8_lossy(&run.stderr).as_ref()), (Some(0), ""));
    let pid: i32 = fs::read_to_string(machine.path("pid")).unwrap().trim().parse().unwrap();
    machine.wait_out("talker: finished");
    assert!(machine.command(PLUMBD).arg("shutdown").status().unwrap().success());
    machine.wait_out("stopped");
    wait_for("the daemon is gone", || (!alive(pid)).then_some(()));
    let out = machine.out();
    for entry in [
        "local3.emerg plumbd[PID] talker: emergency\n",
        "local3.err plumbd[PID] talker: an error\n",
        "local3.warning plumbd[PID] talker: a warning\n",
        "local3.notice plumbd[PID] talker: a notice\n",
        "local3.info plumbd[PID] talker: plain\n",
        "local3.info plumbd[PID] talker: <33>esc \\x1b]0;x\\x07 nul \\x00 bad \\xff café #012 %n\n",
        "local3.info plumbd[PID] talker: finished\n",
        "local3.info plumbd[PID] plumbd: stopped\n",
    ] {
        let entry = entry.replace("PID", &pid.to_string());
        assert!(out.contains(&entry), "{entry}");
    }
    assert!(!out.contains("detail"));
    let said = machine.said();
    let long = said.iter().map(|line| line.strip_prefix("... ").unwrap_or(line));
    let long = long.filter(|line| line.bytes().all(|b| b == b'x'));
    assert_eq!(long.map(str::len).sum::<usize>(), 20_000, "rsyslogd cut a long line");
}

#[test]
#[ignore = "needs root and rsyslogd"]
fn what_is_logged_while_no_syslog_daemon_runs_is_sent_when_one_does() {
    for input in [DATAGRAM, STREAM] {
        let mut machine = Machine::new();
        machine.start_plumbd(TALKER);
        let mut lines = machine.lines();
        lines.write_all(b"line 0\n").unwrap();
        machine.start_rsyslogd(input);
        machine.wait_out("talker: line 0\n");
        let said = fs::read_to_string(machine.path("stderr")).unwrap();
        assert_eq!(said, "plumbd: nobody listens on /dev/log: the log waits for a syslog daemon\n");
        for (round, signal) in [SIGTERM, SIGKILL, SIGTERM].into_iter().enumerate() {
            machine.end_rsyslogd(signal);
            for number in 1..=10 {
                writeln!(lines, "line {}", round * 10 + number).unwrap();
            }
            machine.start_rsyslogd(input);
            machine.wait_out(&format!("talker: line {}\n", round * 10 + 10));
        }
        let expected: Vec<String> = (0..=30).map(|number| format!("line {number}")).collect();
        assert_eq!(machine.said(), expected);
        machine.end_plumbd();
        machine.wait_out("plumbd: stopped\n");
    }
}

#[test]
#[ignore = "needs root and rsyslogd"]
fn what_does_not_fit_while_no_syslog_daemon_runs_is_counted() {
    let mut machine = Machine::new();
    machine.start_plumbd(TALKER);
    let mut lines = machine.lines();
    for number in 0..1000 {
        writeln!(lines, "line {number} {}", "x".repeat(500)).unwrap();
    }
    // The shell's pipe to the log must be read at once, or this never ends.
    let written = Instant::now();
    assert!(machine.answers());
    assert!(written.elapsed() < Duration::from_secs(5));
    wait_for("the status reports most of them", || {
        let json = machine.command(PLUMBD).args(["status", "--json"]).stdout(Stdio::piped()).output().unwrap().stdout;
        let status: Status = serde_json::from_slice(&json).ok()?;
        (status.unlogged > 800).then_some(())
    });
    machine.start_rsyslogd(DATAGRAM);
    machine.wait_out("entries could not be logged\n");
    lines.write_all(b"the end\n").unwrap();
    machine.wait_out("talker: the end\n");
    let out = machine.out();
    let counts = out.lines().filter_map(|line| line.strip_suffix(" entries could not be logged"));
    let lost: usize = counts.map(|line| line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap()).sum();
    let said = machine.said();
    assert_eq!(said.len() - 1 + lost, 1000);
    assert!(said.iter().enumerate().take(100).all(|(n, line)| line.starts_with(&format!("line {n} "))));
    machine.end_plumbd();
}

#[test]
#[ignore = "needs root and rsyslogd"]
fn a_syslog_daemon_that_hangs_holds_up_nothing() {
    for input in [DATAGRAM, STREAM] {
        let mut machine = Machine::new();
        machine.start_rsyslogd(input);
        machine.start_plumbd(TALKER);
        machine.signal_rsyslogd(SIGSTOP);
        let mut lines = machine.lines();
        // More than can wait anywhere, but both times together fewer lines than count as a flood.
        for number in 0..800 {
            writeln!(lines, "line {number} {}", "x".repeat(700)).unwrap();
        }
        let asked = Instant::now();
        assert!(machine.answers());
        assert!(asked.elapsed() < Duration::from_secs(5));
        machine.signal_rsyslogd(SIGCONT);
        machine.wait_out("entries could not be logged\n");
        lines.write_all(b"awake\n").unwrap();
        machine.wait_out("talker: awake\n");

        // It hangs again, and never wakes up.
        let before = machine.out().matches("entries could not be logged\n").count();
        machine.signal_rsyslogd(SIGSTOP);
        for number in 0..800 {
            writeln!(lines, "<4>again {number} {}", "x".repeat(700)).unwrap();
        }
        assert!(machine.answers());
        machine.end_rsyslogd(SIGKILL);
        machine.start_rsyslogd(input);
        // The first time, it may have been reported more than once.
        wait_for("what was lost this time is reported", || {
            (machine.out().matches("entries could not be logged\n").count() > before).then_some(())
        });
        lines.write_all(b"<4>another\n").unwrap();
        machine.wait_out("talker: another\n");
        machine.end_plumbd();
    }
}

#[test]
#[ignore = "needs root and rsyslogd"]
fn a_flood_is_cut_and_counted() {
    let mut machine = Machine::new();
    machine.start_rsyslogd(DATAGRAM);
    machine.start_plumbd(
        r#"
        daemon.log = "syslog"
        [children.talker]
        command = ["sh", "-c", "seq 100000; echo '<3>an error'"]
        restart = "never"
        "#,
    );
    machine.wait_out("talker: an error\n");
    machine.end_plumbd();
    machine.wait_out("plumbd: stopped\n");
    let said = machine.said();
    let sums = said.iter().filter_map(|line| line.split_once(" more line"));
    let left_out: usize = sums.map(|(count, _)| count.parse::<usize>().unwrap()).sum();
    let went = said.iter().filter(|line| line.parse::<u32>().is_ok()).count();
    assert_eq!(went + left_out, 100_000);
    assert!(went < 10_000, "{went}");
}

#[test]
#[ignore = "needs root and rsyslogd"]
fn what_no_syslog_daemon_took_is_reported_at_the_end() {
    let mut machine = Machine::new();
    machine.start_plumbd(TALKER);
    machine.end_plumbd();
    let said = fs::read_to_string(machine.path("stderr")).unwrap();
    let last = said.lines().last().unwrap();
    let count = last.strip_prefix("plumbd: ").and_then(|rest| rest.strip_suffix(" log entries could not be logged"));
    assert!(count.is_some_and(|count| count.parse::<u32>().unwrap() >= 3), "{said}");
}
