//! The built-in plugins: one table, and one way to start.
//!
//! Each is this same executable, run as `plumbd plugin NAME`, and gets nothing
//! that another program could not get. The rest of plumbd knows only its row in the table:
//! a new plugin is a folder here and a row.

pub(crate) mod check;
pub mod echo;
pub mod logger;
#[cfg(test)]
pub(crate) mod null;
pub(crate) mod shared;
pub mod start;

use crate::schema::kind::Keys;
use crate::schema::manifest;
use check::{Asks, Check};
use serde_json::{Value, json};
use start::Start;

/// A row of the table.
#[derive(Debug)]
pub struct Plugin {
    /// `plugin = "NAME"`, `plumbd plugin NAME`.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// What its name means as the value of `plugin`, in a few words.
    pub meaning: &'static str,
    /// Whether it can be the source of a link.
    pub source: bool,
    /// Whether it can be the sink of a link: it has an intake, so its links
    /// have staging and a ledger, and it acknowledges records.
    pub sink: bool,
    /// The schemes of the addresses that it serves. If there are none, it does not listen.
    pub listens: &'static [&'static str],
    /// Whether `instances` may be above 1.
    pub instances: bool,
    /// Whether it reopens a file at SIGUSR1.
    pub reopens: bool,
    /// The setting that names the file that it writes messages to, and the metric that counts
    /// the bytes, if it writes one.
    pub writes: Option<Writes>,
    /// The keys of its settings.
    pub keys: Keys,
    /// The slots of its metrics page, in order.
    pub metrics: &'static [Metric],
    /// Checks its settings beyond each key's own kind, and returns what it asks of its link.
    pub check: fn(&mut Check<'_, '_>) -> Asks,
    /// How many bytes each of several instances shares with the others, given these settings
    /// ([`shared`]). 0 means none.
    pub shared: fn(&Value) -> usize,
    /// Runs it until it is asked to stop or its input ends.
    pub run: fn(Start) -> Result<(), String>,
}

/// The file that a plugin writes.
#[derive(Debug, Clone, Copy)]
pub struct Writes {
    /// The setting that is its absolute path.
    pub setting: &'static str,
    /// The metric that counts the bytes that were written to it.
    pub metric: &'static str,
}

/// One figure of a plugin.
#[derive(Debug)]
pub struct Metric {
    /// Its name in `plumbd status --json`.
    pub name: &'static str,
    /// Whether it goes up and down. If not, it only rises.
    pub is_gauge: bool,
    /// Whether the plugin also keeps how much it rises per second ([`start::Metrics::keep_rates`]).
    pub has_rate: bool,
    /// The unit that it counts.
    pub unit: &'static str,
    /// One sentence that explains it.
    pub help: &'static str,
}

impl Metric {
    /// One that only rises.
    pub const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
        Metric { name, is_gauge: false, has_rate: false, unit, help }
    }

    /// One that goes up and down.
    pub const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
        Metric { name, is_gauge: true, has_rate: false, unit, help }
    }

    /// The same, with its rates.
    pub const fn rated(self) -> Metric {
        Metric { has_rate: true, ..self }
    }
}

/// The table.
pub static PLUGINS: &[Plugin] = &[
    Plugin {
        name: "echo",
        about: "a network echo server: sends back each message once it is saved",
        meaning: "a network echo server",
        source: true,
        sink: false,
        listens: &["tcp"],
        instances: true,
        reopens: false,
        writes: None,
        keys: echo::settings::KEYS,
        metrics: echo::settings::METRICS,
        check: echo::settings::check,
        shared: echo::shared,
        run: echo::run,
    },
    Plugin {
        name: "logger",
        about: "saves every message, in order, to a file",
        meaning: "a sink that saves messages to a file",
        source: false,
        sink: true,
        listens: &[],
        instances: false,
        reopens: true,
        writes: Some(Writes { setting: "file", metric: "file_bytes" }),
        keys: logger::settings::KEYS,
        metrics: logger::settings::METRICS,
        check: logger::settings::check,
        shared: |_| 0,
        run: logger::run,
    },
    #[cfg(test)]
    Plugin {
        name: "null",
        about: "discards every message",
        meaning: "a sink that discards messages",
        source: false,
        sink: true,
        listens: &[],
        instances: false,
        reopens: false,
        writes: None,
        keys: null::KEYS,
        metrics: null::METRICS,
        check: null::check,
        shared: |_| 0,
        run: null::run,
    },
];

/// A program that a plugin starts to do work in the background. A configuration
/// can't name it.
#[derive(Debug)]
pub struct Worker {
    /// `plumbd plugin NAME`.
    pub name: &'static str,
    /// Runs it until its work is done.
    pub run: fn(Start) -> Result<(), String>,
}

/// All workers.
pub static WORKERS: [Worker; 1] = [Worker { name: logger::archivist::NAME, run: logger::archivist::run }];

/// The plugin of that name.
pub fn find(name: &str) -> Option<&'static Plugin> {
    PLUGINS.iter().find(|plugin| plugin.name == name)
}

/// The worker of that name.
pub fn worker(name: &str) -> Option<&'static Worker> {
    WORKERS.iter().find(|worker| worker.name == name)
}

impl Plugin {
    /// Its name with its article.
    pub fn one(&self) -> String {
        let article = if self.name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        format!("{article} {}", self.name)
    }

    /// Its row as JSON, for people and for other programs.
    pub fn manifest(&self) -> Value {
        let metrics = self.metrics.iter().map(|metric| {
            let kind = if metric.is_gauge { "gauge" } else { "counter" };
            json!({"name": metric.name, "kind": kind, "unit": metric.unit, "help": metric.help})
        });
        json!({
            "name": self.name,
            "about": self.about,
            "source": self.source,
            "sink": self.sink,
            "listens": self.listens,
            "instances": self.instances,
            // Settings that it can change while it runs.
            "reload": [],
            "keys": manifest::keys(self.keys),
            "metrics": metrics.collect::<Value>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::kind::Kind;

    /// Every word that a row allows can be read into the setting's type.
    #[test]
    fn each_word_of_a_setting_is_understood() {
        let understood = |plugin: &str, settings: &Value| match plugin {
            "echo" => echo::settings::Settings::read(&settings.to_string()).map(drop),
            "logger" => logger::settings::Settings::read(&settings.to_string()).map(drop),
            _ => Ok(()),
        };
        let mut words = 0;
        for plugin in PLUGINS {
            let tables = plugin.keys.iter().filter_map(|key| match key.kind {
                Kind::Table(inner) => Some((Some(key.name), inner)),
                _ => None,
            });
            for (table, keys) in tables.chain([(None, plugin.keys)]) {
                for key in keys {
                    let (Kind::Words(known) | Kind::WordsOr(known, _)) = key.kind else { continue };
                    for (word, _) in known {
                        let row = json!({key.name: word});
                        let mut settings = table.map_or_else(|| row.clone(), |table| json!({table: row}));
                        settings.as_object_mut().expect("a table").entry("file").or_insert(json!("/x"));
                        if plugin.name == "echo" {
                            settings.as_object_mut().expect("a table").remove("file");
                        }
                        assert_eq!(understood(plugin.name, &settings), Ok(()), "{settings}");
                        words += 1;
                    }
                }
            }
        }
        assert!(words >= 15, "{words}");
    }
}
