//! The supervisor under kills and signals: it reaps, restarts, counts and obeys.

mod kills;
mod storm;

use crate::trial::{Trial, scaled};

pub(crate) fn trials() -> Vec<Trial> {
    let missing = || None;
    vec![
        Trial {
            name: "supervisor/kills",
            fault: "SIGKILL of one of 20 children, at random",
            promise: "each is reaped and started again, counted once; no zombie, no stray, no descriptor left over",
            missing,
            attempt: |times| kills::attempt(scaled(kills::KILLS, times)),
        },
        Trial {
            name: "supervisor/storm",
            fault: "SIGHUP, SIGCHLD and SIGUSR1 in any order at any instant, and SIGTERM or SIGINT, once or twice",
            promise: "the configuration written last holds, a reopen comes through, and it ends; at once after a second stop",
            missing,
            attempt: |times| storm::attempt(scaled(storm::ROUNDS, times)),
        },
    ]
}
