//! The control socket: it copes with any bytes, and only some users may use it.

use crate::daemon::{Daemon, kill, wait_for};
use plumbd::control::Request;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;

const ONE: &str = "[children.one]\ncommand = [\"sleep\", \"1000\"]\n";

fn connect(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.path("plumbd.sock")).unwrap();
    stream.set_read_timeout(Some(crate::daemon::DEADLINE)).unwrap();
    stream.set_write_timeout(Some(crate::daemon::DEADLINE)).unwrap();
    stream
}

/// What it answers until it closes. A reset counts as a close; it comes if not all was read.
fn answer(mut stream: UnixStream) -> String {
    let mut answer = Vec::new();
    let _closed = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// Bytes of every value, the same each time.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (seed + 1);
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[5]
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn any_bytes_are_refused_and_logged_and_the_daemon_lives() {
    let mut daemon = Daemon::start(ONE);
    let one = daemon.child_pid("one");
    for seed in 0..300 {
        let mut stream = connect(&daemon);
        let len = usize::try_from(seed).unwrap() * 7 % 400;
        let mut bytes = noise(seed, len);
        bytes.push(b'\n');
        // The daemon may have refused the first line before it gets the rest.
        let _refused = stream.write_all(&bytes);
        let answer = answer(stream);
        assert!(answer.starts_with("{\"err\":\"cannot read the request: "), "{answer}");
        assert!(answer.ends_with("{\"exit\":1}\n"), "{answer}");
    }
    for wrong in [
        "{}\n",
        "null\n",
        "[]\n",
        "{\"command\":\"stopp\"}\n",
        "{\"command\":\"stop\"}\n",
        "{\"command\":\"stop\",\"children\":\"one\"}\n",
        "{\"command\":\"stop\",\"children\":[1]}\n",
        "{\"command\":7}\n",
    ] {
        let mut stream = connect(&daemon);
        stream.write_all(wrong.as_bytes()).unwrap();
        let answer = answer(stream);
        assert!(answer.contains("cannot read the request"), "{wrong:?}: {answer}");
    }
    daemon.wait_log("WARN plumbd: control: cannot read the request");
    assert_eq!(daemon.child_pid("one"), one);
    daemon.stop();
}

#[test]
fn deeply_nested_json_is_refused() {
    let mut daemon = Daemon::start(ONE);
    let mut stream = connect(&daemon);
    let _refused = stream.write_all(&[vec![b'['; 60_000], vec![b'\n']].concat());
    assert!(answer(stream).contains("cannot read the request"));
    assert!(daemon.status().all_up());
    daemon.stop();
}

#[test]
fn a_mebibyte_of_garbage_is_refused_and_takes_no_memory() {
    let mut daemon = Daemon::start(ONE);
    for _ in 0..20 {
        let mut stream = connect(&daemon);
        let _refused = stream.write_all(&vec![b'x'; 1 << 20]);
        assert!(answer(stream).contains("it is longer than 65536 bytes"));
    }
    let resident = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let kib = resident.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim();
    let kib: u64 = kib.split(' ').next().unwrap().parse().unwrap();
    assert!(kib < 32 << 10, "{kib} KiB");
    daemon.stop();
}

#[test]
fn half_requests_and_silence_do_not_keep_others_from_being_served() {
    let mut daemon = Daemon::start(ONE);
    let before = daemon.descriptors();
    let mut silent: Vec<UnixStream> = Vec::new();
    for number in 0..200 {
        let mut stream = connect(&daemon);
        if number % 2 == 0 {
            let _gone = stream.write_all(b"{\"command\":\"sta");
        }
        silent.push(stream);
    }
    assert!(daemon.status().all_up());
    assert!(daemon.descriptors() <= before + 65, "{} descriptors", daemon.descriptors());
    // Half a request, and then the other half, one byte at a time.
    let mut stream = connect(&daemon);
    for byte in b"{\"command\":\"reopen\"}\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert!(answer(stream).ends_with("{\"exit\":0}\n"));
    drop(silent);
    wait_for("all are closed", || (daemon.descriptors() <= before).then_some(()));
    daemon.stop();
}

#[test]
fn an_operator_that_leaves_before_the_answer_does_no_harm() {
    let mut daemon = Daemon::start(ONE);
    let before = daemon.descriptors();
    for request in [Request::Status, Request::Reload, Request::Restart { children: vec!["one".into()] }] {
        for _ in 0..20 {
            connect(&daemon).write_all(&request.line().unwrap()).unwrap();
        }
    }
    wait_for("all are closed", || (daemon.descriptors() <= before).then_some(()));
    wait_for("the child is up", || daemon.status().all_up().then_some(()));
    daemon.stop();
}

#[test]
fn only_the_owner_has_access_to_the_socket() {
    let mut daemon = Daemon::start_after("umask 0000", ONE);
    let mode = std::fs::metadata(daemon.path("plumbd.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    daemon.stop();
}

#[test]
#[ignore = "needs root, run by .ci/run"]
fn another_user_is_refused_and_logged() {
    let mut daemon = Daemon::start(ONE);
    // Let that user reach the socket, so that only the kernel's report of who it is counts.
    for path in [daemon.dir.path().to_owned(), daemon.path("plumbd.sock")] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let program = daemon.path("plumbd");
    std::fs::copy(env!("CARGO_BIN_EXE_plumbd"), &program).unwrap();
    let asked = Command::new(&program)
        .args(["shutdown", "--control", "plumbd.sock"])
        .current_dir(daemon.dir.path())
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    daemon.wait_log("of user 65534: only root and the daemon's own user may");
    assert!(daemon.status().all_up());
    daemon.stop();
}

/// Runs a second daemon in the same folder, and returns how it ended.
fn second(daemon: &Daemon) -> std::process::Output {
    let run = Command::new(env!("CARGO_BIN_EXE_plumbd"))
        .args(["run", "-c", "plumbd.toml"])
        .current_dir(daemon.dir.path())
        .output();
    run.unwrap()
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused() {
    let mut daemon = Daemon::start(ONE);
    let one = daemon.child_pid("one");
    let refused = second(&daemon);
    assert_eq!(refused.status.code(), Some(1));
    let err = String::from_utf8(refused.stderr).unwrap();
    assert!(err.contains("cannot listen on") && err.contains("another plumbd runs there"), "{err}");
    assert_eq!(daemon.child_pid("one"), one);

    // Also while the first one is too busy to answer, and its backlog full.
    daemon.signal(nix::libc::SIGSTOP);
    wait_for("it stands", || (crate::daemon::state(daemon.pid()) == Some('T')).then_some(()));
    let mut waiting = Vec::new();
    loop {
        let flags = nix::sys::socket::SockFlag::SOCK_NONBLOCK | nix::sys::socket::SockFlag::SOCK_CLOEXEC;
        let family = nix::sys::socket::AddressFamily::Unix;
        let socket = nix::sys::socket::socket(family, nix::sys::socket::SockType::Stream, flags, None).unwrap();
        let address = nix::sys::socket::UnixAddr::new(&daemon.path("plumbd.sock")).unwrap();
        match nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &address) {
            Ok(()) => waiting.push(socket),
            Err(error) => {
                assert_eq!(error, nix::errno::Errno::EAGAIN);
                break;
            }
        }
        assert!(waiting.len() < 10_000);
    }
    assert_eq!(second(&daemon).status.code(), Some(1));
    drop(waiting);
    daemon.signal(nix::libc::SIGCONT);
    assert!(daemon.status().all_up());
    daemon.stop();
}

#[test]
fn a_stale_socket_is_taken_over_but_not_another_kind_of_file() {
    let dir = tempfile::tempdir().unwrap();
    // The listener is gone, but not its name.
    drop(UnixListener::bind(dir.path().join("plumbd.sock")).unwrap());
    assert!(dir.path().join("plumbd.sock").exists());
    let mut daemon = Daemon::spawn_in(dir, ONE);
    assert!(daemon.status().all_up() || daemon.child("one").pid.is_some());
    daemon.stop();

    std::fs::write(daemon.path("plumbd.sock"), "somebody's notes").unwrap();
    let refused = second(&daemon);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("the path is no socket"));
    assert_eq!(daemon.read_text("plumbd.sock"), "somebody's notes");
}

#[test]
fn status_has_the_documented_facts() {
    let mut daemon = Daemon::start(ONE);
    let status = daemon.status();
    assert_eq!((status.version, status.pid, status.reloads), (1, daemon.pid(), 0));
    assert_eq!(status.config.unwrap(), daemon.path("plumbd.toml").to_str().unwrap());
    let one = daemon.child("one");
    assert!(one.ready && one.last_exit.is_none() && one.problem.is_none() && one.restarts == 0);
    assert!(one.since >= status.since);
    kill(one.pid.unwrap(), nix::libc::SIGKILL);
    daemon.wait_replaced("one", one.pid.unwrap());
    let next = daemon.child("one");
    assert!(next.since >= one.since && next.last_exit.unwrap().at >= one.since);
    daemon.stop();
}

/// `plumbd WORDS` in the daemon's folder: exit status, standard output, standard error.
fn plumbd(daemon: &Daemon, words: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plumbd"));
    let output = command.args(words).current_dir(daemon.dir.path()).env_remove("PLUMBD_CONTROL").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_child_that_finished_successfully_is_no_problem() {
    let once = |name: &str, code: u8| {
        format!("[children.{name}]\ncommand = [\"sh\", \"-c\", \"exit {code}\"]\nrestart = \"never\"\n")
    };
    let mut daemon = Daemon::start(&format!("{ONE}{}", once("setup", 0)));
    wait_for("it finished", || daemon.child("setup").finished.then_some(()));
    let (status, out, _) = plumbd(&daemon, &["status"]);
    assert_eq!(status, 0, "{out}");
    assert!(out.lines().any(|line| line.starts_with("setup  finished")) && !out.contains('!'), "{out}");
    // A child that an operator stopped is different, and so is one that failed.
    daemon.done(&Request::Stop { children: vec!["one".into()] });
    let (status, out, _) = plumbd(&daemon, &["status"]);
    assert_eq!(status, 4);
    assert!(out.contains("! one: it is down; `plumbd start one` starts it"), "{out}");
    daemon.done(&Request::Start { children: vec!["one".into()] });
    let mut other = Daemon::start(&once("broken", 7));
    wait_for("it failed", || other.child("broken").last_exit.map(|_| ()));
    assert!(!other.child("broken").finished);
    assert_eq!(plumbd(&other, &["status"]).0, 4);
    other.stop();
    daemon.stop();
}

#[test]
fn a_daemon_that_hangs_is_distinguished_from_one_that_does_not_run() {
    let mut daemon = Daemon::start(ONE);
    daemon.signal(nix::libc::SIGSTOP);
    wait_for("it stands", || (crate::daemon::state(daemon.pid()) == Some('T')).then_some(()));
    let (status, out, err) = plumbd(&daemon, &["status"]);
    assert_eq!((status, out.as_str()), (1, ""));
    assert_eq!(err, "plumbd: cannot talk to the daemon: it runs, but does not answer\n");
    // Commands that may take long are not even begun.
    for words in [&["stop", "one"][..], &["reload"], &["shutdown"]] {
        let said = plumbd(&daemon, words);
        assert_eq!(said, (1, String::new(), err.clone()), "{words:?}");
    }
    daemon.signal(nix::libc::SIGCONT);
    assert_eq!(plumbd(&daemon, &["status"]).0, 0);
    daemon.stop();
}

#[test]
fn half_a_line_that_a_sink_carries_is_queued_but_is_no_stall() {
    let mut daemon = Daemon::start(
        "[children.source]\ncommand = [\"sh\", \"-c\", \"printf half; exec sleep 1000\"]\n\
         [children.logger]\nplugin = \"logger\"\nsettings = { file = \"messages.log\" }\n\
         [[links]]\nfrom = \"source\"\nto = \"logger\"\n",
    );
    // This waits longer than it takes for queued bytes to count as a stall. If these counted,
    // they would have waited since the first look.
    let start = std::time::Instant::now();
    wait_for("it is carried", || {
        let link = daemon.link("source", "logger");
        let late = start.elapsed() > std::time::Duration::from_millis(300);
        (late && link.queued_bytes == 4 && link.stalled_for_ms == 0).then_some(())
    });
    daemon.stop();
}

#[test]
fn one_status_is_enough_to_see_that_a_sink_is_stalled_and_since_when() {
    let port = crate::daemon::free_port();
    let mut daemon = Daemon::start(&format!(
        "[children.echo]\nplugin = \"echo\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [children.logger]\nplugin = \"logger\"\nsettings = {{ file = \"messages.log\" }}\n\
         [[links]]\nfrom = \"echo\"\nto = \"logger\"\n"
    ));
    let mut client = daemon.connect(port);
    let mut echo = [0; 4];
    let before = std::time::Instant::now();
    client.write_all(b"one\n").unwrap();
    client.read_exact(&mut echo).unwrap();
    let saved = std::time::Instant::now();
    let logger = daemon.child_pid("logger");
    kill(logger, nix::libc::SIGSTOP);
    wait_for("it stands", || (crate::daemon::state(logger) == Some('T')).then_some(()));
    client.write_all(b"two\n").unwrap();
    let stalled = wait_for("a status that tells", || {
        // The first status that sees bytes wait already has all of it, because it looks twice.
        let least = saved.elapsed();
        let (_, out, _) = plumbd(&daemon, &["status", "--json"]);
        let status: plumbd::control::Status = serde_json::from_str(&out).unwrap();
        let link = &status.links[0];
        let stalled = std::time::Duration::from_millis(link.stalled_for_ms);
        (link.queued_bytes > 0 && stalled > least).then_some(stalled)
    });
    assert!(stalled <= before.elapsed(), "{stalled:?} of {:?}", before.elapsed());
    let (status, out, _) = plumbd(&daemon, &["status"]);
    let why = format!("! logger: process {logger} is stopped; `kill -CONT {logger}` lets it go on\n");
    assert!(status == 4 && out.contains(&why), "{out}");
    kill(logger, nix::libc::SIGCONT);
    client.read_exact(&mut echo).unwrap();
    wait_for("it flows", || (daemon.link("echo", "logger").stalled_for_ms == 0).then_some(()));
    daemon.stop();
}

#[test]
fn if_several_start_at_once_on_a_stale_socket_one_runs_and_can_be_reached() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(dir.path().join("plumbd.sock")).unwrap());
        std::fs::write(dir.path().join("plumbd.toml"), ONE).unwrap();
        let start = || {
            Command::new(env!("CARGO_BIN_EXE_plumbd"))
                .args(["run", "-c", "plumbd.toml"])
                .current_dir(dir.path())
                .stdin(std::process::Stdio::null())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut all: Vec<_> = (0..4).map(|_| start()).collect();
        let mut ended = 0;
        wait_for("all but one have ended", || {
            ended = all.iter_mut().filter_map(|process| process.try_wait().unwrap()).count();
            (ended >= 3).then_some(())
        });
        let (mut runs, mut losers) = (Vec::new(), Vec::new());
        for mut process in all {
            match process.try_wait().unwrap() {
                None => runs.push(process),
                Some(_) => losers.push(process),
            }
        }
        assert_eq!((runs.len(), losers.len()), (1, 3));
        for loser in losers {
            let output = loser.wait_with_output().unwrap();
            let why = String::from_utf8(output.stderr).unwrap();
            assert!(why.contains("another plumbd runs there"), "{why}");
        }
        // The others may have been refused while it was about to take the name.
        wait_for("it has its name, and the lock is gone", || {
            let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            (names == ["plumbd.sock", "plumbd.toml"]).then_some(())
        });
        let pid = i32::try_from(runs[0].id()).unwrap();
        let mut stream = UnixStream::connect(dir.path().join("plumbd.sock")).unwrap();
        stream.write_all(b"{\"command\":\"shutdown\",\"fast\":false}\n").unwrap();
        assert!(answer(stream).ends_with("{\"exit\":0}\n"), "process {pid}");
        assert!(runs.remove(0).wait().unwrap().success());
        assert!(!dir.path().join("plumbd.sock").exists());
    }
}

#[test]
fn another_operator_is_served_however_many_wait() {
    let slow = "[children.slow]\ncommand = [\"sleep\", \"1000\"]\nready = \"fd\"\nready_timeout = \"1000s\"\n";
    let mut daemon = Daemon::spawn(slow);
    daemon.status();
    let waiting: Vec<UnixStream> = (0..80)
        .map(|_| {
            let mut stream = connect(&daemon);
            stream.write_all(b"{\"command\":\"start\",\"children\":[\"slow\"]}\n").unwrap();
            stream
        })
        .collect();
    // Several have connected and not asked for anything yet.
    let late: Vec<UnixStream> = (0..5).map(|_| connect(&daemon)).collect();
    daemon.status();
    for mut stream in late {
        stream.write_all(b"{\"command\":\"status\"}\n").unwrap();
        assert!(answer(stream).ends_with("{\"exit\":0}\n"));
    }
    drop(waiting);
    daemon.stop();
}

#[test]
fn a_crowd_of_silent_clients_keeps_no_other_out() {
    let mut daemon = Daemon::start(ONE);
    let _crowd: Vec<UnixStream> = (0..200).map(|_| connect(&daemon)).collect();
    daemon.status();
    daemon.wait_log("closed a connection that has asked for nothing");
    daemon.stop();
}
