//! Integration tests: one binary, a file a behaviour.

mod echo;
mod fake_sink;
