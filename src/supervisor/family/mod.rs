//! The children: what each is, how it starts, what it says and leaves behind.
//!
//! | file | what is there |
//! |---|---|
//! | `child`, `backoff` | one child's states, pure |
//! | `supervised` | a child as it is held: its part of the configuration, its states, what it is given |
//! | `children` | all children, and what can be said of them from their states alone |
//! | `processes` | starts and ends of processes, and what comes from them |
//! | `outcome` | what becomes of a start |
//! | `spawn` | descriptors and environment of a start |
//! | `notify`, `logs` | what children say about themselves, and what they write to the log |
//! | `held_back`, `holder` | children that lack something of the system, and who has it |
//! | `strays`, `mark`, `environments` | processes that outlive the child that started them, and how they are recognized |
//! | `predecessor` | what a supervisor that was killed has left |

pub(crate) mod backoff;
pub(crate) mod child;
pub(crate) mod children;
mod environments;
pub(crate) mod held_back;
mod holder;
pub(crate) mod logs;
pub(crate) mod mark;
pub mod notify;
pub(crate) mod outcome;
pub(crate) mod predecessor;
pub(crate) mod processes;
pub(crate) mod spawn;
pub(crate) mod strays;
pub(crate) mod supervised;
