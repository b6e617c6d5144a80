//! The supervisor: one thread, one loop, never blocks.
//!
//! Everything that happens is an event of [`poll`]: a signal, a deadline, a
//! descriptor. Deciding is apart from doing: [`child`] and [`backoff`] are pure;
//! [`core`] does what they say.
//!
//! | file | what is there |
//! |---|---|
//! | `core` | the loop, and what each event leads to |
//! | `change` | what takes several steps: start, reload, shutdown |
//! | `requests`, `server` | operators' requests, and their connections |
//! | `child`, `backoff` | one child's states, pure |
//! | `supervised`, `spawn`, `links`, `sockets`, `notify` | what is held for the children |

mod backoff;
mod change;
pub mod child;
mod core;
pub mod links;
mod notify;
mod poll;
mod requests;
mod server;
mod sockets;
mod spawn;
mod supervised;

use crate::config::Loaded;

/// What the supervisor starts with.
pub struct Options {
    /// The configuration.
    pub loaded: Loaded,
    /// Told once, when every child is ready or can't be: `Ok`, or the reason.
    /// Where it is there, a start that fails ends the supervisor.
    pub outcome: Option<Outcome>,
}

/// Takes what became of the start.
pub type Outcome = Box<dyn FnOnce(Result<(), String>)>;

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}

/// Supervises until it is told to end.
///
/// # Errors
/// What it could not do before the first child was started; or, at the end,
/// what was lost.
pub fn run(options: Options) -> Result<(), String> {
    core::Supervisor::open(options)?.run()
}
