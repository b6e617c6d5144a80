//! The supervisor: one thread, one loop, never blocks.
//!
//! Everything that happens is an event of `poll`: a signal, a deadline, a
//! descriptor. Deciding is apart from doing: `child` and `backoff` are pure;
//! `core` does what they say.
//!
//! | file | what is there |
//! |---|---|
//! | `core` | the loop, and what each event leads to |
//! | `children` | children's processes, and what comes from them |
//! | `strays`, `mark` | what children started that outlives them, and how it is recognized |
//! | `predecessor` | what a supervisor that was killed has left |
//! | `logs` | what they write to the log, and how it goes out |
//! | `looks`, `names`, `environments` | what a process aside looks at, so that the loop never waits |
//! | `held_back`, `holder` | children that lack something of the system, and who has it |
//! | `change` | what takes several steps: start, shutdown |
//! | `reload` | from one configuration to another, and back |
//! | `requests`, `server` | operators' requests, and their connections |
//! | `ready` | telling whoever started the daemon how that went |
//! | `child`, `backoff` | one child's states, pure |
//! | `drain` | the order in which children are stopped so that nothing is lost, pure |
//! | `manager` | what is said to the service manager |
//! | `store` | what outlives this process, at the service manager |
//! | `poll`, `unix_name` | what the loop waits for; the names of Unix sockets |
//! | `supervised`, `spawn`, `links`, `sockets`, `shared_memory`, `notify` | what is held for the children |
//! | `clock` | when something happened, whatever the wall clock shows |
//! | `access` | which users may open the pipes that children are given |

mod access;
mod backoff;
mod change;
pub mod child;
mod children;
mod clock;
mod core;
#[cfg(test)]
mod dice;
mod drain;
mod environments;
mod held_back;
mod holder;
pub mod links;
mod logs;
mod looks;
mod manager;
pub mod mark;
mod names;
pub mod notify;
mod poll;
mod predecessor;
pub mod ready;
mod reload;
mod requests;
mod server;
mod shared_memory;
mod sockets;
mod spawn;
mod store;
mod strays;
mod supervised;
pub(crate) mod unix_name;

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
    core::Supervisor::open(options)?.run(ready)
}
