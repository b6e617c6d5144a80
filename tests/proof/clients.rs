//! Clients: very many at once, some that send in pieces, break off or never read.

use crate::clients_crowd::{CROWD, flood, half_lines, ten_thousand};
use crate::clients_lines::{every_byte, long_lines};
use crate::clients_memory::bounded;
use crate::clients_resets::resets;
use crate::clients_unread::never_read;
use crate::trial::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial {
            name: "clients/10000",
            fault: "ten thousand clients at once, each sends and is answered again and again",
            promise: "each is served; every message is saved exactly once, in order",
            missing: needs_descriptors,
            attempt: ten_thousand,
        },
        Trial {
            name: "clients/flood",
            fault: "two thousand clients connect at once where 100 are allowed",
            promise: "none is refused: they wait in the backlog, and are served in turn; others' latency stays within 2 times",
            missing: needs_backlog,
            attempt: flood,
        },
        Trial {
            name: "clients/half-lines",
            fault: "ten thousand clients send half a line; some go on, others hang up",
            promise: "each half is saved once: as a message when idle, or with its other half; memory is bounded; \
                      others' latency stays within 2 times",
            missing: needs_descriptors,
            attempt: half_lines,
        },
        Trial {
            name: "clients/never-reads",
            fault: "one client, then a hundred, send as much as is taken and never read an echo",
            promise: "others' latency stays within 2 times; memory within twice max_message a client",
            missing: || None,
            attempt: never_read,
        },
        Trial {
            name: "clients/never-read-2000",
            fault: "two thousand clients send as much as is taken and never read, beside others",
            promise: "others are served; echo's memory stays within max_memory, the kernel's within 512 KiB a client with \
                      both ends; send_timeout closes all; nothing that was echoed is lost",
            missing: needs_descriptors,
            attempt: bounded,
        },
        Trial {
            name: "clients/resets",
            fault: "clients reset their connection in the middle of a message, while others are served",
            promise: "what was echoed is saved once, what was not is never torn; the others notice nothing, \
                      their latency stays within 2 times what it is beside clients that don't",
            missing: || None,
            attempt: resets,
        },
        Trial {
            name: "clients/long",
            fault: "lines of 1 MiB, sixteen times max_message",
            promise: "saved in parts, in order, none lost; echoed byte for byte; others' latency stays within 2 times what it is \
                      beside shorter lines",
            missing: || None,
            attempt: long_lines,
        },
        Trial {
            name: "clients/bytes",
            fault: "every byte value, and every pair of two, in text, json and raw",
            promise: "the message file gives back exactly the bytes that were sent",
            missing: || None,
            attempt: every_byte,
        },
    ]
}

/// Why this can't run with too few descriptors: this process needs one for each client, and
/// so does the echo.
fn needs_descriptors() -> Option<String> {
    plumbd::sys::process::raise_descriptor_limit().unwrap();
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    (soft < u64::from(CROWD) + 500).then(|| format!("needs {} descriptors a process, has {soft}", CROWD + 500))
}

fn needs_backlog() -> Option<String> {
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    (most.trim().parse::<u32>().unwrap() < 2100).then(|| "needs net.core.somaxconn of 2100".to_owned())
}
