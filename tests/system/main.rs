//! plumbd on a real system: a Debian machine, booted, with the package in it.
//!
//! `cargo test --test system -- --ignored`, as root. The first run makes the
//! machine's root with debootstrap, into $PLUMBD_TEST_CACHE or
//! /var/cache/plumbd-tests, and the package with `cargo deb`.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the answer")]

mod activation;
mod by_hand;
mod crash;
mod faults;
mod install;
#[path = "../../benches/load/mod.rs"]
#[allow(dead_code, reason = "the benchmark needs more of it")]
mod load;
mod machine;
mod reload;
mod rotation;
mod sandbox;
mod service;
mod stop;
mod upgrade;
mod user;
mod wait;
