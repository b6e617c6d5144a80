//! Integration tests: one binary, a file a behaviour.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the answer")]

mod background;
mod chains;
mod changes;
mod cli;
mod completions;
mod config;
mod container;
mod control;
mod daemon;
mod echo;
mod examples;
mod fake_sink;
mod guarantee;
mod handed;
mod links;
#[path = "../../benches/load/mod.rs"]
mod load;
mod load_checker;
mod load_generator;
mod log;
mod logger;
mod logger_kills;
mod logrotate;
mod manager;
mod manuals;
mod mini;
mod no_mapping;
mod other_file;
mod readiness;
mod recovery;
mod reload;
mod removed;
mod rotation;
mod rotation_kills;
mod schema;
mod share;
mod shortage;
mod spawn;
mod steady;
mod stop;
mod store;
mod strays;
mod supervise;
mod syslog;
mod tail;
mod terminal;
mod trace;
mod troubles;
