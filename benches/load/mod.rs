//! Load on an echo server, and proof that none of it was lost.
//!
//! The benchmark (`benches/compare`) and the integration tests (`tests/it`) both
//! include this folder; it is not part of plumbd itself.
//!
//! - [`message`]: lines that number themselves;
//! - [`generator`]: clients that send them and compare each echo;
//! - [`histogram`]: how long the echoes took;
//! - [`checker`]: compares the message file with what the clients sent and got back;
//! - [`rotated`]: a message file and what was rotated from it, as one;
//! - [`yardstick`]: an echo server that saves nothing, to compare with.

pub(crate) mod checker;
pub(crate) mod generator;
pub(crate) mod histogram;
pub(crate) mod message;
pub(crate) mod rotated;
pub(crate) mod yardstick;
