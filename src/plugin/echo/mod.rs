//! The echo server: it sends each message back once it is saved.
//!
//! - [`settings`]: its part of the configuration;
//! - `server`: the loop, and the parts that it owns;
//! - `message`: the path of a message, from a readable socket to the sink and back; its
//!   pure parts are `framing` (where a message ends), `outbox` (what goes to the sink, and
//!   which echo waits for what) and `stream` (a connection's bytes);
//! - `sink`: the link to the sink; `acknowledgements`: what comes back on it;
//! - `acceptor`: which clients are accepted; `addresses`: how many clients each address has,
//!   and `counts`: how many it has at the other instances;
//! - `connection`: how a connection begins, is watched and ends; `drain`: how the server
//!   ends; `timeouts`: what happens when a client does nothing; `timers`: when it happens;
//! - `client`: one connection; `transport`, `peer`: its parts; `reading`: whether it is read,
//!   and if not, why;
//! - `clients`: all connections, in `slots`; `memory`: how much they hold together, and which
//!   of them wait for more; `fates`: how their ends are logged.
//!
//! It is one thread that waits for nothing but events. Memory is bounded, for each client
//! and for all together: a client that holds too much is not read until it takes its
//! echoes, a client that holds nothing is not read while the others hold all the memory, and
//! no client is read while the sink takes nothing.

mod acceptor;
mod acknowledgements;
mod addresses;
mod client;
mod clients;
mod connection;
mod counts;
mod drain;
mod fates;
mod framing;
mod memory;
mod message;
mod outbox;
mod peer;
mod reading;
mod server;
pub mod settings;
mod sink;
mod slots;
mod stream;
mod timeouts;
mod timers;
mod transport;

use super::start::{self, Start};
use crate::schema::settings::typed;

pub use settings::METRICS;

/// How many bytes it shares with other instances. They are for `max_connections_per_address`,
/// which limits the clients of all instances together.
pub fn shared(settings: &serde_json::Value) -> usize {
    let settings: Option<settings::Settings> = typed(settings::KEYS, settings.clone()).ok();
    let limited = settings.filter(|settings| settings.max_connections_per_address > 0);
    limited.map_or(0, |settings| counts::region(settings.max_connections))
}

/// Serves until it is asked to stop.
///
/// # Errors
/// The reason why it ended, for the log.
pub fn run(start: Start) -> Result<(), String> {
    let mut server = server::Server::open(start)?;
    start::notify("READY=1");
    server.serve()
}
