//! The supervisor under kills and signals: it reaps, restarts, counts and obeys.

mod kills;
mod storm;
mod strays;

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
            name: "supervisor/strays",
            fault: "SIGKILL of a child or of the supervisor, at random, where each child leaves processes outside of its group, all cores busy",
            promise: "what a child started is gone when it, or the next supervisor's, is up again",
            missing,
            attempt: |times| strays::attempt(scaled(strays::KILLS, times)),
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
