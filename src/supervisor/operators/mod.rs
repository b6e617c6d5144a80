//! Operators: their connections, what they ask for, and who waits for an answer.

pub mod ready;
pub(crate) mod requests;
pub(crate) mod server;
