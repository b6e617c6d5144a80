//! At each start, what a child is given is as the supervisor made it, whatever
//! earlier processes and other children did to it.

use crate::daemon::{Daemon, free_port, kill, wait_for};
use nix::libc::SIGKILL;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use plumbd::control::Request;
use plumbd::control::status::ChildState;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// A daemon whose configuration has that script in place of RUN.
fn start(run: &str, config: &str) -> Daemon {
    Daemon::start(&prepared(run, config))
}

/// Fills the shell script and misuse.pl into a configuration.
fn prepared(run: &str, config: &str) -> String {
    let config = config.replace("MISUSE", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/misuse.pl"));
    config.replace("RUN", &run.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A shell command that runs this perl code.
fn perl(code: &str) -> String {
    format!("perl -MFcntl -e '{code}'")
}

const NONBLOCKING: &str = "fcntl(STDOUT, F_SETFL, O_NONBLOCK) or die";
const PACKETS: &str = "fcntl(STDOUT, F_SETFL, 040000) or die"; // O_DIRECT
const SMALL: &str = "fcntl(STDOUT, 1031, 4096) or die"; // F_SETPIPE_SZ

fn numbers(count: usize) -> String {
    (1..=count).map(|n| format!("{n}\n")).collect()
}

#[test]
fn lines_are_saved_after_a_source_that_set_flags_on_its_output() {
    for code in [NONBLOCKING, PACKETS, SMALL] {
        let run = format!("[ -e once ] || {{ touch once; {}; exit 1; }}; seq 1 200000; exec sleep 1000", perl(code));
        let mut daemon = start(
            &run,
            r#"
            [children.source]
            command = ["sh", "-c", "RUN"]
            [children.logger]
            plugin = "logger"
            [children.logger.settings]
            file = "messages.log"
            format = "raw"
            [[links]]
            from = "source"
            to = "logger"
            capacity = "16KiB"
            "#,
        );
        wait_for("all lines", || (daemon.read_text("messages.log").ends_with("\n200000\n")).then_some(()));
        assert_eq!(daemon.read_text("messages.log"), numbers(200_000), "{code}");
        daemon.stop();
    }
}

#[test]
fn a_source_waits_for_room_after_one_that_set_flags_on_its_output() {
    for code in [NONBLOCKING, PACKETS] {
        let run = format!("[ -e once ] || {{ touch once; {}; exit 1; }}; seq 1 20000; exec sleep 1000", perl(code));
        let mut daemon = start(
            &run,
            r#"
            [children.source]
            command = ["sh", "-c", "RUN"]
            [children.sink]
            command = ["sh", "-c", "until [ -e go ]; do sleep 0.01; done; while IFS= read -r line; do echo \"$line\"; done > out"]
            [[links]]
            from = "source"
            to = "sink"
            capacity = "4KiB"
            "#,
        );
        wait_for("the queue is full", || (daemon.link("source", "sink").queued_bytes >= 4000).then_some(()));
        std::fs::write(daemon.path("go"), "").unwrap();
        wait_for("all lines", || daemon.read_text("out").ends_with("\n20000\n").then_some(()));
        assert_eq!(daemon.read_text("out"), numbers(20000), "{code}");
        daemon.stop();
    }
}

#[test]
fn lines_of_a_neighbour_on_the_same_queue_are_whole() {
    for code in [NONBLOCKING, PACKETS] {
        let mut daemon = start(
            &format!("{}; touch done; exec sleep 1000", perl(code)),
            r#"
            [children.rude]
            command = ["sh", "-c", "RUN"]
            [children.source]
            command = ["sh", "-c", "until [ -e done ]; do sleep 0.01; done; seq 1 20000; exec sleep 1000"]
            [children.sink]
            command = ["sh", "-c", "until [ -e go ]; do sleep 0.01; done; while IFS= read -r line; do echo \"$line\"; done > out"]
            [[links]]
            from = "rude"
            to = "sink"
            capacity = "4KiB"
            [[links]]
            from = "source"
            to = "sink"
            capacity = "4KiB"
            "#,
        );
        wait_for("the queue is full", || (daemon.link("source", "sink").queued_bytes >= 4000).then_some(()));
        std::fs::write(daemon.path("go"), "").unwrap();
        wait_for("all lines", || daemon.read_text("out").ends_with("\n20000\n").then_some(()));
        assert_eq!(daemon.read_text("out"), numbers(20000), "{code}");
        daemon.stop();
    }
}

#[test]
fn a_sink_after_one_that_made_its_input_nonblocking_waits_for_it() {
    let mut daemon = start(
        &format!(
            "[ -e once ] || {{ touch once; {}; exit 1; }}; touch there; cat > out",
            perl("fcntl(STDIN, F_SETFL, O_NONBLOCK) or die")
        ),
        r#"
        [children.source]
        command = ["sh", "-c", "until [ -e there ]; do sleep 0.01; done; sleep 0.1; echo late; exec sleep 1000"]
        [children.sink]
        command = ["sh", "-c", "RUN"]
        [[links]]
        from = "source"
        to = "sink"
        "#,
    );
    wait_for("the line", || (daemon.read_text("out") == "late\n").then_some(()));
    assert_eq!(daemon.child("sink").restarts, 1, "{}", daemon.log());
    daemon.stop();
}

#[test]
fn all_that_a_child_is_given_is_the_same_at_its_next_start() {
    for how in [r#""flags""#, r#""small""#, r#""large""#, r#""seek""#, r#""truncate""#, r#""flags", "small", "mode""#] {
        let daemon = Daemon::spawn(&{
            let (tcp, udp) = (free_port(), free_port());
            prepared(
                "",
                &format!(
                    r#"
                    [children.source]
                    command = ["sleep", "1000"]
                    [children.echo]
                    plugin = "echo"
                    listen = ["tcp://127.0.0.1:0"]
                    [children.echo.settings]
                    echo_after = "queued"
                    [children.misuse]
                    command = ["perl", "MISUSE", "given", {how}]
                    listen = ["tcp://127.0.0.1:{tcp}", "udp://127.0.0.1:{udp}", "unix:socket"]
                    settings = {{ key = "value" }}
                    [children.sink]
                    command = ["sleep", "1000"]
                    [[links]]
                    from = "echo"
                    to = "misuse"
                    protocol = "records"
                    [[links]]
                    from = "source"
                    to = "misuse"
                    protocol = "records"
                    [[links]]
                    from = "misuse"
                    to = "sink"
                    capacity = "64KiB"
                    protocol = "records"
                    "#
                ),
            )
        });
        wait_for("a second start", || daemon.path("given.2").exists().then_some(()));
        let (first, second) = (daemon.read_text("given.1"), daemon.read_text("given.2"));
        assert!(first.lines().count() > 15, "{first}");
        assert_eq!(first, second, "{how}\n{}", daemon.log());
        // And the supervisor still lives.
        assert_eq!(daemon.child("misuse").restarts, 1);
    }
}

/// A server with a socket of each kind, which does this to them in its first run.
fn server(how: &str, ports: [u16; 2]) -> String {
    let [tcp, udp] = ports;
    prepared(
        "",
        &format!(
            r#"
            [children.server]
            command = ["perl", "MISUSE", "given", "{how}"]
            listen = ["tcp://127.0.0.1:{tcp}", "udp://127.0.0.1:{udp}", "unix:socket"]
            "#
        ),
    )
}

fn answers(mut client: impl Read + Write) -> bool {
    let mut bytes = [0; 5];
    client.write_all(b"hello").is_ok() && client.read_exact(&mut bytes).is_ok() && &bytes == b"hello"
}

/// Waits until each of its sockets is served.
#[track_caller]
fn wait_served(daemon: &Daemon, [tcp, udp]: [u16; 2]) {
    wait_for("an answer over TCP", || TcpStream::connect(("127.0.0.1", tcp)).is_ok_and(answers).then_some(()));
    wait_for("an answer over UDP", || {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut bytes = [0; 10];
        client.send_to(b"hello", ("127.0.0.1", udp)).unwrap();
        client.recv(&mut bytes).is_ok_and(|n| &bytes[..n] == b"hello").then_some(())
    });
    wait_for("an answer over Unix", || UnixStream::connect(daemon.path("socket")).is_ok_and(answers).then_some(()));
}

#[test]
fn sockets_serve_again_at_the_next_start_whatever_was_done_to_them() {
    for how in ["shutdown0", "shutdown1", "shutdown2", "disconnect", "connect", "listen0", "timeout", "flags"] {
        let ports = [free_port(), free_port()];
        let mut daemon = Daemon::start(&server(how, ports));
        wait_for("a second start", || daemon.path("given.2").exists().then_some(()));
        wait_served(&daemon, ports);
        assert_eq!(daemon.read_text("given.1"), daemon.read_text("given.2"), "{how}");
        assert_eq!(daemon.child("server").restarts, 1, "{how}\n{}", daemon.log());
        daemon.stop();
        assert!(!daemon.path("socket").exists(), "{how}: its name is removed");
    }
}

#[test]
fn clients_of_a_socket_that_was_shut_down_wait_for_the_next_start() {
    let port = free_port();
    let mut daemon = start(
        "",
        &format!(
            r#"
            [children.server]
            command = ["perl", "MISUSE", "given", "shutdown2"]
            listen = ["tcp://127.0.0.1:{port}"]
            backoff = {{ first = "1000s", max = "1000s" }}
            "#
        ),
    );
    daemon.wait_child("server", ChildState::Backoff);
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    daemon.done(&Request::Start { children: vec!["server".to_owned()] });
    assert!(answers(client));
    daemon.stop();
}

#[test]
fn no_dead_socket_goes_to_the_next_daemon() {
    for how in ["shutdown2", "connect"] {
        let ports = [free_port(), free_port()];
        let never = format!("{}\nrestart = \"never\"\n", server(how, ports));
        // It ends when asked, and the next one gets no socket from it that does not serve.
        let mut daemon = Daemon::start_managed(&never);
        wait_for("its end", || daemon.child("server").last_exit);
        daemon.stop();
        daemon.start_again();
        wait_served(&daemon, ports);
        daemon.stop();
    }
}

#[test]
fn a_socket_that_is_dead_when_the_daemon_is_killed_is_bound_anew() {
    let ports = [free_port(), free_port()];
    let [tcp, udp] = ports;
    // It shuts its sockets down and goes on.
    let config = prepared(
        "[ -e given.1 ] && exec perl \"$0\" given; perl \"$0\" given shutdown2; touch done; exec sleep 1000",
        &format!(
            r#"
            [children.server]
            command = ["sh", "-c", "RUN", "MISUSE"]
            listen = ["tcp://127.0.0.1:{tcp}", "udp://127.0.0.1:{udp}", "unix:socket"]
            "#
        ),
    );
    let mut daemon = Daemon::start_managed(&config);
    wait_for("they are dead", || daemon.path("done").exists().then_some(()));
    let child = daemon.child_pid("server");
    kill(daemon.pid(), SIGKILL);
    kill(child, SIGKILL);
    daemon.wait_killed();
    daemon.start_again();
    wait_served(&daemon, ports);
    daemon.stop();
}

#[test]
fn an_instance_that_starts_leaves_the_flags_that_its_neighbour_set() {
    let port = free_port();
    let flags = |daemon: &Daemon, name: &str| {
        let pid = daemon.child_pid_when_up(name);
        let text = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/3")).unwrap();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
        i32::from_str_radix(&flags, 8).unwrap() & nix::libc::O_NONBLOCK != 0
    };
    let set =
        "perl -MFcntl -e 'open(F, \"<&=\", 3); fcntl(F, F_SETFL, O_NONBLOCK) or die; open(G, \">done\"); sleep 1000'";
    let mut daemon = start(
        &format!("[ $PLUMBD_CHILD = server.1 ] && exec sleep 1000; exec {set}"),
        &format!(
            r#"
            [children.server]
            command = ["sh", "-c", "RUN"]
            listen = ["tcp://127.0.0.1:{port}"]
            instances = 2
            "#
        ),
    );
    wait_for("its flag", || daemon.path("done").exists().then_some(()));
    daemon.done(&Request::Restart { children: vec!["server.1".to_owned()] });
    assert!(flags(&daemon, "server.1"), "server.0 relies on it");
    daemon.done(&Request::Stop { children: vec!["server".to_owned()] });
    daemon.done(&Request::Start { children: vec!["server.1".to_owned()] });
    assert!(!flags(&daemon, "server.1"), "no instance relies on it");
    daemon.stop();
}

#[test]
fn the_name_of_a_unix_socket_that_now_belongs_to_another_server_stays() {
    let config = "[children.server]\ncommand = [\"sleep\", \"1000\"]\nlisten = [\"unix:socket\"]\n";
    let mut daemon = Daemon::start(config);
    std::fs::remove_file(daemon.path("socket")).unwrap();
    let other = UnixListener::bind(daemon.path("socket")).unwrap();
    daemon.stop();
    UnixStream::connect(daemon.path("socket")).unwrap();
    drop(other);
}

#[test]
fn a_unix_socket_whose_name_was_removed_gets_it_back_at_the_next_start() {
    let config = "[children.server]\ncommand = [\"sleep\", \"1000\"]\nlisten = [\"unix:socket\"]\n";
    let mut daemon = Daemon::start(config);
    std::fs::remove_file(daemon.path("socket")).unwrap();
    daemon.done(&Request::Restart { children: vec!["server".to_owned()] });
    UnixStream::connect(daemon.path("socket")).unwrap();
    // Even if its mode was changed, its name is removed at the end.
    std::fs::set_permissions(daemon.path("socket"), std::fs::Permissions::from_mode(0o602)).unwrap();
    daemon.stop();
    assert!(!daemon.path("socket").exists());
}

#[test]
fn owner_and_mode_of_a_unix_socket_are_kept_when_it_is_bound_anew() {
    let mut daemon = start(
        "",
        r#"
        [children.server]
        command = ["perl", "MISUSE", "given", "shutdown2"]
        listen = ["unix:socket"]
        restart = "never"
        after = ["first"]
        [children.first]
        command = ["sh", "-c", "chmod 0602 socket; eval \"echo >&$PLUMBD_READY_FD\"; exec sleep 1000"]
        ready = "fd"
        "#,
    );
    wait_for("its end", || daemon.child("server").last_exit);
    UnixStream::connect(daemon.path("socket")).unwrap();
    assert_eq!(std::fs::metadata(daemon.path("socket")).unwrap().mode() & 0o777, 0o602);
    daemon.stop();
}

#[test]
fn a_unix_socket_whose_owner_cannot_be_restored_still_listens_with_its_mode() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/misuse.pl");
    for (owner, group, refused) in [(65534, 0, "owner"), (0, 65534, "group"), (0, 0, "")] {
        let mut daemon = Daemon::start_after(
            "exec setpriv --bounding-set=-chown --inh-caps=-chown -- \"$0\" run -c plumbd.toml",
            &format!(
                r#"
                [children.server]
                command = ["sh", "-c", "while ! [ -e go ]; do sleep 0.01; done; exec perl {script} given shutdown2"]
                listen = ["unix:socket"]
                restart = "never"
                "#
            ),
        );
        let path = daemon.path("socket");
        std::os::unix::fs::chown(&path, Some(owner), Some(group)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o602)).unwrap();
        std::fs::write(daemon.path("go"), "").unwrap();
        wait_for("its end", || daemon.child("server").last_exit);
        UnixStream::connect(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o602);
        assert_eq!(daemon.log().contains("cannot give "), !refused.is_empty(), "{}", daemon.log());
        if !refused.is_empty() {
            daemon.wait_log(&format!("cannot give {} the {refused} that it had: ", path.display()));
        }
        daemon.stop();
    }
}

#[test]
fn a_sink_that_truncates_its_ledger_ends_no_other_process() {
    let mut daemon = start(
        "",
        r#"
        [children.source]
        command = ["sleep", "1000"]
        [children.sink]
        command = ["perl", "MISUSE", "given", "truncate"]
        [[links]]
        from = "source"
        to = "sink"
        protocol = "records"
        "#,
    );
    wait_for("a second start", || daemon.path("given.2").exists().then_some(()));
    assert_eq!(daemon.link("source", "sink").queued_bytes, 0);
    daemon.stop();
}

/// A daemon, started after `first`, with children of several users. Each opens its log and its
/// link by name and writes to them, and tries to open what it was not given.
fn of_several_users(first: &str) -> Daemon {
    let daemon = Daemon::start_after(
        &format!("chmod 777 .; {first}"),
        &prepared(
            "echo to the log >/dev/stderr; echo $PLUMBD_CHILD >/dev/stdout; cat </dev/stdout && touch $PLUMBD_CHILD.reads; exec sleep 1000",
            r#"
            [children.one]
            command = ["sh", "-c", "RUN"]
            user = "nobody"
            [children.two]
            command = ["sh", "-c", "RUN"]
            user = "daemon"
            [children.three]
            command = ["sh", "-c", "RUN"]
            [children.sink]
            command = ["sh", "-c", "echo x > /dev/stdin && touch sink.writes; cat /dev/stdin > out"]
            user = "bin"
            [children.alone]
            command = ["sh", "-c", "echo alone >/dev/stdout; read -r line </dev/stdin; exec sleep 1000"]
            user = "nobody"
            [[links]]
            from = "one"
            to = "sink"
            [[links]]
            from = "two"
            to = "sink"
            "#,
        ),
    );
    wait_for("both lines", || {
        let out = daemon.read_text("out");
        (out.contains("one\n") && out.contains("two\n")).then_some(())
    });
    for line in ["one: to the log", "two: to the log", "alone: alone"] {
        daemon.wait_log(line);
    }
    assert!(!daemon.log().contains("/dev/stderr: Permission denied"), "{}", daemon.log());
    daemon
}

#[test]
#[ignore = "needs root"]
fn children_of_other_users_open_what_they_were_given_and_no_more() {
    let mut daemon = of_several_users("");
    for file in ["one.reads", "two.reads", "sink.writes"] {
        assert!(!daemon.path(file).exists(), "{file}");
    }
    daemon.wait_log("sh: 1: cannot open /dev/stdout: Permission denied");
    daemon.stop();
}

/// A shell command that makes root give up all capabilities except these.
fn with_capabilities(those: &str) -> String {
    format!("exec setpriv --inh-caps -all --bounding-set -all,+setuid,+setgid,+kill{those} \"$0\" run -c plumbd.toml")
}

#[test]
#[ignore = "needs root"]
fn a_root_that_may_only_give_pipes_away_keeps_children_apart() {
    let mut daemon = of_several_users(&with_capabilities(",+chown"));
    for file in ["one.reads", "two.reads", "sink.writes"] {
        assert!(!daemon.path(file).exists(), "{file}");
    }
    // At a restart each is given the same again, although the supervisor can't open what it has
    // given away.
    daemon.done(&Request::Restart { children: vec!["sink".into(), "one".into()] });
    wait_for("another line", || daemon.read_text("out").contains("one\n").then_some(()));
    assert!(!daemon.path("sink.writes").exists());
    assert!(!daemon.log().contains("belongs to another user"), "{}", daemon.log());
    daemon.stop();
}

#[test]
#[ignore = "needs root"]
fn a_root_that_may_give_no_pipe_away_starts_children_of_other_users() {
    let mut daemon = of_several_users(&with_capabilities(""));
    daemon.done(&Request::Restart { children: vec!["sink".into(), "one".into()] });
    wait_for("another line", || daemon.read_text("out").contains("one\n").then_some(()));
    daemon.stop();
}

/// The process that the daemon forks next, stopped before it has done anything.
/// The daemon goes on once that process does, or is dead.
fn next_forked(daemon: Pid) -> Pid {
    loop {
        match waitpid(daemon, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::PtraceEvent(_, _, event) if event != nix::libc::PTRACE_EVENT_STOP => {
                let child = Pid::from_raw(ptrace::getevent(daemon).unwrap().try_into().unwrap());
                waitpid(child, Some(WaitPidFlag::__WALL)).unwrap();
                return child;
            }
            WaitStatus::Stopped(_, signal) => ptrace::cont(daemon, signal).unwrap(),
            _ => ptrace::cont(daemon, None).unwrap(),
        }
    }
}

#[test]
fn a_child_that_is_killed_before_it_executes_was_never_up() {
    // Both for a process that shares the daemon's memory and for one that is forked.
    for more in ["", "directory = \"/\"\n"] {
        let mut daemon = Daemon::start(&format!(
            "[children.one]\ncommand = [\"/bin/sleep\", \"1000\"]\nrestart = \"never\"\n{more}"
        ));
        daemon.done(&Request::Stop { children: vec!["one".to_owned()] });
        let pid = Pid::from_raw(daemon.pid());
        let forks = ptrace::Options::PTRACE_O_TRACEFORK
            | ptrace::Options::PTRACE_O_TRACEVFORK
            | ptrace::Options::PTRACE_O_TRACECLONE;
        ptrace::seize(pid, forks).unwrap();
        let asked = daemon.ask_meanwhile(Request::Start { children: vec!["one".to_owned()] });
        let child = next_forked(pid);
        kill(child.as_raw(), SIGKILL);
        while !matches!(waitpid(child, Some(WaitPidFlag::__WALL)).unwrap(), WaitStatus::Signaled(..)) {}
        ptrace::detach(pid, None).unwrap();
        let (status, said, why) = asked.join().unwrap().unwrap();
        assert_ne!(status, 0, "{said}{why}");
        let problem = daemon.child("one").problem.unwrap();
        assert!(problem.contains("it was killed before it executed its program"), "{problem}");
        daemon.stop();
    }
}

#[test]
#[ignore = "starts a thousand processes"]
fn a_logger_with_the_most_links_allowed_starts_and_saves() {
    let mut config = "[children.logger]\nplugin = \"logger\"\nready_timeout = \"100s\"\n\
         [children.logger.settings]\nfile = \"messages.log\"\nformat = \"raw\"\n"
        .to_owned();
    for name in ["a", "b", "c", "d"] {
        config += &format!(
            "[children.{name}]\ncommand = [\"sh\", \"-c\", \"echo $PLUMBD_CHILD; exec sleep 1000\"]\ninstances = 250\n\
             [[links]]\nfrom = \"{name}\"\nto = \"logger\"\ncapacity = \"4KiB\"\n"
        );
    }
    let mut daemon = Daemon::spawn(&config);
    wait_for("a line of each", || (daemon.read_text("messages.log").lines().count() == 1000).then_some(()));
    let pid = daemon.child_pid_when_up("logger");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(String::from_utf8(environment).unwrap().contains("PLUMBD_LINKS_FD="));
    let restarted = daemon.ask_meanwhile(Request::Restart { children: vec!["logger".to_owned()] });
    assert_eq!(restarted.join().unwrap().unwrap().0, 0, "{}", daemon.log());
    daemon.stop();
}
