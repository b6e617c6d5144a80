//! Integration tests: one binary, a file a behaviour.

mod cli;
mod config;
mod daemon;
mod echo;
mod fake_sink;
mod readiness;
mod spawn;
mod supervise;
