//! plumbd as the first process of a container, with a pid namespace of its own, a
//! root that is read-only except for one folder, no accounts, no environment and
//! no /dev/log.

use crate::daemon::{DEADLINE, alive, children_of, free_port, kill, state, wait_for};
use plumbd::control::status::{ChildState, Status};
use plumbd::control::{Request, Response, client};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

struct Container {
    dir: TempDir,
    /// unshare(1), which waits for the first process and exits as it did.
    outside: Child,
    /// The first process, by its pid outside.
    first: i32,
    port: u16,
}

const SETUP: &str =
    "mount --bind data data && mount --bind /dev/null /etc/passwd && mount --bind /dev/null /etc/group &&
    mount -o remount,ro,bind / && ! touch written 2>/dev/null || exit 9
    exec env -i \"$0\" run -c plumbd.toml";

impl Container {
    /// An echo server whose messages are saved, and more children.
    fn start(more: &str) -> Container {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        fs::create_dir(dir.path().join("data")).unwrap();
        fs::write(dir.path().join("plumbd.toml"), config(port, more)).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", SETUP]);
        unshare.arg(env!("CARGO_BIN_EXE_plumbd")).current_dir(&dir);
        let outside = unshare.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let pid = i32::try_from(outside.id()).unwrap();
        let first = wait_for("a first process", || children_of(pid).first().copied());
        let container = Container { dir, outside, first, port };
        wait_for("all children are up", || container.status().filter(Status::all_up));
        assert_eq!(container.status().unwrap().pid, 1);
        container
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn status(&self) -> Option<Status> {
        let mut status = None;
        let asked = client::ask(&self.path("data/plumbd.sock"), &Request::Status, |response| {
            if let Response::Status(got) = response {
                status = Some(*got);
            }
            Ok(())
        });
        asked.ok().and(status)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Sends a line and checks its echo.
    fn echo(&self, stream: &mut TcpStream, line: &str) {
        stream.write_all(line.as_bytes()).unwrap();
        let mut echoed = vec![0; line.len()];
        stream.read_exact(&mut echoed).unwrap();
        assert_eq!(echoed, line.as_bytes());
        assert!(self.messages().ends_with(line.trim_end()));
    }

    fn messages(&self) -> String {
        self.read("data/messages.log").trim_end().to_owned()
    }

    /// Runs a shell command inside, in its folder.
    fn inside(&self, command: &str) -> bool {
        let target = format!("--target={}", self.first);
        let script = format!("cd {} && {command}", self.dir.path().display());
        Command::new("nsenter").args([&target, "--pid", "--mount", "sh", "-c", &script]).status().unwrap().success()
    }

    /// Sends the first process a signal from inside. The sender may be killed
    /// with all others when the first process has ended.
    fn signal_inside(&self, signal: &str) {
        self.inside(&format!("kill -{signal} 1"));
    }

    /// Its exit status, once nothing of it is left.
    fn wait_end(&mut self) -> i32 {
        let status = wait_for("its end", || self.outside.try_wait().unwrap());
        assert!(!alive(self.first));
        assert!(!self.path("data/plumbd.sock").exists());
        status.code().unwrap_or_else(|| panic!("{status}"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // This kills the first process too, and with that all others.
        let _killed = self.outside.kill();
        let _reaped = self.outside.wait();
        if std::thread::panicking() {
            eprintln!("its log:\n{}", self.read("log"));
        }
    }
}

fn config(port: u16, more: &str) -> String {
    format!(
        r#"
        [daemon]
        control = "data/plumbd.sock"
        {more}
        [children.echo]
        plugin = "echo"
        listen = ["tcp://127.0.0.1:{port}"]
        [children.logger]
        plugin = "logger"
        settings = {{ file = "data/messages.log" }}
        [[links]]
        from = "echo"
        to = "logger"
        "#
    )
}

#[test]
#[ignore = "needs root"]
fn a_signal_from_inside_or_outside_drains_it_and_ends_it_with_status_0() {
    for (inside, signal) in [(true, "TERM"), (false, "TERM"), (true, "INT")] {
        let mut container = Container::start("");
        let mut client = container.connect();
        container.echo(&mut client, "hello\n");
        client.write_all(b"last words\n").unwrap();
        if inside {
            container.signal_inside(signal);
        } else {
            kill(container.first, nix::libc::SIGTERM);
        }
        let mut rest = String::new();
        client.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "last words\n");
        assert_eq!(container.wait_end(), 0, "{}", container.read("log"));
        assert!(container.messages().ends_with("last words"));
        assert!(container.read("log").ends_with("INFO plumbd: stopped\n"));
    }
}

#[test]
#[ignore = "needs root"]
fn it_reaps_every_process_that_becomes_its_child() {
    let mut container = Container::start(
        r#"
        [children.careless]
        command = ["sh", "-c", "i=0; while [ $i -lt 500 ]; do ( (sleep 0.$((i % 10)) &) ); i=$((i+1)); done; touch data/left; exec sleep 1000"]
        restart = "never"
        "#,
    );
    // A process that came in from outside leaves orphans too.
    assert!(container.inside("i=0; while [ $i -lt 100 ]; do (setsid sleep 0.$((i % 10)) &); i=$((i+1)); done"));
    wait_for("all that left their parents are gone", || {
        let children = children_of(container.first);
        let sleeps = fs::read_to_string(container.path("data/left")).is_ok();
        (sleeps && children.len() == 3 && !children.iter().any(|&pid| state(pid) == Some('Z'))).then_some(())
    });
    container.echo(&mut container.connect(), "still here\n");
    assert!(container.inside("setsid sleep 1000 & setsid sleep 1000 &"));
    wait_for("two more that no process waits for", || (children_of(container.first).len() == 5).then_some(()));
    container.signal_inside("TERM");
    assert_eq!(container.wait_end(), 0);
}

#[test]
#[ignore = "needs root"]
fn it_reloads_and_reopens_and_ignores_other_signals() {
    let mut container = Container::start("");
    let mut client = container.connect();
    container.echo(&mut client, "before\n");
    assert!(container.inside("for signal in ALRM USR2 PIPE WINCH TSTP; do kill -$signal 1; done"));
    let more = "[children.late]\ncommand = [\"sleep\", \"1000\"]";
    fs::write(container.path("plumbd.toml"), config(container.port, more)).unwrap();
    container.signal_inside("HUP");
    wait_for("it is reloaded", || {
        let status = container.status()?;
        (status.reloads == 1 && status.children.iter().any(|c| c.name == "late" && c.state == ChildState::Up))
            .then_some(())
    });
    assert!(container.inside("mv data/messages.log data/old.log && kill -USR1 1"));
    wait_for("the file is there again", || container.path("data/messages.log").exists().then_some(()));
    container.echo(&mut client, "after\n");
    assert!(container.read("data/old.log").ends_with("before\n"));
    container.signal_inside("TERM");
    assert_eq!(container.wait_end(), 0);
}

#[test]
#[ignore = "needs root"]
fn without_proc_programs_run_and_plugins_report_what_they_lack() {
    let dir = tempfile::tempdir().unwrap();
    let config = "
        [children.program]
        command = [\"sleep\", \"1000\"]
        [children.echo]
        plugin = \"echo\"
        listen = [\"tcp://127.0.0.1:0\"]
        restart = \"never\"
        [children.sink]
        command = [\"cat\"]
        [[links]]
        from = \"echo\"
        to = \"sink\"
        [children.echo.settings]
        echo_after = \"queued\"
        ";
    fs::write(dir.path().join("plumbd.toml"), config).unwrap();
    let (log, script) =
        (File::create(dir.path().join("log")).unwrap(), "umount -l /proc && exec \"$0\" run -c plumbd.toml");
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, env!("CARGO_BIN_EXE_plumbd")]);
    let mut outside =
        unshare.current_dir(&dir).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let mut said = String::new();
    let ended = wait_for("it says why", || {
        said = fs::read_to_string(dir.path().join("log")).unwrap();
        let told = said.contains("echo: cannot start: built-in plugins need /proc, which is not mounted\n");
        if told && said.contains("not all children are up") {
            let first = children_of(i32::try_from(outside.id()).unwrap()).first().copied();
            first.into_iter().for_each(|first| kill(first, nix::libc::SIGTERM));
        }
        outside.try_wait().unwrap()
    });
    assert!(ended.success(), "{said}");
    assert!(!said.contains("program: "), "{said}");
}

#[test]
#[ignore = "needs root"]
fn if_the_whole_container_is_killed_what_was_echoed_is_saved() {
    let mut container = Container::start("");
    let mut client = container.connect();
    container.echo(&mut client, "hello\n");
    let inside = children_of(container.first);
    container.outside.kill().unwrap();
    wait_for("no process is left", || (!alive(container.first) && !inside.iter().any(|&pid| alive(pid))).then_some(()));
    assert!(container.messages().ends_with("hello"));
}
