//! Integration tests: one binary, a file a behaviour.

mod logger;
mod logger_kills;
mod mini;
mod trace;
