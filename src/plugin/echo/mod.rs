//! The echo server: what comes goes back, once it is saved.
//!
//! - [`settings`]: what the configuration says;
//! - `listener`: who comes in; `addresses`: how many of each address, and `counts`: what
//!   the other instances have of them;
//! - `client`, `stream`: one connection and its bytes; `table`: all of them;
//! - `memory`: what all of them hold, and who waits for more;
//! - `framing`: where a message ends;
//! - `outbox`: messages on their way to the sink, and echoes that wait for
//!   them; `replies`: what the sink says;
//! - `server`: the loop; `serve`: what happens to a client; `drain`: how it
//!   ends; `timers`: what happens later; `fates`: what is logged of clients.
//!
//! It is one thread that never waits but for events. Memory is bounded, for each
//! client and for all together: one that holds too much is not read until it takes
//! its echoes, one that holds nothing is not read while the others hold all there
//! is, and no client is read while the sink takes nothing.

mod addresses;
mod client;
mod counts;
mod drain;
mod fates;
mod framing;
mod listener;
mod memory;
mod outbox;
mod replies;
mod serve;
mod server;
pub mod settings;
mod stream;
mod table;
mod timers;

use super::start::{self, Start};
use crate::schema::settings::typed;

pub use settings::METRICS;

/// How many bytes it shares with other instances: for `max_connections_per_address`, which
/// is over all of them.
pub fn shared(settings: &serde_json::Value) -> usize {
    let settings: Option<settings::Settings> = typed(settings::KEYS, settings.clone()).ok();
    let limited = settings.filter(|settings| settings.max_connections_per_address > 0);
    limited.map_or(0, |settings| counts::region(settings.max_connections))
}

/// Serves until told to stop.
///
/// # Errors
/// What ended it, for the log.
pub fn run(start: Start) -> Result<(), String> {
    let mut server = server::Server::open(start)?;
    start::notify("READY=1");
    server.serve()
}
