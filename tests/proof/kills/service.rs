//! A whole daemon and its clients.

use super::count::Count;
use super::doctor::{any, damage};
use super::halves;
use crate::daemon::{Daemon, alive, children_of, free_port, kill, strays, wait_for};
use crate::load::checker::{self, Format, Verdict};
use crate::load::generator::{self, Connection, Outcome, Plan};
use crate::load::rotated;
use crate::manager::Manager;
use nix::libc::SIGKILL;
use plumbd::control::status::DaemonState;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The load, that is, what can be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// Messages of 128 bytes.
    Small,
    /// Messages of 64 KiB, each in many records.
    Large,
    /// Messages of 200,000 bytes, which are saved in four parts.
    Parts,
    /// Three echoes and two ordinary programs that write lines, into one file.
    Many,
    /// Two ordinary programs whose every write ends within a line ([`halves`]), and no echo.
    Halves,
}

/// How a daemon is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) echo_after: &'static str,
    pub(crate) load: Load,
    /// Under a service manager that keeps its descriptors.
    pub(crate) managed: bool,
    /// What was only in a pipe may be lost, because all are killed and no process keeps the pipes.
    pub(crate) pipes_are_lost: bool,
    /// Rotates and compresses as soon as the file is old enough ([`Service::age_file`]).
    pub(crate) rotate: bool,
}

/// An ordinary program: awk(1) that writes the checker's lines, twenty at a
/// time, and notes in a file how often it did.
pub(crate) const PROGRAM: &str = r#"#!/bin/sh
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
/// How many lines one write has, the length of a line, and the number to which the pid is added;
/// as in [`PROGRAM`].
const LINES: u32 = 20;
const LENGTH: usize = 64;
const NUMBERS: u32 = 0x4000_0000;

/// A daemon and its clients.
pub(crate) struct Service {
    setting: Setting,
    port: u16,
    pub(crate) daemon: Daemon,
    pub(crate) count: Count,
    /// Whether an echo was asked to end, by a stop or because its supervisor died, and not only
    /// killed.
    pub(crate) was_told_to_end: bool,
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
        Service::start_with(setting, if setting.load == Load::Halves { halves::PROGRAM } else { PROGRAM })
    }

    /// Starts both, with another ordinary program.
    pub(crate) fn start_with(setting: Setting, program: &str) -> Service {
        let port = free_port();
        let dir = tempfile::tempdir().unwrap();
        put_program(dir.path(), program);
        let config = config(setting, port);
        let daemon = if setting.managed {
            let manager = Manager::new(dir.path());
            Daemon::start_under(manager, dir, &config)
        } else {
            Daemon::spawn_in(dir, &config)
        };
        daemon.wait_state(DaemonState::Running);
        let (count, connections) = (Count::default(), Vec::new());
        let mut service =
            Service { setting, port, daemon, count, was_told_to_end: false, next: 0, clients: None, connections };
        service.clients_come();
        service
    }

    /// Its sources, by name.
    pub(crate) fn sources(&self) -> &'static [&'static str] {
        match self.setting.load {
            Load::Small | Load::Large | Load::Parts => &["echo"],
            Load::Many => &["echo.0", "echo.1", "echo.2", "tick", "tock"],
            Load::Halves => &["tick", "tock"],
        }
    }

    pub(crate) fn is_managed(&self) -> bool {
        self.setting.managed
    }

    fn clients_come(&mut self) {
        let (connections, depth, length) = match self.setting.load {
            Load::Small | Load::Many => (12, 3, 128),
            Load::Large => (3, 1, 64 * 1024),
            Load::Parts => (3, 1, 200_000),
            Load::Halves => return,
        };
        let plan = Plan { connections, depth, length, first: self.next, ..Plan::usual(self.port) };
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
            // The supervisor was dead before all of them had connected. Until then, none sends
            // anything.
            Err(error) if self.loses_sockets() && is_loss(error.kind()) => return,
            Err(error) => panic!("cannot connect: {error}"),
        };
        assert!(outcome.wrong.is_empty(), "echoes differ: {:?}", outcome.wrong);
        assert!(self.loses_sockets() || outcome.refused == 0, "{} clients were refused", outcome.refused);
        self.connections.extend(outcome.connections);
    }

    /// Whether clients may be refused because the supervisor is dead.
    fn loses_sockets(&self) -> bool {
        self.daemon.manager.is_none()
    }

    /// Waits until any instant, mostly while messages are saved, sometimes during a start.
    pub(crate) fn wait_any_instant(&self) {
        if any(4) > 0 {
            self.wait_progress();
        }
        std::thread::sleep(Duration::from_micros(any(6000)));
    }

    fn wait_progress(&self) {
        let length = || std::fs::metadata(self.daemon.path("messages.log")).map_or(0, |file| file.len());
        let before = length();
        // After a rotation, the file is shorter.
        wait_for(&format!("messages are saved\nlog:\n{}", self.daemon.log()), || (length() != before).then_some(()));
    }

    /// Rotations are at least 10 s apart: makes the file older than that, where
    /// the logger notes when its first message came (doc/law-of-a-link.md, "Intent file").
    pub(crate) fn age_file(&self) {
        const BEGAN: u64 = 21 * 8;
        let intent = File::options().read(true).write(true).open(self.daemon.path(".messages.log.intent")).unwrap();
        wait_for("the logger notes when the file began", || {
            let mut noted = [0; 24];
            intent.read_exact_at(&mut noted, BEGAN).ok()?;
            let [device, inode, began] =
                [0, 8, 16].map(|at| u64::from_ne_bytes(*noted[at..].first_chunk().expect("three words")));
            let file = std::fs::metadata(self.daemon.path("messages.log")).ok()?;
            let is_this = (device, inode) == (file.dev(), file.ino());
            let before = began.checked_sub(60_000_000)?;
            noted[16..].copy_from_slice(&before.to_le_bytes());
            let sum = u64::from(crc32fast::hash(&noted)).to_le_bytes();
            is_this.then(|| intent.write_all_at(&[&noted[16..], &sum].concat(), BEGAN + 16).unwrap())
        });
    }

    /// Kills these children at once. Returns whether there was one.
    pub(crate) fn kill_children(&mut self, names: &[&str]) -> bool {
        let pids = self.processes(names);
        self.note(&format!("kill {names:?}, {pids:?}"));
        pids.iter().for_each(|&pid| kill(pid, SIGKILL));
        self.count.kills += u64::from(!pids.is_empty());
        !pids.is_empty()
    }

    /// Kills these children, and waits until each has another process.
    pub(crate) fn kill_and_see_replaced(&mut self, names: &[&str]) {
        let before = wait_for("each has a process", || {
            let all = self.processes(names);
            (all.len() == names.len()).then_some(all)
        });
        self.note(&format!("kill {names:?}, {before:?}"));
        before.iter().for_each(|&pid| kill(pid, SIGKILL));
        self.count.kills += 1;
        wait_for(&format!("others in place of {names:?}\nlog:\n{}", self.daemon.log()), || {
            let now = self.processes(names);
            (now.len() == names.len() && !now.iter().any(|pid| before.contains(pid))).then_some(())
        });
    }

    /// Notes something for the person who looks at what a broken trial left.
    fn note(&self, what: &str) {
        let file = File::options().create(true).append(true).open(self.daemon.path("kills.txt"));
        writeln!(file.unwrap(), "{} {what}", jiff::Timestamp::now()).unwrap();
    }

    fn processes(&self, names: &[&str]) -> Vec<i32> {
        let children = self.daemon.try_status().map_or(Vec::new(), |status| status.children);
        children.into_iter().filter(|c| names.contains(&c.name.as_str())).filter_map(|c| c.pid).collect()
    }

    /// Kills the supervisor, and its children if `all`.
    pub(crate) fn kill_supervisor(&mut self, all: bool) {
        let children = children_of(self.daemon.pid());
        self.was_told_to_end = true;
        self.note(&format!("kill the supervisor, {}; all: {all}, {children:?}", self.daemon.pid()));
        kill(self.daemon.pid(), SIGKILL);
        if all {
            children.iter().for_each(|&pid| kill(pid, SIGKILL));
        }
        self.count.kills += 1;
        self.daemon.wait_killed();
        // A service manager also waits for this before it starts the next supervisor.
        wait_for("the children are dead", || children.iter().all(|&pid| !alive(pid)).then_some(()));
        self.count.within_a_line += u64::from(self.is_within_a_line());
    }

    /// Waits until the supervisor, which was stopped or killed, and its children are gone.
    pub(crate) fn wait_dead(&mut self) -> ExitStatus {
        let status = self.daemon.wait_killed();
        wait_for("nothing is left", || strays(self.daemon.dir.path()).is_empty().then_some(()));
        status
    }

    /// Starts the next supervisor in place of a dead one.
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
        let file = File::open(self.daemon.path("messages.log"));
        let _empty = file.and_then(|mut file| {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)
        });
        last != [b'\n']
    }

    /// Stops it, and compares the file with what was echoed.
    pub(crate) fn finish(mut self) -> Count {
        let bytes = self.stopped();
        if self.setting.load == Load::Halves {
            for child in self.sources() {
                let saved = halves::bytes_of(child, &bytes);
                let found = halves::check(self.daemon.dir.path(), child, &saved);
                self.count.halves += found.unwrap_or_else(|what| panic!("{:?}: {what}", self.setting));
            }
            return self.count;
        }
        let format = format(self.setting);
        let mut verdict = checker::check(&*bytes, format, &self.connections).unwrap();
        if self.was_told_to_end {
            // What had arrived by then became a message, and was echoed.
            verdict.parts += std::mem::take(&mut verdict.cut);
        }
        if !verdict.is_clean() {
            let evidence = format!("{verdict}\n{:#?}", self.connections);
            std::fs::write(self.daemon.path("expected.txt"), evidence).unwrap();
        }
        self.count.rotated += rotated::archives(&self.daemon.path("messages.log")).unwrap().len() as u64;
        self.count.add(&verdict, &self.connections, &format!("{:?}\nlog:\n{}", self.setting, self.daemon.log()));
        self.count.doctored += damage(&bytes, format, &self.connections);
        self.count
    }

    /// Stops it for a control, whose verdict need not be clean.
    pub(crate) fn verdict(mut self) -> Verdict {
        let bytes = self.stopped();
        checker::check(&*bytes, format(self.setting), &self.connections).unwrap()
    }

    /// Stops it. Returns all that was saved.
    fn stopped(&mut self) -> Vec<u8> {
        self.wait_progress();
        self.clients_go();
        self.daemon.stop();
        if self.setting.load != Load::Halves {
            let programs = self.programs();
            self.connections.extend(programs);
        }
        let mut bytes = Vec::new();
        rotated::open(&self.daemon.path("messages.log")).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// What the ordinary programs wrote, according to their notes.
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
                // If it was killed after a write, it could not note that any more.
                sent: (writes + 1) * LINES,
                part: 0,
                echoed: if self.setting.pipes_are_lost { 0 } else { writes * LINES },
                echoed_part: 0,
            })
        });
        told.collect()
    }
}

/// An ordinary program, in the folder of its daemon.
pub(crate) fn put_program(dir: &Path, text: &str) {
    let path = dir.join("program");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Whether a client was refused, or was in a backlog that was closed.
fn is_loss(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
}

fn format(setting: Setting) -> Format {
    if setting.echo_after == "synced" || setting.load == Load::Halves { Format::Json } else { Format::Text }
}

fn config(setting: Setting, port: u16) -> String {
    let Setting { echo_after, load, rotate, .. } = setting;
    let format = format(setting).name();
    let at_once = r#"
        backoff = { first = "0ms", factor = 1.0, max = "1ms", reset_after = "1s" }
        start_limit = { burst = 1000000, within = "1s" }"#;
    let programs = match load {
        Load::Small | Load::Large | Load::Parts => [].as_slice(),
        Load::Many | Load::Halves => ["tick", "tock"].as_slice(),
    };
    let programs = programs.iter().map(|name| {
        format!(
            "[children.{name}]\ncommand = [\"./program\"]{at_once}\n[[links]]\nfrom = \"{name}\"\nto = \"logger\"\n"
        )
    });
    let instances = if load == Load::Many { 3 } else { 1 };
    let echo = format!(
        r#"
        [children.echo]
        plugin = "echo"
        listen = ["tcp://127.0.0.1:{port}"]
        instances = {instances}{at_once}
        [children.echo.settings]
        echo_after = "{echo_after}"
        partial_after = "60s"
        [[links]]
        from = "echo"
        to = "logger"
        "#
    );
    let echo = if load == Load::Halves { "" } else { &echo };
    let rotate = if rotate { r#"rotate = { size = "4KiB", compress = "gzip" }"# } else { "" };
    format!(
        r#"
        [daemon]
        log_level = "error"
        [children.logger]
        plugin = "logger"{at_once}
        [children.logger.settings]
        file = "messages.log"
        format = "{format}"
        {rotate}
        {echo}
        {}"#,
        programs.collect::<String>()
    )
}
