//! The guarantee: clients send, processes are killed at any instant, and the
//! file is compared with the echoes. Each echoed message is in it exactly once and whole,
//! those of each connection are in order, and nothing is in it that no client sent.

use crate::daemon::{DEADLINE, Daemon, alive, children_of, free_port, kill, wait_for};
use crate::load::checker::{self, Format, Verdict};
use crate::load::generator::{self, Outcome, Plan};
use crate::load::rotated;
use nix::libc::SIGKILL;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How many times a test kills.
const KILLS: u32 = 40;

pub(crate) struct Service {
    port: u16,
    format: Format,
    pub(crate) daemon: Daemon,
}

impl Service {
    fn start(echo_after: &str, format: Format) -> Service {
        Service::with(echo_after, format, "")
    }

    /// With more settings of the logger.
    pub(crate) fn with(echo_after: &str, format: Format, settings: &str) -> Service {
        let port = free_port();
        Service { port, format, daemon: Daemon::start(&Service::config(echo_after, format, port, settings)) }
    }

    /// Like [`Service::start`], under a service manager that keeps its descriptors.
    fn start_managed(echo_after: &str, format: Format) -> Service {
        let port = free_port();
        Service { port, format, daemon: Daemon::start_managed(&Service::config(echo_after, format, port, "")) }
    }

    fn config(echo_after: &str, format: Format, port: u16, settings: &str) -> String {
        format!(
            r#"
            [daemon]
            log_level = "warn"
            [children.echo]
            plugin = "echo"
            listen = ["tcp://127.0.0.1:{port}"]
            backoff = {{ first = "0ms", factor = 1.0, max = "1ms", reset_after = "1s" }}
            start_limit = {{ burst = 1000000, within = "1s" }}
            [children.echo.settings]
            echo_after = "{echo_after}"
            [children.logger]
            plugin = "logger"
            backoff = {{ first = "0ms", factor = 1.0, max = "1ms", reset_after = "1s" }}
            start_limit = {{ burst = 1000000, within = "1s" }}
            [children.logger.settings]
            file = "messages.log"
            format = "{}"
            {settings}
            [[links]]
            from = "echo"
            to = "logger"
            "#,
            format.name()
        )
    }

    /// Clients that go on until they are stopped, on a thread of their own.
    pub(crate) fn load(&self, first: u32) -> Load {
        let plan = Plan { first, ..Plan::usual(self.port) };
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || generator::run(&plan, &told).unwrap());
        Load { stop, thread }
    }

    fn messages(&self) -> u64 {
        let size = std::fs::metadata(self.daemon.path("messages.log")).map_or(0, |m| m.len());
        size / 128
    }

    /// Waits until some more messages are in the file, or it is a new one.
    pub(crate) fn wait_progress(&self) {
        let before = self.messages();
        wait_for("messages are saved", || {
            let now = self.messages();
            (now > before + 20 || now < before).then_some(())
        });
    }

    fn check(&self, outcome: &Outcome) -> Verdict {
        let all = rotated::open(&self.daemon.path("messages.log")).unwrap();
        checker::check(all, self.format, &outcome.connections).unwrap()
    }

    /// The verdict must be clean, and there must have been enough echoes.
    #[track_caller]
    fn assert_kept(&self, outcome: &Outcome) {
        let verdict = self.check(outcome);
        assert!(outcome.wrong.is_empty(), "echoes differ: {:?}", outcome.wrong);
        assert!(verdict.is_clean(), "{verdict}\nlog:\n{}", self.daemon.log());
        assert_eq!(verdict.echoed, outcome.echoed(), "{verdict}");
        assert!(verdict.echoed > 100, "hardly anything was echoed: {verdict}");
    }
}

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome>,
}

impl Load {
    pub(crate) fn end(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Lets some time pass, so that a kill falls on any instant. Nothing depends on how much.
fn moment() {
    let random = RandomState::new().build_hasher().finish();
    std::thread::sleep(Duration::from_micros(random % 5000));
}

/// Kills these children again and again while clients send.
fn survives_kills_of(names: &[&str], echo_after: &str, format: Format) {
    let mut service = Service::start(echo_after, format);
    let load = service.load(0);
    for _ in 0..KILLS {
        service.wait_progress();
        moment();
        let pids: Vec<i32> = names.iter().map(|name| service.daemon.child_pid_when_up(name)).collect();
        pids.iter().for_each(|&pid| kill(pid, SIGKILL));
        for (name, pid) in names.iter().zip(pids) {
            service.daemon.wait_replaced(name, pid);
        }
    }
    service.wait_progress();
    let outcome = load.end();
    service.daemon.stop();
    service.assert_kept(&outcome);
    if !names.contains(&"echo") {
        assert_eq!((outcome.disconnected, outcome.refused), (0, 0), "a client noticed");
    }
    assert_eq!(outcome.refused, 0, "a client was refused");
}

#[test]
fn queued_survives_kills_of_the_logger() {
    survives_kills_of(&["logger"], "queued", Format::Text);
}

#[test]
fn queued_survives_kills_of_the_echo() {
    survives_kills_of(&["echo"], "queued", Format::Json);
}

#[test]
fn queued_survives_kills_of_both() {
    survives_kills_of(&["echo", "logger"], "queued", Format::Text);
}

#[test]
fn saved_survives_kills_of_the_logger() {
    survives_kills_of(&["logger"], "saved", Format::Text);
}

#[test]
fn saved_survives_kills_of_the_echo() {
    survives_kills_of(&["echo"], "saved", Format::Text);
}

#[test]
fn saved_survives_kills_of_both() {
    survives_kills_of(&["logger", "echo"], "saved", Format::Raw);
}

#[test]
fn synced_survives_kills_of_both() {
    survives_kills_of(&["logger", "echo"], "synced", Format::Text);
}

#[test]
#[ignore = "needs half a minute, run by .ci/run"]
fn saved_survives_kills_while_the_file_is_rotated_and_compressed() {
    let rotate = r#"rotate = { size = "64KiB", compress = "gzip" }"#;
    let mut service = Service::with("saved", Format::Text, rotate);
    let file = service.daemon.path("messages.log");
    let load = service.load(0);
    let began = std::time::Instant::now();
    while rotated::archives(&file).unwrap().len() < 3 {
        assert!(began.elapsed() < DEADLINE * 4, "it is not rotated\nlog:\n{}", service.daemon.log());
        service.wait_progress();
        moment();
        for name in ["logger", "echo"] {
            let pid = service.daemon.child_pid_when_up(name);
            kill(pid, SIGKILL);
            service.daemon.wait_replaced(name, pid);
        }
    }
    service.wait_progress();
    let outcome = load.end();
    service.daemon.stop();
    service.assert_kept(&outcome);
}

/// Kills the supervisor (and its children, if `all`) again and again while clients
/// send. Each time, the next daemon goes on with the file.
fn survives_kills_of_the_supervisor(all: bool, echo_after: &str) {
    let mut service = Service::start(echo_after, Format::Text);
    let mut connections = Vec::new();
    let mut sum = 0;
    for round in 0..10 {
        let load = service.load(round * 100_000);
        service.wait_progress();
        moment();
        let children = children_of(service.daemon.pid());
        assert_eq!(children.len(), 2);
        kill(service.daemon.pid(), SIGKILL);
        if all {
            children.iter().for_each(|&pid| kill(pid, SIGKILL));
        }
        wait_for("the children end by themselves", || children.iter().all(|&pid| !alive(pid)).then_some(()));
        let outcome = load.end();
        sum += outcome.echoed();
        assert!(outcome.wrong.is_empty(), "echoes differ: {:?}", outcome.wrong);
        connections.extend(outcome.connections);
        service.daemon.wait_killed();
        service.daemon.start_again();
        let file = service.daemon.read("messages.log");
        let verdict = checker::check(file.as_slice(), service.format, &connections).unwrap();
        assert!(
            verdict.is_clean() && verdict.echoed == sum,
            "round {round}: {verdict}\nlog:\n{}",
            service.daemon.log()
        );
    }
    assert!(sum > 100, "hardly anything was echoed");
    service.daemon.stop();
}

#[test]
fn saved_survives_kills_of_the_supervisor() {
    survives_kills_of_the_supervisor(false, "saved");
}

#[test]
fn saved_survives_kills_of_all_at_once() {
    survives_kills_of_the_supervisor(true, "saved");
}

#[test]
fn synced_survives_kills_of_all_at_once() {
    survives_kills_of_the_supervisor(true, "synced");
}

/// Like [`survives_kills_of_the_supervisor`], but a service manager keeps sockets and links, so
/// the clients go on while one daemon follows the other.
fn survives_kills_under_a_manager(all: bool, echo_after: &str) {
    let mut service = Service::start_managed(echo_after, Format::Text);
    let load = service.load(0);
    for _ in 0..10 {
        service.wait_progress();
        moment();
        let children = children_of(service.daemon.pid());
        assert_eq!(children.len(), 2);
        kill(service.daemon.pid(), SIGKILL);
        if all {
            children.iter().for_each(|&pid| kill(pid, SIGKILL));
        }
        service.daemon.wait_killed();
        // A service manager also waits for this before it starts the next daemon.
        wait_for("the children end by themselves", || children.iter().all(|&pid| !alive(pid)).then_some(()));
        service.daemon.start_again();
    }
    service.wait_progress();
    let outcome = load.end();
    service.daemon.stop();
    service.assert_kept(&outcome);
    assert_eq!(outcome.refused, 0, "a client was refused");
    // Its links are empty, and its socket is kept for a restart.
    service.daemon.manager().wait_stored(&[&format!("listen/tcp%3A//127.0.0.1%3A{}", service.port)]);
}

#[test]
fn queued_survives_kills_of_the_supervisor_under_a_manager() {
    survives_kills_under_a_manager(false, "queued");
}

#[test]
fn queued_survives_kills_of_all_at_once_under_a_manager() {
    survives_kills_under_a_manager(true, "queued");
}

#[test]
fn saved_survives_kills_of_all_at_once_under_a_manager() {
    survives_kills_under_a_manager(true, "saved");
}

#[test]
fn synced_survives_kills_of_the_supervisor_under_a_manager() {
    survives_kills_under_a_manager(false, "synced");
}

#[test]
fn a_stop_under_load_loses_nothing() {
    for echo_after in ["queued", "saved", "synced"] {
        let mut service = Service::start(echo_after, Format::Text);
        let load = service.load(0);
        wait_for("messages are saved", || (service.messages() > 1000).then_some(()));
        moment();
        service.daemon.stop();
        let outcome = load.end();
        service.assert_kept(&outcome);
    }
}

#[test]
fn restarts_under_load_lose_nothing_and_refuse_no_client() {
    use plumbd::control::Request;
    let mut service = Service::start("saved", Format::Text);
    let load = service.load(0);
    for name in ["logger", "echo", "logger", "echo"] {
        service.wait_progress();
        let restart = Request::Restart { children: vec![name.to_owned()] };
        assert_eq!(service.daemon.ask(&restart), (0, String::new(), String::new()));
    }
    service.wait_progress();
    let outcome = load.end();
    service.daemon.stop();
    service.assert_kept(&outcome);
    assert_eq!(outcome.refused, 0);
}

#[test]
fn a_reload_under_load_loses_nothing_and_refuses_no_client() {
    use plumbd::control::Request;
    let mut service = Service::start("saved", Format::Text);
    let load = service.load(0);
    let config = service.daemon.read_text("plumbd.toml");
    for (from, to) in [("max_message = \"64KiB\"", "max_message = \"32KiB\""), ("mode = \"0640\"", "mode = \"0600\"")] {
        service.wait_progress();
        let pids = (service.daemon.child_pid("echo"), service.daemon.child_pid("logger"));
        let place = if from.starts_with("max") { "[children.echo.settings]" } else { "[children.logger.settings]" };
        service.daemon.configure(&config.replace(place, &format!("{place}\n{to}")));
        let (status, out, err) = service.daemon.ask(&Request::Reload);
        assert_eq!((status, err.as_str()), (0, ""), "{out}");
        let now = (service.daemon.child_pid("echo"), service.daemon.child_pid("logger"));
        assert!(now != pids, "nothing restarted: {out}");
    }
    service.wait_progress();
    let outcome = load.end();
    service.daemon.stop();
    service.assert_kept(&outcome);
    assert_eq!(outcome.refused, 0);
}

#[test]
fn a_reload_that_is_undone_under_load_loses_nothing_and_refuses_no_client() {
    use plumbd::control::Request;
    let mut service = Service::start("saved", Format::Text);
    let load = service.load(0);
    let config = service.daemon.read_text("plumbd.toml");
    let bad = "[children.bad]\ncommand = [\"/bin/false\"]\nready = \"fd\"\nafter = [\"echo\"]\n";
    let changed = config
        .replace("[children.echo.settings]", "[children.echo.settings]\nmax_message = \"32KiB\"")
        .replace("[children.logger.settings]", "[children.logger.settings]\nmode = \"0600\"");
    service.daemon.configure(&format!("{changed}\n{bad}"));
    for _ in 0..3 {
        service.wait_progress();
        let (status, _, err) = service.daemon.ask(&Request::Reload);
        assert_eq!(status, 1);
        assert!(err.contains("; undone: the previous configuration runs again"), "{err}");
    }
    service.wait_progress();
    let outcome = load.end();
    service.daemon.stop();
    service.assert_kept(&outcome);
    assert_eq!(outcome.refused, 0);
}

#[test]
fn if_echo_and_logger_are_stopped_by_name_under_load_echo_can_finish() {
    use plumbd::control::Request;
    let mut service = Service::start("saved", Format::Text);
    let load = service.load(0);
    let children = vec!["logger".to_owned(), "echo".to_owned()];
    for _ in 0..10 {
        service.wait_progress();
        moment();
        service.daemon.done(&Request::Stop { children: children.clone() });
        service.daemon.done(&Request::Start { children: children.clone() });
    }
    service.wait_progress();
    let outcome = load.end();
    service.daemon.stop();
    service.assert_kept(&outcome);
    assert_eq!(outcome.refused, 0);
    let log = service.daemon.log();
    assert!(!log.contains("did not stop within"), "{log}");
}
