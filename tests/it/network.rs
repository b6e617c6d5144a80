//! A network namespace for a single test.

use std::process::Command;

/// From here on, this thread and what it starts are in a network namespace of their own. Its
/// loopback interface is up, and there is no other.
pub(crate) fn own_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
}

/// ip(8) with these words.
#[track_caller]
pub(crate) fn ip(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "{words}");
}
