//! plumbd on a machine: its package, its service, and clients that send messages.

use crate::load::checker::{self, Format, Verdict};
use crate::load::generator::{self, Connection, Outcome, Plan};
use crate::load::rotated;
use crate::machine::Machine;
use crate::wait::wait_for;
use plumbd::control::status::Status;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// The message file of the packaged configuration.
pub const MESSAGES: &str = "/var/log/plumbd/messages.log";
/// The packaged configuration.
pub const CONFIG: &str = "/etc/plumbd/plumbd.toml";
/// The version that stands in for the next one.
pub const NEXT_VERSION: &str = "99.0-1";

/// The package, made once by `cargo deb`.
pub fn package() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| deb("plumbd.deb", &[]))
}

/// The same package with a higher version.
pub fn next_package() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| deb("plumbd-next.deb", &["--deb-version", NEXT_VERSION]))
}

fn deb(name: &str, more: &[&str]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let made = Command::new(env!("CARGO"))
        .args(["deb", "--fast", "--quiet", "--output"])
        .arg(&path)
        .args(more)
        .args(["--", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "cannot make the package (cargo install cargo-deb --locked): {why}");
    path
}

impl Machine {
    /// A machine with the package installed, and nothing more.
    pub fn with_package() -> Machine {
        let package = package();
        let machine = Machine::boot();
        machine.install(package);
        machine
    }

    /// A machine whose service runs, as packaged.
    pub fn serving() -> Machine {
        let machine = Machine::with_package();
        machine.done(&["systemctl", "enable", "--now", "plumbd"]);
        machine
    }

    /// Installs a package, or upgrades to it.
    #[track_caller]
    pub fn install(&self, package: &Path) {
        self.put(package, "/root/plumbd.deb");
        self.done(&["dpkg", "--install", "/root/plumbd.deb"]);
    }

    /// One of the service's properties.
    #[track_caller]
    pub fn property(&self, name: &str) -> String {
        let value = self.done(&["systemctl", "show", "--value", "--property", name, "plumbd.service"]);
        value.trim().to_owned()
    }

    /// The supervisor's process id, inside.
    #[track_caller]
    pub fn supervisor(&self) -> String {
        let pid = self.property("MainPID");
        assert_ne!(pid, "0", "no supervisor runs");
        pid
    }

    /// The answer of `plumbd status`, if there is one.
    pub fn try_status(&self) -> Option<Status> {
        serde_json::from_str(&self.run(&["plumbd", "status", "--json"]).out).ok()
    }

    /// A child's process id, inside, once it is up.
    #[track_caller]
    pub fn child(&self, name: &str) -> String {
        let pid = wait_for(&format!("{name} is up"), || {
            self.try_status()?.children.into_iter().find(|child| child.name == name && child.ready)?.pid
        });
        pid.to_string()
    }

    /// Waits until the service is active with a supervisor other than that one.
    #[track_caller]
    pub fn wait_replaced(&self, supervisor: &str) {
        wait_for("systemd has started another supervisor", || {
            let active = self.property("ActiveState") == "active";
            (active && self.property("MainPID") != supervisor).then_some(())
        });
    }

    /// Replaces some text of the packaged configuration.
    #[track_caller]
    pub fn edit(&self, from: &str, to: &str) {
        let text = self.read_text(CONFIG);
        assert!(text.contains(from), "{from:?} is not in\n{text}");
        self.write(CONFIG, &text.replacen(from, to, 1));
    }

    /// Installs a drop-in for the service, and makes systemd read it.
    pub fn drop_in(&self, name: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/plumbd.service.d/{name}"), text);
        self.done(&["systemctl", "daemon-reload"]);
    }

    /// Sends a line to the echo server; returns what comes back.
    #[track_caller]
    pub fn echo(&self, line: &str) -> String {
        self.sh(&format!("printf '{line}\\n' | nc -N -w 60 127.0.0.1 7007"))
    }

    /// Waits for a line with that message in a file.
    #[track_caller]
    pub fn wait_line(&self, path: &str, message: &str) {
        let end = format!(" {message}");
        wait_for(&format!("{message:?} in {path}"), || {
            self.read_text(path).lines().any(|line| line.ends_with(&end)).then_some(())
        });
    }

    /// Starts clients that send messages until they are told to stop, and reconnect if the
    /// server ends their connection.
    pub fn load(&self) -> Load {
        /// The first number for connections, so that no two runs share a number.
        static FIRST: AtomicU32 = AtomicU32::new(0);
        let plan = Plan { first: FIRST.fetch_add(1_000_000, Ordering::Relaxed), ..Plan::usual(7007) };
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        Load { stop, thread: self.in_network(move || generator::run(&plan, &told).unwrap()) }
    }

    fn messages(&self) -> u64 {
        std::fs::metadata(self.path(MESSAGES)).map_or(0, |file| file.len() / 128)
    }

    /// Waits until the file has grown by some more messages.
    #[track_caller]
    pub fn wait_progress(&self) {
        let before = self.messages();
        wait_for("messages are saved", || (self.messages() > before + 100).then_some(()));
    }

    /// Compares the message file, with what was rotated from it, with what those clients
    /// sent and got back. It must be clean, and more than a few messages must be echoed.
    #[track_caller]
    pub fn assert_kept(&self, outcomes: &[Outcome]) -> Verdict {
        for outcome in outcomes {
            assert!(outcome.wrong.is_empty(), "echoes differ: {:?}", outcome.wrong);
        }
        let connections: Vec<Connection> = outcomes.iter().flat_map(|o| o.connections.clone()).collect();
        let echoed: u64 = outcomes.iter().map(Outcome::echoed).sum();
        let file = rotated::open(&self.path(MESSAGES)).unwrap();
        let verdict = checker::check(file, Format::Text, &connections).unwrap();
        assert!(verdict.is_clean() && verdict.echoed == echoed, "{verdict}");
        assert!(echoed > 100, "hardly anything was echoed: {verdict}");
        verdict
    }
}

/// Clients that are sending messages.
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome>,
}

impl Load {
    /// Tells them to stop, and waits for the echoes that are due to them.
    pub fn end(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
