//! plumbd: a supervisor for programs linked by pipes.
//!
//! An echoed message is a saved message: kill any process at any instant, and
//! nothing echoed is lost, nothing is saved twice, and order holds. ARCHITECTURE.md
//! explains how.
//!
//! - [`cli`]: the command line;
//! - [`config`]: from a file's bytes to a model that is valid by construction;
//! - [`control`]: the protocol between operators' commands and the daemon;
//! - [`journal`]: the daemon's log;
//! - [`link`]: what flows from a source to a sink, and how it survives both;
//! - [`plugin`]: the built-in programs, echo and logger;
//! - [`schema`]: how any table of keys is read, checked, shown and documented;
//! - [`supervisor`]: one thread, one loop: spawn, reap, restart, reload, stop;
//! - [`sys`]: the interface to the kernel, and all `unsafe`.

pub mod cli;
pub mod config;
pub mod control;
pub mod journal;
pub mod link;
pub mod plugin;
pub mod schema;
pub mod supervisor;
pub mod sys;
