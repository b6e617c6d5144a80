//! The built-in plugins: one table, one way to open.
//!
//! Each is this same executable, run as `plumbd plugin NAME`, and gets nothing
//! that another program could not get.

pub mod echo;
pub mod logger;
pub mod shared;
pub mod start;

use start::Start;

/// A row of the table.
#[derive(Debug)]
pub struct Plugin {
    /// `plugin = "NAME"`, `plumbd plugin NAME`.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Whether it can be the source of a link.
    pub source: bool,
    /// Whether it can be the sink of a link: it has an intake, so its links
    /// have staging and a ledger.
    pub sink: bool,
    /// Whether `instances` may be above 1.
    pub instances: bool,
    /// Whether it reopens a file at SIGUSR1.
    pub reopens: bool,
    /// What its metrics page counts, slot by slot.
    pub metrics: &'static [&'static str],
    /// How many bytes each of several instances shares with the others, by these settings
    /// ([`shared`]); 0: none.
    pub shared: fn(&serde_json::Value) -> usize,
    /// Runs it until it is told to stop or its input ends.
    pub run: fn(Start) -> Result<(), String>,
}

/// The table.
pub static PLUGINS: [Plugin; 2] = [
    Plugin {
        name: "echo",
        about: "a network echo server: sends back each message once it is saved",
        source: true,
        sink: false,
        instances: true,
        reopens: false,
        metrics: echo::METRICS,
        shared: echo::shared,
        run: echo::run,
    },
    Plugin {
        name: "logger",
        about: "saves every message, in order, to a file",
        source: false,
        sink: true,
        instances: false,
        reopens: true,
        metrics: logger::METRICS,
        shared: |_| 0,
        run: logger::run,
    },
];

/// What plugins start for work beside their own. It plays no role in a
/// configuration.
pub static WORKERS: [Plugin; 1] = [Plugin {
    name: logger::archivist::NAME,
    about: "compresses and removes rotated message files",
    source: false,
    sink: false,
    instances: false,
    reopens: false,
    metrics: &[],
    shared: |_| 0,
    run: logger::archivist::run,
}];

/// What `plumbd plugin NAME` runs.
pub fn program(name: &str) -> Option<&'static Plugin> {
    PLUGINS.iter().chain(&WORKERS).find(|p| p.name == name)
}

/// The plugin of that name.
pub fn find(name: &str) -> Option<&'static Plugin> {
    PLUGINS.iter().find(|p| p.name == name)
}
