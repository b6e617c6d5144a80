//! Integration tests: one binary, a file a behaviour.

mod background;
mod cli;
mod config;
mod daemon;
mod echo;
mod examples;
mod fake_sink;
mod guarantee;
#[path = "../../benches/load/mod.rs"]
mod load;
mod load_checker;
mod load_generator;
mod readiness;
mod spawn;
mod supervise;
