//! `max_connections_per_address` with several instances: the limit is for all of them
//! together.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::daemon::{Daemon, free_port, kill, state, wait_for};
use crate::network::{ip, own_network};
use nix::libc::{SIGCONT, SIGKILL, SIGSTOP};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn6, bind, connect, socket};
use plumbd::control::status::ChildState;
use std::io::{Read, Write};
use std::net::{SocketAddrV6, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Barrier;

fn config(port: u16, instances: usize, more: &str) -> String {
    format!(
        "[children.echo]\nplugin = \"echo\"\nlisten = [\"tcp://[::]:{port}\", \"tcp://127.0.0.1:{port}\"]\n\
         instances = {instances}\n{more}\
         settings = {{ echo_after = \"queued\", max_connections_per_address = 2 }}\n\
         [children.sink]\ncommand = [\"cat\"]\n\
         [[links]]\nfrom = \"echo\"\nto = \"sink\"\n"
    )
}

fn name(instance: usize) -> String {
    format!("echo.{instance}")
}

/// Whether a client is served, or closed at once.
fn is_served(client: &mut TcpStream) -> bool {
    let mut back = [0; 6];
    client.write_all(b"hello\n").and_then(|()| client.read_exact(&mut back)).is_ok_and(|()| &back == b"hello\n")
}

/// Several instances. A test lets only one run at a time, so that this one accepts clients.
struct Instances {
    daemon: Daemon,
    port: u16,
    count: usize,
}

impl Instances {
    fn start(count: usize, more: &str) -> Instances {
        let port = free_port();
        Instances { daemon: Daemon::start(&config(port, count, more)), port, count }
    }

    fn pids(&self) -> Vec<Option<i32>> {
        (0..self.count).map(|instance| self.daemon.child(&name(instance)).pid).collect()
    }

    fn only(&self, instance: usize) {
        for (other, pid) in self.pids().into_iter().enumerate() {
            let Some(pid) = pid else { continue };
            kill(pid, if other == instance { SIGCONT } else { SIGSTOP });
            wait_for("it stops, or goes on", || (other == instance).eq(&(state(pid) != Some('T'))).then_some(()));
        }
    }

    fn all_run(&self) {
        self.pids().into_iter().flatten().for_each(|pid| kill(pid, SIGCONT));
    }

    /// A client of that instance; `None` if it is not served.
    fn come(&self, instance: usize) -> Option<TcpStream> {
        self.only(instance);
        let before = self.metric(instance, "accepted") + self.metric(instance, "refused");
        let mut client = self.daemon.connect(self.port);
        let served = is_served(&mut client);
        // A refused client is closed first, and counted after that.
        let counted = || self.metric(instance, "accepted") + self.metric(instance, "refused");
        wait_for("it came there", || (counted() == before + 1).then_some(()));
        served.then_some(client)
    }

    /// Lets a client leave, and waits until its instance has noticed.
    fn leave(&self, instance: usize, client: TcpStream) {
        self.only(instance);
        let before = self.metric(instance, "connections");
        drop(client);
        wait_for("it has left", || (self.metric(instance, "connections") == before - 1).then_some(()));
    }

    fn metric(&self, instance: usize, which: &str) -> u64 {
        self.daemon.child(&name(instance)).metrics[which]
    }

    fn stop(mut self) {
        self.all_run();
        self.daemon.stop();
    }
}

#[test]
fn an_address_has_no_more_clients_than_the_limit_over_all_instances() {
    let all = Instances::start(3, "");
    let first = all.come(0).unwrap();
    let second = all.come(1).unwrap();
    for instance in 0..3 {
        assert!(all.come(instance).is_none(), "{instance}");
    }
    // A client that leaves makes room, whichever instance it had.
    all.leave(0, first);
    let third = all.come(2).unwrap();
    assert!(all.come(0).is_none() && all.come(1).is_none());
    all.leave(1, second);
    all.leave(2, third);
    let both = [all.come(0), all.come(0)];
    assert!(both.iter().all(Option::is_some) && all.come(1).is_none());
    drop(both);
    all.stop();
}

#[test]
fn if_many_come_at_once_no_more_than_the_limit_are_served() {
    const CLIENTS: usize = 12;
    let all = Instances::start(3, "");
    for round in 0..30 {
        let barrier = Barrier::new(CLIENTS);
        let served: usize = std::thread::scope(|scope| {
            let come = || {
                barrier.wait();
                let mut client = all.daemon.connect(all.port);
                let served = is_served(&mut client);
                // All know whether they are served before one leaves.
                barrier.wait();
                usize::from(served)
            };
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(come)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        });
        assert!(served <= 2, "{served} are served in round {round}");
    }
    let served = || {
        let mut clients = [all.daemon.connect(all.port), all.daemon.connect(all.port)];
        clients.iter_mut().all(is_served).then_some(())
    };
    wait_for("two are served again", served);
    all.stop();
}

#[test]
fn the_clients_of_a_killed_instance_no_longer_count() {
    // Whether or not another process takes its place.
    for (more, comes_again) in [("restart = \"never\"\n", false), ("", true)] {
        let all = Instances::start(3, more);
        let clients = [all.come(0).unwrap(), all.come(0).unwrap()];
        assert!(all.come(1).is_none());
        let pid = all.daemon.child_pid(&name(0));
        kill(pid, SIGKILL);
        if comes_again {
            all.daemon.wait_replaced(&name(0), pid);
        } else {
            all.daemon.wait_child(&name(0), ChildState::Down);
        }
        let others = [all.come(1).unwrap(), all.come(2).unwrap()];
        assert!(all.come(1).is_none());
        if comes_again {
            assert!(all.come(0).is_none(), "it sees those of the others");
            let [first, _second] = others;
            all.leave(1, first);
            assert!(all.come(0).is_some());
        }
        drop(clients);
        all.stop();
    }
}

#[test]
fn instances_that_a_reload_adds_or_removes_count_together_with_the_others() {
    let mut all = Instances::start(2, "");
    let pids = all.pids();
    let first = all.come(0).unwrap();
    let second = all.come(1).unwrap();
    all.all_run();
    all.daemon.reload(&config(all.port, 3, ""));
    all.count = 3;
    assert_eq!(all.pids()[..2], pids, "they go on");
    assert!(all.come(2).is_none(), "it sees those of the others");
    all.leave(1, second);
    let third = all.come(2).unwrap();
    assert!(all.come(0).is_none() && all.come(1).is_none(), "they see the client of the new one");
    all.all_run();
    all.daemon.reload(&config(all.port, 2, ""));
    all.count = 2;
    assert_eq!(all.pids(), pids, "they go on");
    let fourth = all.come(1).unwrap();
    assert!(all.come(0).is_none());
    drop((first, third, fourth));
    all.stop();
}

#[test]
fn one_instance_or_no_limit_shares_nothing() {
    for (instances, settings, shares) in [(2, "2", true), (1, "2", false), (2, "0", false)] {
        let port = free_port();
        let text = config(port, instances, "");
        let text =
            text.replace("max_connections_per_address = 2", &format!("max_connections_per_address = {settings}"));
        let mut daemon = Daemon::start(&text);
        let pid = daemon.child_pid(if instances == 1 { "echo" } else { "echo.0" });
        let mapped = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        assert_eq!(mapped.contains("memfd:plumbd-shared"), shares, "{mapped}");
        let held = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
        let held = held.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
        let held = held.filter(|to| to.to_string_lossy().contains("plumbd-shared")).count();
        assert_eq!(held, usize::from(shares));
        daemon.stop();
    }
}

#[test]
#[ignore = "needs root"]
fn ipv6_addresses_count_by_their_prefix_over_all_instances() {
    own_network();
    let froms = ["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1:ffff::3", "2001:db8:0:2::1"];
    for from in froms {
        ip(&format!("-6 addr add {from}/128 dev lo nodad"));
    }
    let all = Instances::start(2, "");
    let come = |instance: usize, from: &str| {
        all.only(instance);
        let at = |port| SockaddrIn6::from(SocketAddrV6::new(from.parse().unwrap(), port, 0, 0));
        let client = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(client.as_raw_fd(), &at(0)).unwrap();
        connect(client.as_raw_fd(), &at(all.port)).unwrap();
        let mut client = TcpStream::from(client);
        is_served(&mut client).then_some(client)
    };
    let _first = come(0, froms[0]).unwrap();
    let _second = come(1, froms[1]).unwrap();
    assert!(come(0, froms[2]).is_none() && come(1, froms[2]).is_none());
    let _other = come(1, froms[3]).unwrap();
    all.stop();
}
