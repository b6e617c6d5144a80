//! The command line as scripts and operators see it: words in, exit status,
//! standard output and standard error out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::daemon::wait_for;
use assert_cmd::Command;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const BIN: &str = env!("CARGO_BIN_EXE_plumbd");

/// The longest time that anything in these tests may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Every command; the last one is hidden.
const COMMANDS: [&str; 18] = [
    "run",
    "check",
    "plan",
    "reload",
    "status",
    "start",
    "stop",
    "restart",
    "shutdown",
    "reopen",
    "events",
    "log",
    "messages",
    "example",
    "completions",
    "man",
    "schema",
    "plugin",
];

/// `plumbd` with these words, in a folder of its own.
struct Called {
    status: i32,
    out: String,
    err: String,
}

fn plumbd(folder: &Path, words: &[&str]) -> Called {
    let output = command(folder, words).output().unwrap();
    Called {
        status: output.status.code().expect("it takes too long"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn command(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(BIN);
    command.args(words).current_dir(folder).env_remove("PLUMBD_CONTROL").timeout(PATIENCE);
    command
}

/// A daemon that answers each connection with these lines.
struct FakeDaemon {
    folder: TempDir,
    requests: JoinHandle<Vec<Value>>,
}

impl FakeDaemon {
    fn new(connections: usize, answer: String) -> FakeDaemon {
        FakeDaemon::answering(vec![answer; connections])
    }

    /// A daemon that is up, and then gives that answer to a request.
    fn up(answer: &str) -> FakeDaemon {
        FakeDaemon::answering(vec![status_answer("up"), answer.to_owned()])
    }

    /// A daemon that gives each connection its own answer.
    fn answering(answers: Vec<String>) -> FakeDaemon {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("plumbd.sock")).unwrap();
        let serve = move || {
            let mut requests = Vec::new();
            for answer in answers {
                let mut listening = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                let called = poll(&mut listening, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
                assert_eq!(called, 1, "no client called the daemon");
                let (stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                requests.push(serde_json::from_str(&line).unwrap());
                (&stream).write_all(answer.as_bytes()).unwrap();
            }
            requests
        };
        FakeDaemon { folder, requests: std::thread::spawn(serve) }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("plumbd.sock")
    }

    /// Calls `plumbd WORDS --control SOCKET`.
    fn plumbd(&self, words: &[&str]) -> Called {
        let socket = self.socket();
        let words: Vec<&str> = words.iter().copied().chain(["--control", socket.to_str().unwrap()]).collect();
        plumbd(self.folder.path(), &words)
    }

    fn requests(self) -> Vec<Value> {
        self.requests.join().unwrap()
    }
}

fn status(logger: &str) -> Value {
    json!({
        "version": 1, "pid": 4242, "state": "running", "config": "/etc/plumbd/plumbd.toml",
        "since": "2026-11-22T15:00:00.000Z", "reloads": 0, "unlogged": 0,
        "children": [
            {"name": "logger", "state": logger, "pid": 4244, "ready": true, "since": "2026-11-22T15:00:00.000Z",
             "finished": false, "restarts": 0, "restarts_by": {"failure": 0, "operator": 0, "reload": 0, "health": 0}, "last_exit": null, "problem": null, "metrics": {"messages": 7}}
        ],
        "links": []
    })
}

/// That status as it is shown, with what is not known of it.
fn shown(logger: &str) -> Value {
    let mut status = status(logger);
    status["children"][0]["usage"] = Value::Null;
    (status["listeners"], status["files"]) = (json!([]), json!([]));
    status["hooks"] = json!({"started": 0, "failed": 0, "dropped": 0});
    status
}

fn status_answer(logger: &str) -> String {
    format!("{}\n{{\"exit\":0}}\n", json!({"status": status(logger)}))
}

#[test]
fn wrong_usage_exits_2_and_prints_nothing_on_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let wrong: [&[&str]; 10] = [
        &[],
        &["frob"],
        &["run", "--frob"],
        &["run", "extra"],
        &["start"],
        &["stop", "--control"],
        &["example", "frob"],
        &["completions", "frob"],
        &["plugin", "frob"],
        &["status", "--frob", "echo"],
    ];
    for words in wrong {
        let called = plumbd(folder.path(), words);
        assert_eq!(called.status, 2, "{words:?}: {}", called.err);
        assert_eq!(called.out, "", "{words:?}");
        assert!(!called.err.is_empty(), "{words:?}");
    }
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let folder = tempfile::tempdir().unwrap();
    let called = plumbd(folder.path(), &["plugin", "ecko"]);
    assert_eq!(called.err, "plumbd: cannot run plugin \"ecko\": there are echo, logger\n");
    let called = plumbd(folder.path(), &["example", "no"]);
    assert!(called.err.starts_with("plumbd: cannot print the example \"no\": there are one-way, "), "{}", called.err);
}

#[test]
fn every_command_has_help_with_examples_and_without_colours() {
    let folder = tempfile::tempdir().unwrap();
    for name in COMMANDS {
        let called = plumbd(folder.path(), &[name, "--help"]);
        assert_eq!((called.status, called.err.as_str()), (0, ""), "{name}");
        assert!(called.out.contains(&format!("Usage: plumbd {name}")), "{name}: {}", called.out);
        assert!(called.out.contains("Examples:"), "{name}: {}", called.out);
        assert!(!called.out.contains('\x1b'), "{name}");
    }
}

#[test]
fn help_lists_every_command_except_the_hidden_one() {
    let folder = tempfile::tempdir().unwrap();
    let called = plumbd(folder.path(), &["--help"]);
    for name in COMMANDS {
        let listed = called.out.lines().any(|line| line.starts_with(&format!("  {name} ")));
        assert_eq!(listed, name != "plugin", "{name}: {}", called.out);
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(plumbd(folder.path(), &["--version"]).out, format!("plumbd {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn examples_are_listed_and_printed_as_they_ship() {
    let folder = tempfile::tempdir().unwrap();
    let listed = plumbd(folder.path(), &["example"]);
    assert_eq!(listed.status, 0);
    let etc = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc");
    let names: Vec<&str> = listed.out.lines().map(|line| line.split(' ').next().unwrap()).collect();
    let files = std::fs::read_dir(&etc).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(names.len(), files.filter(|path| path.extension().is_some_and(|e| e == "toml")).count(), "{names:?}");
    for name in names {
        let shipped = std::fs::read_to_string(etc.join(format!("{name}.toml"))).unwrap();
        assert_eq!(plumbd(folder.path(), &["example", name]).out, shipped, "{name}");
    }
}

#[test]
fn status_exits_3_if_no_daemon_runs() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    for (left_over, cause) in [(false, "No such file or directory"), (true, "Connection refused")] {
        if left_over {
            drop(UnixListener::bind(&socket).unwrap());
        }
        let called = plumbd(folder.path(), &["status", "--control", socket.to_str().unwrap()]);
        assert_eq!((called.status, called.out.as_str()), (3, ""));
        let why = format!("plumbd: cannot reach the daemon at {}: {cause}; is it running?\n", socket.display());
        // Other tests' daemons may be listed below.
        assert!(called.err.starts_with(&why), "{}", called.err);
    }
}

#[test]
fn every_other_request_exits_1_if_no_daemon_runs() {
    let folder = tempfile::tempdir().unwrap();
    let requests: [&[&str]; 6] =
        [&["plan"], &["reload"], &["start", "x"], &["stop", "x"], &["restart", "x"], &["reopen"]];
    let why = format!("plumbd: cannot reach the daemon at {}/none.sock: ", folder.path().display());
    for words in requests {
        let words: Vec<&str> = words.iter().copied().chain(["--control", "none.sock"]).collect();
        let called = plumbd(folder.path(), &words);
        assert_eq!((called.status, called.out.as_str()), (1, ""), "{words:?}");
        assert!(called.err.starts_with(&why), "{}", called.err);
    }
}

#[test]
fn a_configuration_with_problems_exits_78_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.toml"), "daemon.log = \"paper\"\n[children.x]\ncommand = [\"/bin/cat\"]\n")
        .unwrap();
    let pid_file = folder.path().join("pid");
    let commands: [&[&str]; 4] = [
        &["check", "-c", "x.toml"],
        &["check", "-c", "x.toml", "--effective"],
        &["run", "-c", "x.toml"],
        &["run", "-c", "x.toml", "--daemon", "--pid-file", "pid"],
    ];
    for words in commands {
        let called = plumbd(folder.path(), words);
        assert_eq!((called.status, called.out.as_str()), (78, ""), "{words:?}");
        assert!(called.err.starts_with("x.toml:1:14: "), "{words:?}: {}", called.err);
    }
    assert!(!pid_file.exists());
}

#[test]
fn the_effective_configuration_is_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.toml"), "[children.x]\ncommand = [\"/bin/cat\"]\n").unwrap();
    assert_eq!(plumbd(folder.path(), &["check", "-c", "x.toml"]).out, "x.toml: no problems\n");
    let effective = plumbd(folder.path(), &["check", "-c", "x.toml", "--effective"]);
    assert_eq!(effective.status, 0, "{}", effective.err);
    std::fs::write(folder.path().join("y.toml"), &effective.out).unwrap();
    let again = plumbd(folder.path(), &["check", "-c", "y.toml", "--effective"]);
    assert_eq!(again.out, effective.out);
}

#[test]
fn a_request_has_the_documented_form_and_its_answers_go_to_the_right_streams() {
    let answers =
        "{\"out\":\"echo: stopped\"}\n{\"err\":\"cannot stop child \\\"x\\\": no such child\"}\n{\"exit\":1}\n";
    let daemon = FakeDaemon::up(answers);
    let called = daemon.plumbd(&["stop", "echo", "x"]);
    assert_eq!(called.out, "echo: stopped\n");
    assert_eq!(called.err, "plumbd: cannot stop child \"x\": no such child\n");
    assert_eq!(called.status, 1);
    assert_eq!(
        daemon.requests(),
        [json!({"command": "status"}), json!({"command": "stop", "children": ["echo", "x"]})]
    );
}

#[test]
fn each_command_is_the_request_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new.toml");
    let plan = ["plan", "-c", file.to_str().unwrap()];
    let requests: [(&[&str], Value); 8] = [
        (&["plan"], json!({"command": "plan"})),
        (&plan, json!({"command": "plan", "file": file})),
        (&["reload"], json!({"command": "reload"})),
        (&["start", "a"], json!({"command": "start", "children": ["a"]})),
        (&["restart", "a", "b"], json!({"command": "restart", "children": ["a", "b"]})),
        (&["shutdown"], json!({"command": "shutdown", "fast": false})),
        (&["shutdown", "--fast"], json!({"command": "shutdown", "fast": true})),
        (&["reopen"], json!({"command": "reopen"})),
    ];
    for (words, request) in requests {
        let daemon = FakeDaemon::up("{\"exit\":0}\n");
        let called = daemon.plumbd(words);
        assert_eq!((called.status, called.out.as_str(), called.err.as_str()), (0, "", ""), "{words:?}");
        assert_eq!(daemon.requests(), [json!({"command": "status"}), request]);
    }
}

#[test]
fn if_the_daemon_dies_or_sends_nonsense_the_command_fails() {
    let broken = [
        ("{\"out\":\"so far\"}\n", "plumbd: cannot tell the outcome: the daemon closed the connection\n"),
        ("HTTP/1.1 400 Bad Request\r\n", "plumbd: cannot read the daemon's answer: "),
        ("{\"exit\":0", "plumbd: cannot read the daemon's answer: "),
    ];
    for (answer, why) in broken {
        let daemon = FakeDaemon::up(answer);
        let called = daemon.plumbd(&["reload"]);
        assert_eq!(called.status, 1, "{answer}");
        assert!(called.err.starts_with(why), "{answer}: {}", called.err);
        daemon.requests();
    }
}

#[test]
fn status_exits_0_if_all_is_up_and_4_otherwise() {
    for (state, exit) in [("up", 0), ("backoff", 4)] {
        let daemon = FakeDaemon::new(1, status_answer(state));
        let called = daemon.plumbd(&["status"]);
        assert_eq!((called.status, called.err.as_str()), (exit, ""));
        assert!(called.out.lines().any(|l| l.starts_with(&format!("logger  {state} "))), "{}", called.out);
        assert_eq!(daemon.requests(), [json!({"command": "status"})]);
    }
}

#[test]
fn a_daemon_that_can_not_tell_about_one_child_is_said_to_be_of_an_earlier_version() {
    let unknown = "cannot read the request: unknown variant `inspect`, expected one of `status`, `plan` at line 1";
    let answer = format!("{}\n{{\"exit\":1}}\n", json!({"err": unknown}));
    let daemon = FakeDaemon::up(&answer);
    let called = daemon.plumbd(&["status", "logger"]);
    assert_eq!((called.status, called.out.as_str()), (1, ""));
    assert_eq!(
        called.err,
        "plumbd: cannot show a single child: the daemon that runs is of an earlier version, which does not tell; \
         `plumbd status` shows all children\n"
    );
    assert_eq!(
        daemon.requests(),
        [json!({"command": "status"}), json!({"command": "inspect", "children": ["logger"]})]
    );
}

#[test]
fn status_as_json_has_the_documented_shape() {
    let daemon = FakeDaemon::new(1, status_answer("up"));
    let called = daemon.plumbd(&["status", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&called.out).unwrap(), shown("up"));
    daemon.requests();
}

#[test]
fn the_socket_is_found_by_option_then_environment_then_configuration() {
    let daemon = FakeDaemon::new(3, status_answer("up"));
    let socket = daemon.socket();
    let elsewhere = tempfile::tempdir().unwrap();
    let config = daemon.folder.path().join("x.toml");
    // The configuration has a problem, but still shows where the daemon is.
    std::fs::write(&config, "[daemon]\ncontrol = \"plumbd.sock\"\nlog = \"paper\"\n").unwrap();
    let words = ["status", "-c", config.to_str().unwrap()];
    command(elsewhere.path(), &words).assert().success();
    command(elsewhere.path(), &["status", "-c", "none.toml"]).env("PLUMBD_CONTROL", &socket).assert().success();
    let words = ["status", "--control", socket.to_str().unwrap()];
    command(elsewhere.path(), &words).env("PLUMBD_CONTROL", "none.sock").assert().success();
    daemon.requests();
}

/// The write end of a pipe that no process reads.
fn unread_pipe() -> Stdio {
    let (_read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    write.into()
}

#[test]
fn if_the_reader_is_gone_the_exit_status_does_not_change() {
    for (words, state, exit) in [("status", "up", 0), ("status", "down", 4), ("man", "", 0)] {
        let daemon = FakeDaemon::new(if words == "status" { 1 } else { 0 }, status_answer(state));
        let output = std::process::Command::new(BIN)
            .arg(words)
            .env("PLUMBD_CONTROL", daemon.socket())
            .stdout(unread_pipe())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(exit), &b""[..]), "{words}");
        daemon.requests();
    }
}

#[test]
fn an_answer_that_can_not_be_written_is_a_failure() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = std::process::Command::new(BIN).arg("man").stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "plumbd: cannot write to standard output: No space left on device\n"
    );
}

#[test]
fn a_watched_status_is_printed_again_until_its_reader_is_gone() {
    let daemon = FakeDaemon::new(2, status_answer("up"));
    let mut watch = std::process::Command::new(BIN)
        .args(["status", "--watch", "--json"])
        .env("PLUMBD_CONTROL", daemon.socket())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = lines.next().unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), shown("up"));
    }
    drop(lines);
    let deadline = Instant::now() + PATIENCE;
    let exit = loop {
        match watch.try_wait().unwrap() {
            Some(exit) => break exit,
            None if Instant::now() > deadline => {
                watch.kill().unwrap();
                panic!("it goes on although nothing reads its output");
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    assert_eq!(exit.code(), Some(0));
    daemon.requests();
}

#[test]
fn a_watched_status_ends_with_its_reader_even_while_no_daemon_answers() {
    let daemon = FakeDaemon::new(1, status_answer("up"));
    let mut watch = std::process::Command::new(BIN)
        .args(["status", "--watch", "--json"])
        .env("PLUMBD_CONTROL", daemon.socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    daemon.requests();
    let mut told = String::new();
    BufReader::new(watch.stderr.take().unwrap()).read_line(&mut told).unwrap();
    assert!(
        told.starts_with("plumbd: cannot reach the daemon") || told.starts_with("cannot reach the daemon"),
        "{told}"
    );
    drop(lines);
    let exit = wait_for("its end", || watch.try_wait().unwrap());
    assert_eq!(exit.code(), Some(0));
}

#[test]
fn a_pid_file_that_another_process_holds_is_refused_with_its_pid() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.toml"), "daemon.log = \"stderr\"\n[children.x]\ncommand = [\"/bin/cat\"]\n")
        .unwrap();
    let path = folder.path().join("pid");
    std::fs::write(&path, "4242\n").unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let _held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap();
    for extra in [&[][..], &["--daemon"]] {
        let words = [&["run", "-c", "x.toml", "--pid-file", "pid"], extra].concat();
        let called = plumbd(folder.path(), &words);
        assert_eq!((called.status, called.out.as_str()), (1, ""), "{extra:?}");
        let why = format!("plumbd: cannot lock the pid file {}: process 4242 holds it\n", path.display());
        // With --daemon, the line before it reports that there is no log.
        assert!(called.err.ends_with(&why) && called.err.lines().count() == 1 + extra.len(), "{}", called.err);
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "4242\n");
}
