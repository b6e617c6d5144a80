//! Integration tests: one binary, a file a behaviour.

mod cli;
mod config;
mod control;
mod daemon;
mod echo;
mod fake_sink;
mod guarantee;
mod links;
#[path = "../../benches/load/mod.rs"]
mod load;
mod load_checker;
mod load_generator;
mod readiness;
mod reload;
mod spawn;
mod steady;
mod stop;
mod supervise;
