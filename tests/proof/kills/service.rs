//! A whole daemon and its clients.

use super::count::Count;
use super::doctor::{any, damage};
use crate::daemon::{DEADLINE, Daemon, alive, children_of, free_port, kill, strays, wait_for};
use crate::load::checker::{self, Format};
use crate::load::generator::{self, Connection, Outcome, Plan};
use crate::load::rotated;
use crate::manager::Manager;
use nix::libc::SIGKILL;
use plumbd::control::status::DaemonState;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What there is to lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// Messages of 128 bytes.
    Small,
    /// Messages of 64 KiB, each in many records.
    Large,
    /// Three echoes and two ordinary programs that write lines, into one file.
    Many,
}

/// How a daemon is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) echo_after: &'static str,
    pub(crate) load: Load,
    /// Under a service manager that keeps its descriptors.
    pub(crate) managed: bool,
    /// What was only in a pipe may be lost: all are killed, and nobody keeps the pipes.
    pub(crate) pipes_are_lost: bool,
}

/// An ordinary program: awk(1) that writes the checker's lines, twenty at a
/// time, and notes in a file how often it did.
const PROGRAM: &str = r#"#!/bin/sh
told=told.$PLUMBD_CHILD.$$
: >"$told"
exec awk -v n=$((0x40000000 + $$)) -v told="$told" 'BEGIN {
    f = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"; f = f f
    for (i = 0; ; i += 20) {
        for (j = i; j < i + 20; j++) printf "%08x.%08x %s\n", n, j, substr(f, (n * 31 + j * 7) % 64 + 1, 45)
        fflush(); printf "." >>told; fflush(told); system("sleep 0.003")
    }
}'
"#;
/// Lines of one write, bytes of a line, and what a process id is added to; as in [`PROGRAM`].
const LINES: u32 = 20;
const LENGTH: usize = 64;
const NUMBERS: u32 = 0x4000_0000;

/// A daemon, and who talks to it.
pub(crate) struct Service {
    setting: Setting,
    port: u16,
    pub(crate) daemon: Daemon,
    pub(crate) count: Count,
    next: u32,
    clients: Option<Clients>,
    connections: Vec<Connection>,
}

struct Clients {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<Outcome>>,
}

impl Service {
    /// Starts both.
    pub(crate) fn start(setting: Setting) -> Service {
        let port = free_port();
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, PROGRAM).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let config = config(setting, port);
        let daemon = if setting.managed {
            let manager = Manager::new(dir.path());
            Daemon::start_under(manager, dir, &config)
        } else {
            Daemon::spawn_in(dir, &config)
        };
        daemon.wait_state(DaemonState::Running);
        let (count, connections) = (Count::default(), Vec::new());
        let mut service = Service { setting, port, daemon, count, next: 0, clients: None, connections };
        service.clients_come();
        service
    }

    /// Its sources, by name.
    pub(crate) fn sources(&self) -> &'static [&'static str] {
        match self.setting.load {
            Load::Small | Load::Large => &["echo"],
            Load::Many => &["echo.0", "echo.1", "echo.2", "tick", "tock"],
        }
    }

    fn clients_come(&mut self) {
        let (connections, depth, length) = match self.setting.load {
            Load::Small | Load::Many => (12, 3, 128),
            Load::Large => (3, 1, 64 * 1024),
        };
        let plan = Plan {
            address: ([127, 0, 0, 1], self.port).into(),
            connections,
            depth,
            length,
            first: self.next,
            reconnect: true,
            lasts: Duration::from_secs(86_400),
            drain: DEADLINE,
        };
        self.next += 100_000;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || generator::run(&plan, &told));
        self.clients = Some(Clients { stop, thread });
    }

    fn clients_go(&mut self) {
        let Some(Clients { stop, thread }) = self.clients.take() else { return };
        stop.store(true, Ordering::Relaxed);
        let outcome = match thread.join().unwrap() {
            Ok(outcome) => outcome,
            // The supervisor was dead before all of them had come; until then none says anything.
            Err(error) if self.loses_sockets() && error.kind() == ErrorKind::ConnectionRefused => return,
            Err(error) => panic!("cannot connect: {error}"),
        };
        assert!(outcome.wrong.is_empty(), "echoes differ: {:?}", outcome.wrong);
        assert!(self.loses_sockets() || outcome.refused == 0, "{} clients were refused", outcome.refused);
        self.connections.extend(outcome.connections);
    }

    /// Whether somebody was refused because his supervisor is dead.
    fn loses_sockets(&self) -> bool {
        self.daemon.manager.is_none()
    }

    /// An instant: mostly of saving, sometimes of starting.
    pub(crate) fn wait_any_instant(&self) {
        if any(4) > 0 {
            self.wait_progress();
        }
        std::thread::sleep(Duration::from_micros(any(6000)));
    }

    fn wait_progress(&self) {
        let length = || std::fs::metadata(self.daemon.path("messages.log")).map_or(0, |file| file.len());
        let before = length();
        wait_for(&format!("messages are saved\nlog:\n{}", self.daemon.log()), || (length() > before).then_some(()));
    }

    /// Kills these children at once.
    pub(crate) fn kill_children(&mut self, names: &[&str]) {
        let pids = self.processes(names);
        pids.iter().for_each(|&pid| kill(pid, SIGKILL));
        self.count.kills += u64::from(!pids.is_empty());
    }

    /// The same, and waits until each has another process.
    pub(crate) fn kill_and_see_replaced(&mut self, names: &[&str]) {
        let before = wait_for("each has a process", || {
            let all = self.processes(names);
            (all.len() == names.len()).then_some(all)
        });
        before.iter().for_each(|&pid| kill(pid, SIGKILL));
        self.count.kills += 1;
        wait_for(&format!("others in place of {names:?}\nlog:\n{}", self.daemon.log()), || {
            let now = self.processes(names);
            (now.len() == names.len() && !now.iter().any(|pid| before.contains(pid))).then_some(())
        });
    }

    fn processes(&self, names: &[&str]) -> Vec<i32> {
        let children = self.daemon.try_status().map_or(Vec::new(), |status| status.children);
        children.into_iter().filter(|c| names.contains(&c.name.as_str())).filter_map(|c| c.pid).collect()
    }

    /// Kills the supervisor, and its children where `all`.
    pub(crate) fn kill_supervisor(&mut self, all: bool) {
        let children = children_of(self.daemon.pid());
        kill(self.daemon.pid(), SIGKILL);
        if all {
            children.iter().for_each(|&pid| kill(pid, SIGKILL));
        }
        self.count.kills += 1;
        self.daemon.wait_killed();
        // As a service manager does, before it starts the next one.
        wait_for("the children are dead", || children.iter().all(|&pid| !alive(pid)).then_some(()));
        self.count.within_a_line += u64::from(self.is_within_a_line());
    }

    /// Waits until the supervisor, which was told to stop or was killed, and its children are gone.
    pub(crate) fn wait_dead(&mut self) {
        self.daemon.wait_killed();
        wait_for("nothing is left", || strays(self.daemon.dir.path()).is_empty().then_some(()));
    }

    /// The next supervisor, in place of one that is dead.
    pub(crate) fn start_again(&mut self) {
        if self.loses_sockets() {
            self.clients_go();
        }
        self.daemon.start_again();
        if self.clients.is_none() {
            self.clients_come();
        }
    }

    fn is_within_a_line(&self) -> bool {
        let mut last = [b'\n'];
        let file = std::fs::File::open(self.daemon.path("messages.log"));
        let _empty = file.and_then(|mut file| {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)
        });
        last != [b'\n']
    }

    /// Stops it, and compares the file with what was echoed.
    pub(crate) fn finish(mut self) -> Count {
        self.wait_progress();
        self.clients_go();
        self.daemon.stop();
        let programs = self.programs();
        self.connections.extend(programs);
        let mut bytes = Vec::new();
        rotated::open(&self.daemon.path("messages.log")).unwrap().read_to_end(&mut bytes).unwrap();
        let format = format(self.setting);
        let verdict = checker::check(&*bytes, format, &self.connections).unwrap();
        self.count.add(&verdict, &self.connections, &format!("{:?}\nlog:\n{}", self.setting, self.daemon.log()));
        self.count.doctored += damage(&bytes, format, &self.connections);
        self.count
    }

    /// What the ordinary programs wrote, by their own notes.
    fn programs(&self) -> Vec<Connection> {
        let names = self.daemon.dir.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        let told = names.filter_map(|name| {
            let name = name.to_str()?.strip_prefix("told.")?;
            let (peer, pid) = name.split_once('.')?;
            let writes = u32::try_from(self.daemon.read(&format!("told.{name}")).len()).unwrap();
            Some(Connection {
                number: NUMBERS + pid.parse::<u32>().unwrap(),
                peer: peer.to_owned(),
                length: LENGTH,
                // Killed behind a write, it could not note it any more.
                sent: (writes + 1) * LINES,
                part: 0,
                echoed: if self.setting.pipes_are_lost { 0 } else { writes * LINES },
            })
        });
        told.collect()
    }
}

fn format(setting: Setting) -> Format {
    if setting.echo_after == "synced" { Format::Json } else { Format::Text }
}

fn config(setting: Setting, port: u16) -> String {
    let Setting { echo_after, load, .. } = setting;
    let format = format(setting).name();
    let at_once = r#"
        backoff = { first = "0ms", factor = 1.0, max = "1ms", reset_after = "1s" }
        start_limit = { burst = 1000000, within = "1s" }"#;
    let (instances, programs) = match load {
        Load::Small | Load::Large => (1, [].as_slice()),
        Load::Many => (3, ["tick", "tock"].as_slice()),
    };
    let programs = programs.iter().map(|name| {
        format!(
            "[children.{name}]\ncommand = [\"./program\"]{at_once}\n[[links]]\nfrom = \"{name}\"\nto = \"logger\"\n"
        )
    });
    format!(
        r#"
        [daemon]
        log_level = "error"
        [children.echo]
        plugin = "echo"
        listen = ["tcp://127.0.0.1:{port}"]
        instances = {instances}{at_once}
        [children.echo.settings]
        echo_after = "{echo_after}"
        partial_after = "60s"
        [children.logger]
        plugin = "logger"{at_once}
        [children.logger.settings]
        file = "messages.log"
        format = "{format}"
        [[links]]
        from = "echo"
        to = "logger"
        {}"#,
        programs.collect::<String>()
    )
}
