//! Reload: what changes, what stays as it is, and that a wrong file changes nothing.

use crate::daemon::{DEADLINE, Daemon, alive, free_port, kill, wait_for};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, DaemonState};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SLEEP: &str = "command = [\"sleep\", \"1000\"]\n";

/// The text with each run of spaces and line ends as one space.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn refused(port: u16) {
    let error = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn only_what_changed_gets_another_process() {
    let mut daemon = Daemon::start(&format!(
        "[children.same]\n{SLEEP}[children.changed]\n{SLEEP}[children.policy]\n{SLEEP}[children.gone]\n{SLEEP}"
    ));
    let [same, changed, policy, gone] = ["same", "changed", "policy", "gone"].map(|name| daemon.child_pid(name));
    let said = daemon.reload(&format!(
        "[children.same]\n{SLEEP}[children.changed]\n{SLEEP}umask = \"0077\"\n\
         [children.policy]\n{SLEEP}restart = \"never\"\nstop_timeout = \"3s\"\n[children.new]\n{SLEEP}"
    ));
    let file = daemon.path("plumbd.toml").display().to_string();
    for line in [
        format!("restart changed {file}:5: umask changes from \"0022\" to \"0077\""),
        format!("keep policy {file}:8: restart changes from \"always\" to \"never\"; its process stays"),
        format!("keep policy {file}:9: stop_timeout changes from \"10s\" to \"3s\"; its process stays"),
        format!("start new {file}:10: it is new stop gone it is not in the new configuration"),
    ] {
        assert!(words(&said).contains(&line), "{line:?} is not in {said}");
    }
    let status = daemon.status();
    assert_eq!((status.state, status.reloads), (DaemonState::Running, 1));
    let names: Vec<&str> = status.children.iter().map(|child| child.name.as_str()).collect();
    assert_eq!(names, ["same", "changed", "policy", "new"]);
    assert!(status.all_up());
    assert_eq!((daemon.child_pid("same"), daemon.child_pid("policy")), (same, policy));
    assert_ne!(daemon.child_pid("changed"), changed);
    assert!(!alive(changed) && !alive(gone));
    // The new policy applies to the process that stayed.
    kill(policy, nix::libc::SIGKILL);
    daemon.wait_child("policy", ChildState::Down);
    daemon.stop();
}

#[test]
fn a_reload_by_signal_does_the_same_as_by_request() {
    let mut daemon = Daemon::start(&format!("[children.one]\n{SLEEP}"));
    let one = daemon.child_pid("one");
    daemon.configure(&format!("[children.one]\n{SLEEP}[children.two]\n{SLEEP}"));
    daemon.signal(nix::libc::SIGHUP);
    wait_for("the reload", || (daemon.status().reloads == 1).then_some(()));
    daemon.wait_child("two", ChildState::Up);
    assert_eq!(daemon.child_pid("one"), one);
    daemon.stop();
}

#[test]
fn ports_are_added_and_removed_and_one_that_stays_never_refuses() {
    let [stays, goes, comes] = [free_port(), free_port(), free_port()];
    let config = |umask: &str, other: u16| {
        format!(
            "[children.server]\n{SLEEP}umask = \"{umask}\"\n\
             listen = [\"tcp://127.0.0.1:{stays}\", \"tcp://127.0.0.1:{other}\"]\n"
        )
    };
    let mut daemon = Daemon::start(&config("0022", goes));
    daemon.connect(goes);
    refused(comes);
    let over = Arc::new(AtomicBool::new(false));
    let (connected, so_far) = std::sync::mpsc::channel();
    let client = std::thread::spawn({
        let over = over.clone();
        move || {
            while !over.load(Ordering::Relaxed) {
                TcpStream::connect(("127.0.0.1", stays)).unwrap();
                connected.send(()).unwrap();
                std::thread::sleep(std::time::Duration::from_micros(500));
            }
        }
    });
    so_far.recv().unwrap();
    let pid = daemon.child_pid("server");
    daemon.reload(&config("0022", comes));
    assert_ne!(daemon.child_pid("server"), pid);
    refused(goes);
    daemon.connect(comes);
    for umask in ["0027", "0077", "0022"] {
        daemon.reload(&config(umask, comes));
    }
    over.store(true, Ordering::Relaxed);
    client.join().unwrap();
    daemon.stop();
    refused(stays);
}

#[test]
fn a_wrong_file_changes_nothing_and_every_problem_is_reported() {
    let good = format!("[children.one]\n{SLEEP}[children.two]\n{SLEEP}");
    let mut daemon = Daemon::start(&good);
    let pids = [daemon.child_pid("one"), daemon.child_pid("two")];
    daemon.configure(&format!("[children.one]\n{SLEEP}umaks = \"0077\"\n[[links]]\nfrom = \"one\"\nto = \"three\"\n"));
    let (status, out, err) = daemon.ask(&Request::Reload);
    assert_eq!((status, out.as_str()), (78, ""));
    for text in ["plumbd.toml:3:1: unknown key", "did you mean", "umask", "plumbd.toml:6:6:", "three"] {
        assert!(err.contains(text), "{text:?} is not in {err}");
    }
    let logged = format!("ERROR plumbd: reload: {}:", daemon.path("plumbd.toml").display());
    daemon.wait_log(&format!("{logged}3:1: unknown key"));
    daemon.wait_log(&format!("{logged}6:6: there is no child"));

    daemon.configure("\u{0}\u{1}");
    daemon.signal(nix::libc::SIGHUP);
    daemon.wait_log(&format!("{logged}1:1:"));
    std::fs::remove_file(daemon.path("plumbd.toml")).unwrap();
    let (status, _, err) = daemon.ask(&Request::Reload);
    assert_eq!(status, 78);
    assert!(err.contains("No such file"), "{err}");

    assert_eq!([daemon.child_pid("one"), daemon.child_pid("two")], pids);
    assert_eq!((daemon.status().reloads, daemon.status().state), (0, DaemonState::Running));
    daemon.reload(&good);
    assert_eq!([daemon.child_pid("one"), daemon.child_pid("two")], pids);
    daemon.stop();
}

#[test]
fn a_service_manager_is_notified_of_a_reload_even_if_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let hears = |text: &str| {
        let mut bytes = [0; 1024];
        let len = manager.recv(&mut bytes).unwrap();
        let said = String::from_utf8_lossy(&bytes[..len]);
        assert!(said.starts_with(text), "{said:?} does not begin with {text:?}");
    };
    let config = format!("[children.one]\n{SLEEP}");
    let mut daemon = Daemon::start_after(&format!("export NOTIFY_SOCKET='{}'", path.display()), &config);
    hears("READY=1\n");
    for config in ["wrong", &config] {
        daemon.configure(config);
        daemon.signal(nix::libc::SIGHUP);
        hears("RELOADING=1\nMONOTONIC_USEC=");
        hears("READY=1");
    }
    daemon.stop();
}

#[test]
fn a_port_that_is_taken_changes_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut daemon = Daemon::start(&format!("[children.one]\n{SLEEP}"));
    let one = daemon.child_pid("one");
    daemon.configure(&format!(
        "[children.one]\n{SLEEP}umask = \"0077\"\n\
         listen = [\"unix:new.sock\", \"tcp://127.0.0.1:{port}\"]\n[children.two]\n{SLEEP}"
    ));
    let (status, _, err) = daemon.ask(&Request::Reload);
    assert_eq!(status, 1);
    let told = format!("plumbd.toml:4: cannot listen on tcp://127.0.0.1:{port}: Address already in use by ");
    let own = format!(" (process {}); stop it, or take another port\n", std::process::id());
    assert!(err.starts_with(&daemon.path(&told).display().to_string()) && err.contains(&own), "{err}");
    let (status, out, planned) = daemon.ask(&Request::Plan { file: None });
    assert_eq!((status, planned.lines().next()), (1, err.lines().next()));
    assert!(out.contains(&format!("socket   tcp://127.0.0.1:{port}")), "{out}");
    assert!(!daemon.path("new.sock").exists(), "a socket of a reload that did not happen");
    assert_eq!((daemon.child_pid("one"), daemon.status().children.len()), (one, 1));
    daemon.stop();
}

#[test]
fn a_plan_says_what_a_reload_would_do_and_does_nothing() {
    let mut daemon = Daemon::start(&format!("[children.one]\n{SLEEP}[children.two]\n{SLEEP}"));
    let before = daemon.status();
    daemon.configure(&format!(
        "[children.one]\n{SLEEP}umask = \"0077\"\n[children.three]\n{SLEEP}listen = [\"unix:three.sock\"]\n"
    ));
    let plan = daemon.done(&Request::Plan { file: None });
    for text in ["restart one", "umask changes from \"0022\" to \"0077\"", "stop two", "start three"] {
        assert!(words(&plan).contains(text), "{text:?} is not in {plan}");
    }
    std::fs::write(daemon.path("other.toml"), format!("[children.one]\n{SLEEP}[children.two]\n{SLEEP}")).unwrap();
    let plan = daemon.done(&Request::Plan { file: Some(daemon.path("other.toml")) });
    assert!(!plan.contains("restart") && !plan.contains("stop"), "{plan}");
    std::fs::write(daemon.path("wrong.toml"), "[children.one]\n").unwrap();
    let (status, _, err) = daemon.ask(&Request::Plan { file: Some(daemon.path("wrong.toml")) });
    assert_eq!(status, 78);
    assert!(err.contains("wrong.toml:1:"), "{err}");
    assert_eq!(daemon.status(), before);
    assert!(!daemon.path("three.sock").exists());
    daemon.stop();
}

/// A child that stops only once there is a file named `go`.
fn slow_to_stop(extra: &str) -> String {
    format!(
        r#"
        [daemon]
        stop_timeout = "1000s"
        [children.slow]
        command = ["sh", "-c", """
        trap 'while ! test -e go; do sleep 0.01; done; exit 0' TERM
        echo >&$PLUMBD_READY_FD
        while :; do sleep 0.01; done
        """]
        ready = "fd"
        stop_timeout = "1000s"
        {extra}
        "#
    )
}

#[test]
fn a_reload_during_a_reload_waits_for_its_turn() {
    let mut daemon = Daemon::start(&slow_to_stop(""));
    daemon.configure(&slow_to_stop("umask = \"0077\""));
    let first = daemon.ask_meanwhile(Request::Reload);
    daemon.wait_state(DaemonState::Reloading);
    daemon.configure(&slow_to_stop(&format!("umask = \"0077\"\n[children.late]\n{SLEEP}")));
    let second = daemon.ask_meanwhile(Request::Reload);
    let third = daemon.ask_meanwhile(Request::Reload);
    // In the middle of the reload, status is still answered.
    assert_eq!(daemon.child("slow").state, ChildState::Stopping);
    assert_eq!(daemon.status().children.len(), 1);
    std::fs::write(daemon.path("go"), "").unwrap();
    for reload in [first, second, third] {
        let (status, out, err) = reload.join().unwrap().unwrap();
        assert_eq!((status, err.as_str()), (0, ""), "{out}");
    }
    daemon.wait_child("late", ChildState::Up);
    assert_eq!(daemon.status().reloads, 3);
    daemon.stop();
}

#[test]
fn a_reload_that_fails_does_not_lose_those_that_wait_behind_it() {
    let mut daemon = Daemon::start(&slow_to_stop(""));
    let before = daemon.descriptors();
    daemon.configure(&slow_to_stop("umask = \"0077\""));
    let first = daemon.ask_meanwhile(Request::Reload);
    daemon.wait_state(DaemonState::Reloading);
    daemon.configure("wrong");
    let others = [(); 3].map(|()| daemon.ask_meanwhile(Request::Reload));
    // The connection of the first one and at least two more. (One that was counted before
    // may have been closed since.)
    wait_for("others wait behind it", || (daemon.descriptors() >= before + 3).then_some(()));
    daemon.status();
    std::fs::write(daemon.path("go"), "").unwrap();
    assert_eq!(first.join().unwrap().unwrap().0, 0);
    for other in others {
        let (status, _, err) = other.join().unwrap().unwrap();
        assert_ne!(status, 0);
        assert!(err.contains("plumbd.toml:1:"), "{err}");
    }
    daemon.stop();
}

#[test]
fn the_last_of_many_hangups_counts() {
    let config = |generation: usize| {
        format!(
            "[children.one]\ncommand = [\"sleep\", \"1000\"]\nenvironment = {{ GENERATION = \"{generation}\" }}\n\
             [children.kept]\n{SLEEP}"
        )
    };
    let mut daemon = Daemon::start(&config(0));
    let kept = daemon.child_pid("kept");
    for generation in 1..=100 {
        // It is renamed into place, so that no reload reads half a file.
        std::fs::write(daemon.path("new"), config(generation)).unwrap();
        std::fs::rename(daemon.path("new"), daemon.path("plumbd.toml")).unwrap();
        daemon.signal(nix::libc::SIGHUP);
    }
    wait_for("the last generation", || {
        let pid = daemon.child("one").pid?;
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        environment.split(|&b| b == 0).any(|entry| entry == b"GENERATION=100").then_some(())
    });
    daemon.wait_state(DaemonState::Running);
    assert_eq!(daemon.child_pid("kept"), kept);
    daemon.stop();
}

#[test]
fn a_reload_while_it_starts_is_carried_out_and_the_start_goes_on() {
    let config = |command: &str| {
        format!(
            "[children.one]\ncommand = [\"sh\", \"-c\", \"{command}\"]\nready = \"fd\"\nready_timeout = \"1000s\"\n\
             [children.two]\n{SLEEP}after = [\"one\"]\n[children.free]\n{SLEEP}"
        )
    };
    let mut daemon = Daemon::spawn(&config("sleep 1000"));
    daemon.wait_child("free", ChildState::Up);
    assert_eq!((daemon.status().state, daemon.child("two").state), (DaemonState::Starting, ChildState::Down));
    let free = daemon.child_pid("free");
    daemon.reload(&config("echo >&$PLUMBD_READY_FD; sleep 1000"));
    daemon.wait_state(DaemonState::Running);
    daemon.wait_child("two", ChildState::Up);
    assert_eq!(daemon.child_pid("free"), free);
    assert!(daemon.log().contains(" ready\n"), "{}", daemon.log());
    daemon.stop();
}

const SOURCE: &str = r#"
    [children.source]
    command = ["sh", "-c", "seq 1 10000; touch written; exec sleep 1000"]
    "#;

#[test]
fn a_link_that_is_removed_is_emptied_first() {
    let sink = r#"
        [children.sink]
        command = ["sh", "-c", "test -e again && exec sleep 1000; touch again; while ! test -e go; do sleep 0.01; done; cat > out"]
        "#;
    let link = "[[links]]\nfrom = \"source\"\nto = \"sink\"\n";
    let mut daemon = Daemon::start(&["[daemon]\nstop_timeout = \"1000s\"\n", SOURCE, sink, link].concat());
    wait_for("it is written", || daemon.path("written").exists().then_some(()));
    daemon.configure(&["[daemon]\nstop_timeout = \"1000s\"\n", SOURCE, sink].concat());
    let reload = daemon.ask_meanwhile(Request::Reload);
    daemon.wait_state(DaemonState::Reloading);
    wait_for("the source is down", || (daemon.child("source").state == ChildState::Down).then_some(()));
    assert!(daemon.link("source", "sink").queued_bytes > 0);
    std::fs::write(daemon.path("go"), "").unwrap();
    assert_eq!(reload.join().unwrap().unwrap().0, 0);
    assert_eq!(daemon.read_text("out").lines().count(), 10000);
    assert!(daemon.status().links.is_empty());
    daemon.stop();
}

#[test]
fn another_source_takes_the_place_of_one_that_is_removed() {
    let config = |name: &str| {
        format!(
            r#"
            [children.{name}]
            command = ["sh", "-c", "echo from {name}; exec sleep 1000"]
            [children.sink]
            command = ["sh", "-c", "exec cat >> out"]
            [[links]]
            from = "{name}"
            to = "sink"
            "#
        )
    };
    let mut daemon = Daemon::start(&config("one"));
    wait_for("the first line", || (daemon.read_text("out") == "from one\n").then_some(()));
    daemon.reload(&config("two"));
    wait_for("both lines", || (daemon.read_text("out") == "from one\nfrom two\n").then_some(()));
    let links = daemon.status().links;
    assert_eq!((links.len(), links[0].from.as_str()), (1, "two"));
    daemon.stop();
}

#[test]
fn one_of_several_sources_is_removed_while_another_never_pauses() {
    let config = |sources: &[&str]| {
        let mut text =
            "[daemon]\nstop_timeout = \"1000s\"\n[children.sink]\ncommand = [\"sh\", \"-c\", \"exec cat >> out\"]\n"
                .to_owned();
        for name in sources {
            text += &format!(
                "[children.{name}]\ncommand = [\"sh\", \"-c\", \"while :; do echo {name}; done\"]\n\
                 [[links]]\nfrom = \"{name}\"\nto = \"sink\"\ncapacity = \"64KiB\"\n"
            );
        }
        text
    };
    let mut daemon = Daemon::start(&config(&["busy", "goes"]));
    let busy = daemon.child_pid("busy");
    wait_for("both write", || {
        let out = daemon.read_text("out");
        (out.contains("busy\n") && out.contains("goes\n")).then_some(())
    });
    let asked = std::time::Instant::now();
    daemon.reload(&config(&["busy"]));
    assert!(asked.elapsed() < DEADLINE, "{:?}", asked.elapsed());
    assert_eq!(daemon.child_pid("busy"), busy);
    let before = daemon.read("out").len();
    wait_for("it goes on", || (daemon.read("out").len() > before).then_some(()));
    daemon.stop();
    // Only now is it sure that the sink is not in the middle of a write.
    assert!(daemon.read_text("out").lines().all(|line| line == "busy" || line == "goes"));
}

#[test]
fn a_failed_child_starts_again_when_a_reload_changes_it() {
    let config = |burst: u32, other: &str| {
        format!(
            "[children.one]\ncommand = [\"sh\", \"-c\", \"test -e mended || exit 1; exec sleep 1000\"]\n\
             start_limit = {{ burst = {burst}, within = \"60s\" }}\n[children.other]\n{SLEEP}{other}\n"
        )
    };
    let mut daemon = Daemon::start(&config(1, ""));
    daemon.wait_child("one", ChildState::Failed);
    std::fs::write(daemon.path("mended"), "").unwrap();
    daemon.reload(&config(1, "umask = \"0077\""));
    assert_eq!(daemon.child("one").state, ChildState::Failed, "nothing of it changed");
    daemon.reload(&config(2, "umask = \"0077\""));
    daemon.wait_child("one", ChildState::Up);
    daemon.stop();
}

/// A child that never becomes ready, and ends at once.
const BAD: &str = "[children.bad]\ncommand = [\"sh\", \"-c\", \"exit 3\"]\nready = \"fd\"\nrestart = \"never\"\n";

#[test]
fn a_reload_whose_new_child_does_not_start_is_undone() {
    let mut daemon = Daemon::start_managed(&format!("[children.one]\n{SLEEP}[children.two]\n{SLEEP}"));
    let one = daemon.child_pid("one");
    daemon.configure(&format!("[children.one]\n{SLEEP}[children.two]\n{SLEEP}umask = \"0077\"\n{BAD}"));
    let (status, out, err) = daemon.ask(&Request::Reload);
    let file = daemon.path("plumbd.toml").canonicalize().unwrap();
    let why = format!("bad ({}:6) exited with status 3 before it was ready, and restart = \"never\"", file.display());
    assert_eq!(
        (status, err.as_str()),
        (1, &*format!("cannot reload: {why}; undone: the previous configuration runs again\n"))
    );
    assert!(out.contains(&format!("{why}\ngoing back to the previous configuration\n")), "{out}");
    assert_eq!(daemon.child_pid("one"), one, "nothing of it changed");
    let two = daemon.wait_child("two", ChildState::Up);
    let umask = std::fs::read_to_string(format!("/proc/{}/status", two.pid.unwrap())).unwrap();
    assert!(umask.contains("Umask:\t0022\n"), "{umask}");
    let status = daemon.status();
    assert_eq!((status.children.len(), status.reloads), (2, 0));
    for said in ["RELOADING=1\n", "READY=1\nSTATUS=cannot reload: bad ("] {
        daemon.manager().wait_heard(said);
    }
    daemon.stop();
}

#[test]
fn a_reload_whose_child_is_not_ready_in_time_is_undone() {
    let mut daemon = Daemon::start(&format!("[children.one]\n{SLEEP}"));
    daemon.configure(&format!("[children.one]\n{SLEEP}umask = \"0077\"\nready = \"fd\"\nready_timeout = \"100ms\"\n"));
    let (status, _, err) = daemon.ask(&Request::Reload);
    assert_eq!(status, 1);
    assert!(err.contains("/plumbd.toml:1): not ready within 0.1 s; undone: "), "{err}");
    assert_eq!(daemon.child("one").state, ChildState::Up);
    daemon.stop();
}

#[test]
fn what_a_reload_removed_is_restored_when_it_is_undone() {
    let before = format!(
        "[children.gone]\n{SLEEP}listen = [\"unix:gone.sock\"]\n[children.held]\n{SLEEP}\
         [children.reader]\ncommand = [\"sh\", \"-c\", \"exec cat >>out\"]\n\
         [children.writer]\ncommand = [\"sh\", \"-c\", \"echo again; exec sleep 1000\"]\n\
         [[links]]\nfrom = \"writer\"\nto = \"reader\"\n"
    );
    let mut daemon = Daemon::start(&before);
    wait_for("the link works", || (daemon.read_text("out") == "again\n").then_some(()));
    daemon.done(&Request::Stop { children: vec!["held".into()] });
    let (_, inode) =
        (daemon.child_pid("gone"), std::os::unix::fs::MetadataExt::ino(&daemon.path("gone.sock").metadata().unwrap()));
    // In the middle, the reload waits for a child to become ready.
    daemon.configure("[children.new]\ncommand = [\"sh\", \"-c\", \"while ! test -e go; do sleep 0.01; done; exit 1\"]\nready = \"fd\"\n");
    let reload = daemon.ask_meanwhile(Request::Reload);
    wait_for("what is new starts", || {
        daemon.status().children.iter().any(|c| c.name == "new" && c.state == ChildState::Starting).then_some(())
    });
    assert_eq!(daemon.status().children.len(), 1);
    let _waits_in_the_backlog = std::os::unix::net::UnixStream::connect(daemon.path("gone.sock")).unwrap();
    std::fs::write(daemon.path("go"), "").unwrap();
    let (status, _, err) = reload.join().unwrap().unwrap();
    assert_eq!(status, 1, "{err}");
    let states: Vec<_> = daemon.status().children.into_iter().map(|child| (child.name, child.state)).collect();
    let wanted =
        [("gone", ChildState::Up), ("held", ChildState::Down), ("reader", ChildState::Up), ("writer", ChildState::Up)];
    assert_eq!(states, wanted.map(|(name, state)| (name.to_owned(), state)));
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&daemon.path("gone.sock").metadata().unwrap()), inode);
    wait_for("the link works again", || (daemon.read_text("out") == "again\nagain\n").then_some(()));
    daemon.stop();
}

#[test]
fn a_child_that_did_not_serve_before_is_no_reason_to_undo_a_reload() {
    let bad = BAD.replace("exit 3", "test -e mended || exit 3; echo >&$PLUMBD_READY_FD; exec sleep 1000");
    let mut daemon = Daemon::start(&bad);
    // It is still bad, and another child waits for it. But the new one that is good is started.
    daemon.configure(&format!(
        "{}[children.good]\n{SLEEP}[children.waits]\n{SLEEP}after = [\"bad\"]\n",
        bad.replace("exit 3", "exit 4")
    ));
    let (status, _, err) = daemon.ask(&Request::Reload);
    assert_eq!(status, 1);
    let said = [
        "reloaded, but bad (",
        ":1) exited with status 4 before it was ready",
        "; cannot start waits (",
        ":7): it waits for bad, which is not up\n",
    ];
    assert!(said.iter().all(|part| err.contains(part)), "{err}");
    assert_eq!(daemon.child("good").state, ChildState::Up);
    std::fs::write(daemon.path("mended"), "").unwrap();
    daemon.done(&Request::Start { children: vec!["bad".into()] });
    daemon.wait_child("waits", ChildState::Up);
    daemon.stop();
}

#[test]
fn a_reload_whose_child_is_stuck_at_its_start_is_undone() {
    let logger = |file: &str| {
        format!(
            "[children.source]\n{SLEEP}[children.logger]\nplugin = \"logger\"\nready_timeout = \"1s\"\n\
             settings = {{ file = \"{file}\" }}\n[[links]]\nfrom = \"source\"\nto = \"logger\"\n"
        )
    };
    let mut daemon = Daemon::start(&logger("one"));
    let taken = std::fs::File::create(daemon.path("two")).unwrap();
    let taken = nix::fcntl::Flock::lock(taken, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    daemon.configure(&logger("two"));
    let (status, _, err) = daemon.ask(&Request::Reload);
    assert_eq!(status, 1);
    assert!(err.contains("cannot start logger (") && err.contains("locked") && err.contains("; undone"), "{err}");
    assert_eq!(daemon.child("logger").state, ChildState::Up);
    daemon.reload(&logger("three"));
    assert_eq!(daemon.child("logger").state, ChildState::Up);
    drop(taken);
    daemon.stop();
}

#[test]
#[ignore = "needs root for another user, run by .ci/run"]
fn a_reload_whose_logger_may_not_open_its_file_is_undone() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let logger = |folder: &str| {
        format!(
            "[children.source]\n{SLEEP}[children.logger]\nplugin = \"logger\"\nready_timeout = \"1s\"\n\
             user = \"nobody\"\nsettings = {{ file = \"{folder}/messages.log\" }}\n\
             [[links]]\nfrom = \"source\"\nto = \"logger\"\n"
        )
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for (folder, owner) in [("his", 65534), ("roots", 0)] {
        let path = dir.path().join(folder);
        std::fs::create_dir(&path).unwrap();
        chown(path, Some(owner), None).unwrap();
    }
    let mut daemon = Daemon::spawn_in(dir, &logger("his"));
    daemon.wait_child("logger", ChildState::Up);
    daemon.configure(&logger("roots"));
    let (status, _, err) = daemon.ask(&Request::Reload);
    assert_eq!(status, 1);
    assert!(err.contains("cannot start logger (") && err.contains("Permission denied"), "{err}");
    assert!(err.contains("; undone: the previous configuration runs again"), "{err}");
    assert_eq!(daemon.child("logger").state, ChildState::Up);
    daemon.stop();
}

#[test]
fn a_reload_that_would_lose_what_a_link_holds_changes_nothing() {
    let config = |sink: &str| {
        format!(
            "[daemon]\nstop_timeout = \"200ms\"\n{SOURCE}[children.{sink}]\n\
             command = [\"sh\", \"-c\", \"while ! test -e go; do sleep 0.01; done; exec cat >>out\"]\n\
             [[links]]\nfrom = \"source\"\nto = \"{sink}\"\n"
        )
    };
    let mut daemon = Daemon::start(&config("slow"));
    wait_for("it is written", || daemon.path("written").exists().then_some(()));
    daemon.configure(&config("other"));
    let (status, out, err) = daemon.ask(&Request::Reload);
    assert_eq!(status, 1, "{out}");
    assert!(err.contains("nobody took 48894 bytes in the link source -> slow, which is removed; undone"), "{err}");
    // All of it is still there, and so is what the source writes from now on.
    std::fs::write(daemon.path("go"), "").unwrap();
    wait_for("the sink has both runs' lines", || (daemon.read_text("out").lines().count() == 20000).then_some(()));
    daemon.stop();
}

#[test]
fn an_undone_reload_does_not_run_a_finished_job_again() {
    let once = "[children.once]\ncommand = [\"sh\", \"-c\", \"echo done >>once\"]\nrestart = \"never\"\n";
    let mut daemon = Daemon::start(&format!("{once}[children.one]\n{SLEEP}"));
    wait_for("it has finished", || daemon.child("once").finished.then_some(()));
    for config in
        [format!("[children.one]\n{SLEEP}{BAD}"), format!("{once}umask = \"0077\"\n{BAD}after = [\"once\"]\n")]
    {
        let before = daemon.read_text("once").lines().count();
        let changed = usize::from(config.contains("0077"));
        daemon.configure(&config);
        assert_eq!(daemon.ask(&Request::Reload).0, 1);
        // If it was changed, it was started. It may or may not have written before it was stopped.
        let now = daemon.read_text("once").lines().count();
        assert!((before..=before + changed).contains(&now), "run again on the way back: {before}, {now}");
        assert!(daemon.child("once").finished);
    }
    daemon.stop();
}

#[test]
fn a_child_that_an_operator_stops_meanwhile_is_no_reason_to_undo_a_reload() {
    let slow = "[children.slow]\ncommand = [\"sleep\", \"1000\"]\nready = \"fd\"\nready_timeout = \"1000s\"\n";
    let mut daemon = Daemon::start(&format!("[children.one]\n{SLEEP}"));
    daemon.configure(&format!("[children.one]\n{SLEEP}umask = \"0077\"\n{slow}"));
    let reload = daemon.ask_meanwhile(Request::Reload);
    wait_for("it starts", || daemon.status().children.iter().any(|c| c.name == "slow").then_some(()));
    daemon.wait_child("slow", ChildState::Starting);
    daemon.done(&Request::Stop { children: vec!["slow".into()] });
    let (status, out, err) = reload.join().unwrap().unwrap();
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    assert_eq!(daemon.child("slow").state, ChildState::Down);
    daemon.stop();
}

#[test]
fn a_reload_moves_the_control_socket_and_restores_it_if_it_was_removed() {
    let config = |control: &str| format!("[daemon]\ncontrol = \"{control}\"\n[children.one]\n{SLEEP}");
    let mut daemon = Daemon::start(&config("plumbd.sock"));
    daemon.reload(&config("other.sock"));
    assert!(!daemon.path("plumbd.sock").exists());
    assert!(daemon.try_status().is_none() && daemon.path("other.sock").exists());
    daemon.configure(&config("plumbd.sock"));
    daemon.signal(nix::libc::SIGHUP);
    wait_for("it is back", || daemon.try_status());
    assert!(!daemon.path("other.sock").exists());

    daemon.wait_state(DaemonState::Running);
    std::fs::remove_file(daemon.path("plumbd.sock")).unwrap();
    daemon.signal(nix::libc::SIGHUP);
    wait_for("it is there again", || daemon.try_status());
    daemon.stop();
}

#[test]
fn a_configuration_that_is_not_an_ordinary_file_holds_up_nothing() {
    let mut daemon = Daemon::start(&format!("[children.one]\n{SLEEP}"));
    let pipe = daemon.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (status, _, err) = daemon.ask(&Request::Plan { file: Some(pipe.clone()) });
    assert_eq!(status, 78);
    assert!(err.contains("it is no ordinary file"), "{err}");
    std::fs::rename(&pipe, daemon.path("plumbd.toml")).unwrap();
    assert_eq!(daemon.ask(&Request::Reload).0, 78);
    daemon.stop();
}

#[test]
fn a_reload_of_another_file_than_the_daemons_is_refused() {
    let mut daemon = Daemon::start(&format!("[children.one]\n{SLEEP}"));
    std::fs::copy(daemon.path("plumbd.toml"), daemon.path("other.toml")).unwrap();
    let reload = |file: &str| {
        let words = ["reload", "-c", file];
        std::process::Command::new(env!("CARGO_BIN_EXE_plumbd"))
            .args(words)
            .current_dir(daemon.dir.path())
            .env_remove("PLUMBD_CONTROL")
            .output()
            .unwrap()
    };
    let refused = reload("other.toml");
    let err = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        err.contains("cannot reload other.toml: the daemon's configuration is ") && err.contains("plumbd.toml;"),
        "{err}"
    );
    assert!(reload("plumbd.toml").status.success());
    daemon.stop();
}
