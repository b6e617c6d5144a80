//! Kills: at every system call of the logger and of the echo, inside its
//! writes, and at random instants; of one child, several, the supervisor, all.
//!
//! - [`boundary`]: a traced logger or echo, killed at its N-th system call, for every N;
//! - [`random`]: a whole daemon under load, killed at any instant;
//! - [`under_way`]: a whole daemon while it reloads or stops;
//! - [`rotation`]: a logger, and a whole daemon, while it rotates;
//! - [`files`]: a logger, while its file changes;
//! - [`halves`]: ordinary programs that leave half lines;
//! - [`errors`]: a program whose errors are saved beside its output;
//! - [`service`], [`rig`], [`echo`]: what is killed, and its clients;
//! - [`count`]: the outcome; [`doctor`]: the trial of the checker itself;
//! - [`control`]: these faults with a protection taken away.

mod boundary;
mod control;
mod count;
mod doctor;
mod echo;
mod errors;
mod files;
mod halves;
mod random;
mod rig;
mod rotation;
mod service;
mod under_way;

use crate::trial::Trial;
use std::path::Path;

const ONCE: &str = "each message once, whole, in order";

/// All kills.
pub(crate) fn trials() -> Vec<Trial> {
    let trial = |name, fault, attempt| Trial { name, fault, promise: ONCE, missing: || None, attempt };
    vec![
        trial("kills/logger-calls", "the logger, before and after each of its system calls", boundary::logger),
        Trial {
            missing: needs_strace,
            ..trial(
                "kills/rotation-calls",
                "the logger, before and after each of its system calls, while it rotates after each batch",
                boundary::rotating_logger,
            )
        },
        trial("kills/inside-writes", "the logger inside the write of a batch of 1 MiB", boundary::inside_writes),
        Trial {
            missing: needs_strace,
            ..trial(
                "kills/echo-calls",
                "the echo, before and after each of its system calls; queued, saved and synced",
                boundary::echo,
            )
        },
        trial("kills/logger", "the logger, at any instant", random::logger),
        trial("kills/sources", "an echo or another source, at any instant", random::sources),
        trial("kills/children", "logger and sources at once", random::children),
        trial("kills/supervisor", "the supervisor, at any instant", random::supervisor),
        trial("kills/all", "supervisor and children at once", random::all),
        Trial {
            missing: needs_strace,
            ..trial(
                "kills/rotation",
                "the logger at any instant, rotating and compressing all the time",
                rotation::attempt,
            )
        },
        Trial {
            promise: "each line once, in order, or the end names what was lost",
            ..trial(
                "kills/chains",
                "chains of filters, stopped, killed and taken out while lines wait in them",
                crate::chains::attempt,
            )
        },
        Trial {
            promise: "each message once in all files together, whole, in order",
            ..trial(
                "kills/files",
                "the logger, at any of its system calls, each time with another file or with another logger's",
                files::attempt,
            )
        },
        trial("kills/rotating-daemon", "any process, around a rotation", rotation::daemon),
        Trial {
            promise: "each byte once, in order",
            ..trial("kills/half-lines", "any process, with programs whose writes end within a line", halves::attempt)
        },
        trial("kills/errors", "any process, with a program whose output and errors are saved", errors::attempt),
        trial("kills/reload", "any process, during a reload", under_way::reload),
        trial("kills/stop", "any process, during a stop of a child or of the daemon", under_way::stop),
    ]
}

fn needs_strace() -> Option<String> {
    (!Path::new("/usr/bin/strace").exists()).then(|| "needs strace".to_owned())
}
