//! The supervisor: one thread, one loop, never blocks.
//!
//! Everything that happens is an event of `poll`: a signal, a deadline, a
//! descriptor. Deciding is apart from doing: `family::child`,
//! `family::backoff`, `family::outcome`, `change::drain` and `change::steps` are pure;
//! the rest does what they say.
//!
//! | room | what is there |
//! |---|---|
//! | `event_loop` | every event, in one match |
//! | `family` | children: states, start, end, what they say and leave behind |
//! | `kept` | what outlives a child: links, sockets, the service manager's store |
//! | `change` | what takes several steps: start, reload, end |
//! | `operators` | operators' connections and requests |
//! | `events` | what happened lately |
//! | `looks` | processes aside that look at what may not answer, so that the loop never waits |
//! | `manager`, `clock`, `poll` | the service manager, time, descriptors |

mod change;
mod clock;
#[cfg(test)]
mod dice;
mod event_loop;
mod events;
mod family;
mod kept;
mod looks;
mod manager;
mod operators;
mod poll;

pub use family::notify;
pub(crate) use kept::unix_name;
pub(crate) use operators::ready;

use crate::config::Loaded;
use ready::Ready;

/// What the supervisor starts with.
pub struct Options {
    /// The configuration.
    pub loaded: Loaded,
    /// Whether this process went to the background: then a start that fails
    /// ends it, for somebody waits to be told so.
    pub daemonized: bool,
    /// Makes again what the caller keeps by a name in a file system, if somebody removed
    /// that: a reload does the same for the supervisor's own names.
    pub renew: Box<dyn FnMut()>,
}

/// Supervises until it is told to end. `ready` is told once how the start went.
///
/// # Errors
/// What it could not do before the first child was started, untold to `ready`;
/// or, at the end, why the start failed, or what was lost.
pub fn run(options: Options, ready: &mut Ready) -> Result<(), String> {
    event_loop::Supervisor::open(options)?.run(ready)
}
