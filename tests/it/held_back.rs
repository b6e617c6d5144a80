//! At a start, something that the system lacks holds back the child that needs it, and no
//! other.

use crate::daemon::{DEADLINE, Daemon, free_port, wait_for};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, DaemonState};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::{Duration, Instant};

const SLEEP: &str = "command = [\"sleep\", \"1000\"]\n";

/// The reason why that child is held back.
#[track_caller]
fn held_back(daemon: &Daemon, name: &str) -> String {
    wait_for(&format!("{name} is held back, and why\n{}", daemon.log()), || {
        let child = daemon.child(name);
        child.problem.filter(|_| child.state == ChildState::Backoff)
    })
}

fn start(name: &str) -> Request {
    Request::Start { children: vec![name.to_owned()] }
}

#[test]
fn a_child_that_lacks_something_waits_for_it_and_all_others_run() {
    let mut daemon = Daemon::start(&format!(
        "[children.good]\n{SLEEP}\
         [children.program]\ncommand = [\"./late\", \"1000\"]\n\
         [children.folder]\n{SLEEP}directory = \"late.d\"\n\
         [children.socket]\n{SLEEP}listen = [\"unix:late.s/socket\"]\n"
    ));
    let good = daemon.child_pid_when_up("good");
    let file = daemon.path("plumbd.toml").display().to_string();
    for (name, place, why) in [
        ("program", ":4:12: ", "cannot run "),
        ("folder", ":7:13: ", "cannot run in "),
        ("socket", ":10:11: ", "cannot use the folder of the socket"),
    ] {
        let told = held_back(&daemon, name);
        let begin = format!("{}{place}{why}", daemon.path("plumbd.toml").file_name().unwrap().to_str().unwrap());
        assert!(told.contains(&begin) && told.contains("No such file or directory"), "{told} ({file})");
        daemon.wait_log(&format!("{name}: held back: "));
    }
    // It starts by itself, or at once when it is asked to.
    std::fs::copy("/bin/sleep", daemon.path("late")).unwrap();
    daemon.wait_child("program", ChildState::Up);
    let (status, _, err) = daemon.ask(&start("folder"));
    assert!(status == 1 && err.contains("cannot start folder: ") && err.contains("late.d"), "{err}");
    std::fs::create_dir(daemon.path("late.d")).unwrap();
    std::fs::create_dir(daemon.path("late.s")).unwrap();
    daemon.done(&start("folder"));
    daemon.done(&start("socket"));
    UnixStream::connect(daemon.path("late.s/socket")).unwrap();
    assert!(daemon.status().children.iter().all(|child| child.problem.is_none() && child.state == ChildState::Up));
    assert_eq!(daemon.child_pid("good"), good);
    daemon.stop();
}

#[test]
fn a_problem_of_the_file_ends_a_start_and_a_reload_refuses_both_kinds() {
    let bad = format!("[children.good]\n{SLEEP}[children.bad]\n{SLEEP}directory = \"none\"\n");
    let mut daemon = Daemon::spawn(&format!("{bad}umaks = \"0077\"\n"));
    assert_eq!(daemon.wait_killed().code(), Some(78));
    assert!(daemon.log().contains("unknown key") && daemon.log().contains("cannot run in"), "{}", daemon.log());

    let mut daemon = Daemon::start(&format!("[children.good]\n{SLEEP}"));
    daemon.configure(&bad);
    let (status, _, err) = daemon.ask(&Request::Reload);
    assert!(status == 78 && err.contains("cannot run in"), "{err}");
    // A reload changes a child that is held back like any other.
    daemon.stop();
    let mut daemon = Daemon::start(&bad);
    held_back(&daemon, "bad");
    daemon.reload(&bad.replace("directory = \"none\"\n", ""));
    assert_eq!(daemon.child("bad").state, ChildState::Up);
    daemon.stop();
    let mut daemon = Daemon::start(&bad);
    held_back(&daemon, "bad");
    std::fs::create_dir(daemon.path("none")).unwrap();
    daemon.reload(&format!("{bad}umask = \"0022\"\n"));
    assert_eq!(daemon.child("bad").state, ChildState::Up);
    daemon.stop();
}

#[test]
fn an_address_in_use_is_waited_for_and_reported_with_its_line_and_holder() {
    let [tcp, udp] = [free_port(), free_port()];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let held = TcpListener::bind(("127.0.0.1", tcp)).unwrap();
    let datagrams = UdpSocket::bind(("127.0.0.1", udp)).unwrap();
    let unix = UnixListener::bind(&path).unwrap();
    let began = Instant::now();
    let mut daemon = Daemon::spawn_in(
        dir,
        &format!(
            "[children.good]\n{SLEEP}\
             [children.tcp]\n{SLEEP}listen = [\"tcp://127.0.0.1:{tcp}\"]\ninstances = 2\n\
             [children.udp]\n{SLEEP}listen = [\"udp://127.0.0.1:{udp}\"]\n\
             [children.unix]\n{SLEEP}listen = [\"unix:socket\"]\n"
        ),
    );
    daemon.wait_state(DaemonState::Running);
    daemon.wait_child("good", ChildState::Up);
    let own = |what| format!(" (process {}); stop it, or take another {what}", std::process::id());
    for (name, line, address) in [
        ("tcp.0", 5, format!("tcp://127.0.0.1:{tcp}")),
        ("tcp.1", 5, format!("tcp://127.0.0.1:{tcp}")),
        ("udp", 9, format!("udp://127.0.0.1:{udp}")),
        ("unix", 12, format!("unix:{}", path.display())),
    ] {
        let why = held_back(&daemon, name);
        let told = format!("plumbd.toml:{line}: cannot listen on {address}: Address already in use by ");
        let own = own(if name == "unix" { "name" } else { "port" });
        assert!(why.contains(&told) && why.ends_with(&own), "{why}\nhas not {told} or {own}");
    }
    drop((held, datagrams, unix));
    for name in ["tcp.0", "tcp.1", "udp", "unix"] {
        daemon.wait_child(name, ChildState::Up);
    }
    assert!(began.elapsed() < DEADLINE);
    TcpStream::connect(("127.0.0.1", tcp)).unwrap();
    UnixStream::connect(path).unwrap();
    daemon.stop();
}

#[test]
fn a_port_that_is_free_a_second_later_delays_a_start_by_no_more_than_three() {
    let port = free_port();
    let held = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let began = Instant::now();
    let mut daemon = Daemon::start(&format!(
        "[children.echo]\nplugin = \"echo\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [children.logger]\nplugin = \"logger\"\nsettings = {{ file = \"messages.log\" }}\n\
         [[links]]\nfrom = \"echo\"\nto = \"logger\"\n"
    ));
    held_back(&daemon, "echo");
    daemon.wait_child("logger", ChildState::Up);
    drop(held);
    daemon.wait_child("echo", ChildState::Up);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(!daemon.log().contains("given up"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn in_a_chain_sources_wait_for_a_held_back_sink_but_sinks_wait_for_no_source() {
    let mut daemon = Daemon::start(&format!(
        "[children.source]\n{SLEEP}\
         [children.logger]\nplugin = \"logger\"\nsettings = {{ file = \"late/messages.log\" }}\n\
         [children.late]\ncommand = [\"./late\", \"1000\"]\n\
         [children.sink]\n{SLEEP}\
         [[links]]\nfrom = \"source\"\nto = \"logger\"\n[[links]]\nfrom = \"late\"\nto = \"sink\"\n"
    ));
    held_back(&daemon, "logger");
    held_back(&daemon, "late");
    daemon.wait_child("sink", ChildState::Up);
    let source = daemon.child("source");
    assert_eq!((source.state, source.problem.as_deref()), (ChildState::Down, Some("waits for logger")));
    std::fs::create_dir(daemon.path("late")).unwrap();
    daemon.wait_child("source", ChildState::Up);
    std::fs::remove_file(daemon.path("late/messages.log")).unwrap();
    daemon.stop();
}

#[test]
fn a_stop_takes_no_longer_if_a_child_is_held_back() {
    let mut daemon = Daemon::start(&format!("[children.good]\n{SLEEP}[children.late]\ncommand = [\"./late\"]\n"));
    held_back(&daemon, "late");
    daemon.done(&Request::Stop { children: vec!["late".to_owned()] });
    assert_eq!(daemon.child("late").state, ChildState::Down);
    let began = Instant::now();
    daemon.stop();
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_held_back_child_does_not_collide_with_the_socket_that_a_reload_holds_for_it() {
    let slow = "[children.slow]\ncommand = [\"sh\", \"-c\", \"trap 'until [ -e go ]; do sleep 0.01; done; exit 0' TERM; \
                : > up; while :; do sleep 0.01; done\"]\nstop_timeout = \"20s\"\n";
    let late = format!("[children.late]\n{SLEEP}listen = [\"unix:late/socket\"]\n");
    // This child is tried as often as that one, and after it.
    let next = format!("[children.next]\n{SLEEP}directory = \"next\"\n");
    let mut daemon = Daemon::start(&format!("{slow}{late}{next}"));
    wait_for("slow is up", || daemon.path("up").exists().then_some(()));
    held_back(&daemon, "late");
    held_back(&daemon, "next");
    for folder in ["late", "next"] {
        std::fs::create_dir(daemon.path(folder)).unwrap();
    }
    daemon.configure(&format!("{slow}umask = \"0077\"\n{late}{next}"));
    let reload = daemon.ask_meanwhile(Request::Reload);
    daemon.wait_log("reload: ");
    daemon.wait_child("next", ChildState::Up);
    std::fs::write(daemon.path("go"), "").unwrap();
    let (status, out, err) = reload.join().unwrap().unwrap();
    assert_eq!((status, err.as_str()), (0, ""), "{out}\n{}", daemon.log());
    UnixStream::connect(daemon.path("late/socket")).unwrap();
    assert!(!daemon.log().contains("in use"), "{}", daemon.log());
    daemon.stop();
}

#[test]
#[ignore = "needs root, run by .ci/run"]
fn an_unknown_account_holds_back_its_child_which_never_runs_as_another_user() {
    let mut daemon = Daemon::start(&format!(
        "[children.good]\n{SLEEP}\
         [children.user]\n{SLEEP}user = \"nobody-such\"\n\
         [children.group]\n{SLEEP}group = \"nobody-such\"\n\
         [children.both]\n{SLEEP}user = \"nobody\"\ngroup = \"nobody-such\"\n\
         [[links]]\nfrom = \"user\"\nto = \"good\"\n"
    ));
    daemon.wait_child("good", ChildState::Up);
    for (name, line, what) in [("user", 5, "user"), ("group", 8, "group"), ("both", 12, "group")] {
        let why = held_back(&daemon, name);
        assert!(why.contains(&format!("plumbd.toml:{line}:")), "{why}");
        assert!(why.contains(&format!("there is no {what} \"nobody-such\"")), "{why}");
        let (status, _, err) = daemon.ask(&start(name));
        assert!(status == 1 && err.contains("nobody-such"), "{err}");
        assert_eq!(daemon.child(name).pid, None);
    }
    daemon.stop();
}

#[test]
#[ignore = "needs root for a network of its own, run by .ci/run"]
fn an_address_that_comes_late_is_waited_for() {
    let mut daemon = Daemon::start_after(
        "exec unshare -n \"$0\" run -c plumbd.toml",
        &format!(
            "[children.good]\n{SLEEP}[children.six]\n{SLEEP}listen = [\"tcp://[fd00::7]:7007\"]\n\
             [children.udp]\n{SLEEP}listen = [\"udp://[fd00::7]:7007\"]\n"
        ),
    );
    for name in ["six", "udp"] {
        assert!(held_back(&daemon, name).contains("Cannot assign requested address"));
    }
    let pid = daemon.pid().to_string();
    for change in ["link set lo up", "addr add fd00::7/128 dev lo"] {
        let done = Command::new("nsenter").args(["-t", &pid, "-n", "ip"]).args(change.split(' ')).status().unwrap();
        assert!(done.success(), "{change}");
    }
    for name in ["six", "udp"] {
        daemon.wait_child(name, ChildState::Up);
    }
    daemon.stop();
}
