//! The children: how they are represented, started and heard, and what they leave behind.
//!
//! | file | what is there |
//! |---|---|
//! | `child`, `backoff`, `ends` | the state machine of one child, pure |
//! | `supervised` | one child: its part of the configuration, its state, what it is given |
//! | `children` | all children, and what follows from their states alone |
//! | `processes` | how processes start and end, and what arrives from them |
//! | `outcome` | whether a start succeeded |
//! | `spawn` | the descriptors and the environment of a new process |
//! | `health`, `checks` | whether a child is well: what follows from its checks, pure; the checks themselves |
//! | `beside` | processes beside children: those of checks and hooks |
//! | `notify`, `logs` | what children say about themselves, and what they write to the log |
//! | `held_back` | children that the system lacks something for |
//! | `strays`, `mark`, `environments` | processes that outlive the child that started them, and how they are recognized |
//! | `predecessor` | what a supervisor that was killed has left behind |

pub(crate) mod backoff;
pub(crate) mod beside;
pub(crate) mod checks;
pub(crate) mod child;
pub(crate) mod children;
mod ends;
mod environments;
pub(crate) mod health;
pub(crate) mod held_back;
pub(crate) mod logs;
pub(crate) mod mark;
pub mod notify;
pub(crate) mod outcome;
pub(crate) mod predecessor;
pub(crate) mod processes;
pub(crate) mod spawn;
pub(crate) mod strays;
pub(crate) mod supervised;
