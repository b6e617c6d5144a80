//! The control protocol: how an operator's command and the daemon talk.
//!
//! Over the control socket (a Unix stream socket) the client sends one
//! [`Request`] as a line of JSON; the daemon answers with [`Response`]s, one line
//! each, the last of which is [`Response::Exit`]. Both sides use these types,
//! so they can't disagree.
//!
//! - [`request`]: what is asked, and the daemon's decoder for any bytes;
//! - [`response`]: what is answered;
//! - [`entry`]: the shape of what `plumbd log` reads;
//! - [`event`]: the shape of what `plumbd events` reads;
//! - [`status`]: the shape of `plumbd status --json`;
//! - [`details`]: what `plumbd status CHILD` adds to it;
//! - [`schema`]: the JSON schema of both;
//! - [`client`]: connect, ask, hand on the answers.

pub mod client;
pub mod details;
pub mod entry;
pub mod event;
pub mod request;
pub(crate) mod response;
pub mod schema;
pub mod status;

pub use request::{Decoder, Request};
pub use response::Response;
pub use status::Status;
