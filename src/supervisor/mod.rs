//! The supervisor: one thread, one loop, never blocks.
//!
//! Everything that happens is an event of `poll`: a signal, a deadline, a
//! descriptor. Decisions are separate from actions: `family::child`,
//! `family::backoff`, `family::outcome`, `change::drain` and `change::steps` are pure;
//! the rest does what they say.
//!
//! | room | what is there |
//! |---|---|
//! | `event_loop` | every event, in one match |
//! | `family` | children: states, start, end, what they say and leave behind |
//! | `kept` | what outlives a child's process: links, sockets, the service manager's store |
//! | `change` | everything that takes several steps: start, reload, end |
//! | `operators` | operators' connections and requests |
//! | `events` | what happened lately |
//! | `full_links` | links that become full, and that move again |
//! | `hooks` | programs that are run when something happens |
//! | `looks` | processes aside that look at things that may not answer, so that the loop never waits |
//! | `summary` | how the children are, in a line for the service manager |
//! | `manager`, `clock`, `poll` | the service manager, time, descriptors |

mod change;
mod clock;
#[cfg(test)]
mod dice;
mod event_loop;
mod events;
mod family;
mod full_links;
mod hooks;
mod kept;
mod looks;
mod manager;
mod operators;
mod poll;
mod summary;

pub use family::notify;
pub(crate) use kept::{holder, unix_name};
pub(crate) use operators::ready;

use crate::config::Loaded;
use ready::Ready;

/// What the supervisor starts with.
pub struct Options {
    /// The configuration.
    pub loaded: Loaded,
    /// Whether this process went to the background. If so, a failed start ends it,
    /// because its caller waits for the result.
    pub daemonized: bool,
    /// Makes the caller's own files again, if somebody removed them. A reload calls it, as
    /// it also makes the supervisor's own names again.
    pub renew: Box<dyn FnMut()>,
}

/// Supervises until it is asked to end. `ready` reports once how the start went.
///
/// # Errors
/// Something failed before the first child was started, which `ready` does not report;
/// or, at the end, why the start failed, or what was lost.
pub fn run(options: Options, ready: &mut Ready) -> Result<(), String> {
    event_loop::Supervisor::open(options)?.run(ready)
}
