//! An echo and a logger for the clients of trials, a load of clients, and the checker's
//! verdict at the end.

use crate::daemon::{Daemon, free_port, wait_for};
use crate::load::checker::{self, Format, Verdict};
use crate::load::generator::{self, Connection, Outcome, Plan};
use crate::load::message;
use crate::trial::faults;
use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a load waits for the last echoes.
const DRAIN: Duration = Duration::from_secs(60);

/// What differs from the usual configuration.
pub(crate) struct Wanted<'a> {
    pub(crate) format: Format,
    /// More keys of the echo.
    pub(crate) child: &'a str,
    /// Its settings.
    pub(crate) echo: &'a str,
    /// The sink of its messages.
    pub(crate) sink: &'a str,
    /// More keys of the link.
    pub(crate) link: &'a str,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        let sink = "plugin = \"logger\"\nsettings = { file = \"messages.log\", format = \"FORMAT\" }";
        Wanted { format: Format::Text, child: "", echo: "", sink, link: "" }
    }
}

/// The daemon.
pub(crate) struct Service {
    pub(crate) daemon: Daemon,
    pub(crate) port: u16,
    format: Format,
}

impl Service {
    pub(crate) fn start(wanted: &Wanted<'_>) -> Service {
        Service::start_after("", wanted)
    }

    /// Starts the daemon from a shell that runs `first` before.
    pub(crate) fn start_after(first: &str, wanted: &Wanted<'_>) -> Service {
        let port = free_port();
        let Wanted { format, child, echo, sink, link } = wanted;
        let sink = sink.replace("FORMAT", format.name());
        let again = r#"
            backoff = { first = "0ms", factor = 2.0, max = "200ms", reset_after = "1s" }
            start_limit = { burst = 1000000, within = "1s" }
        "#;
        let config = format!(
            r#"
            [children.echo]
            plugin = "echo"
            listen = ["tcp://127.0.0.1:{port}"]
            {again}
            {child}
            [children.echo.settings]
            {echo}
            [children.logger]
            {again}
            {sink}
            [[links]]
            from = "echo"
            to = "logger"
            {link}
            "#
        );
        Service { daemon: Daemon::start_after(first, &config), port, format: *format }
    }

    /// One client.
    pub(crate) fn connect(&self) -> TcpStream {
        self.daemon.connect(self.port)
    }

    /// A load of 20 clients, or as `change` changes it, on a thread of its own.
    pub(crate) fn load(&self, change: impl FnOnce(&mut Plan)) -> Load {
        let mut plan = self.plan();
        change(&mut plan);
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || generator::run(&plan, &told).unwrap());
        Load { stop, thread }
    }

    /// The number of clients in the load whose latency is measured.
    pub(crate) const OTHERS: u32 = 10;

    /// That load for that long, numbered from `first`.
    pub(crate) fn load_for(&self, lasts: Duration, first: u32) -> Outcome {
        let plan = Plan { lasts, first, connections: Service::OTHERS, depth: 1, ..self.plan() };
        generator::run(&plan, &AtomicBool::new(false)).unwrap()
    }

    fn plan(&self) -> Plan {
        Plan { reconnect: false, drain: DRAIN, ..Plan::usual(self.port) }
    }

    /// A counter of a child.
    pub(crate) fn metric(&self, child: &str, name: &str) -> u64 {
        self.daemon.child(child).metrics.get(name).copied().unwrap_or_default()
    }

    /// Waits until a child has counted this many. It may take any time, as long as it makes
    /// progress.
    pub(crate) fn wait_metric(&self, child: &str, name: &str, count: u64) {
        let mut before = self.metric(child, name);
        while before < count {
            before = wait_for(&format!("more {name} of {child} than {before} (of {count})"), || {
                Some(self.metric(child, name)).filter(|now| *now > before)
            });
        }
    }

    /// Waits until the load has made progress.
    pub(crate) fn wait_progress(&self) {
        let length = || std::fs::metadata(self.daemon.path("messages.log")).map_or(0, |m| m.len());
        let before = length();
        wait_for(&format!("messages are saved\nlog:\n{}", self.daemon.log()), || {
            (length() > before + 20 * 128).then_some(())
        });
    }

    /// The anonymous memory of a child in bytes (RssAnon, proc_pid_status(5)).
    pub(crate) fn memory(&self, child: &str) -> u64 {
        let path = format!("/proc/{}/status", self.daemon.child_pid(child));
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The content of the message file.
    pub(crate) fn file(&self) -> Vec<u8> {
        self.daemon.read("messages.log")
    }

    pub(crate) fn verdict(&self, connections: &[Connection]) -> Verdict {
        checker::check(&*self.file(), self.format, connections).unwrap()
    }

    /// Stops it. The file must be right, and must be found wrong if it is doctored.
    pub(crate) fn end(mut self, connections: &[Connection]) -> Checked {
        self.daemon.stop();
        self.check(connections)
    }

    /// Checks the file once the daemon is stopped.
    pub(crate) fn check(&self, connections: &[Connection]) -> Checked {
        let verdict = self.verdict(connections);
        assert!(verdict.is_clean(), "{verdict}\nlog:\n{}", self.daemon.log());
        let echoed: u64 = connections.iter().map(|c| u64::from(c.echoed)).sum();
        assert!(verdict.echoed == echoed && echoed > 0, "{echoed} were echoed: {verdict}");
        Checked { control: doctored(&self.file(), self.format, connections), verdict }
    }
}

/// A load under way.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome>,
}

impl Load {
    /// Ends it once every echo is there.
    pub(crate) fn end(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let outcome = self.thread.join().unwrap();
        assert!(outcome.wrong.is_empty(), "echoes differ: {:?}", outcome.wrong);
        outcome
    }

    /// Ends it like [`Load::end`]. No client may have noticed anything, except that it took
    /// longer.
    pub(crate) fn end_unnoticed(self) -> Outcome {
        let outcome = self.end();
        let noticed = (outcome.disconnected, outcome.refused, outcome.unanswered());
        assert_eq!(noticed, (0, 0, 0), "disconnected, refused, unanswered");
        outcome
    }
}

/// A file that was right.
pub(crate) struct Checked {
    pub(crate) verdict: Verdict,
    /// What the checker found once the file was doctored.
    pub(crate) control: String,
}

/// The counts of what is there, lost, doubled and so on.
pub(crate) fn counts(verdict: &Verdict) -> String {
    format!("{} echoed: {}", verdict.echoed, faults(verdict))
}

/// `12.3 MiB`.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The checker on that file with one thing wrong in it, five times.
fn doctored(file: &[u8], format: Format, connections: &[Connection]) -> String {
    let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
    let by_number: HashMap<u32, &Connection> = connections.iter().map(|c| (c.number, c)).collect();
    let whose = |line: &[u8]| {
        let (connection, sequence) = message::numbers(&checker::entry(line, format)?.message)?;
        by_number.get(&connection).filter(|c| sequence < c.echoed).map(|_| connection)
    };
    let mut first = HashMap::new();
    let pair = lines.iter().enumerate().find_map(|(at, line)| {
        let before = first.insert(whose(line)?, at);
        before.map(|before| (before, at))
    });
    let one = pair.map(|(one, _)| one).or_else(|| first.values().copied().next()).unwrap();
    let with = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut lines: Vec<Vec<u8>> = lines.iter().map(|line| line.to_vec()).collect();
        change(&mut lines);
        checker::check(&*lines.concat(), format, connections).unwrap()
    };
    assert_eq!(with(&|lines| drop(lines.remove(one))).lost, 1);
    assert_eq!(with(&|lines| lines.push(lines[one].clone())).doubled, 1);
    let cut = with(&|lines| drop(lines[one].drain(60..63)));
    assert_eq!((cut.torn + cut.forged, cut.lost), (1, 1), "{cut}");
    let number = |line: &[u8]| line.windows(20).position(|bytes| message::numbers(bytes).is_some()).unwrap();
    let forge = |lines: &mut Vec<Vec<u8>>| {
        let at = number(&lines[one]);
        lines[one][at..at + 8].copy_from_slice(b"ffffffff");
    };
    assert_eq!(with(&forge).forged, 1);
    let swapped = pair.map(|(one, other)| {
        assert_eq!(with(&|lines| lines.swap(one, other)).disordered, 1);
        "swapped, "
    });
    format!("file doctored, a line removed, doubled, {}cut, forged: each found out", swapped.unwrap_or_default())
}
