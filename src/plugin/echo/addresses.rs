//! How many clients each address has, here and in the other instances of this child. The
//! limit is `max_connections_per_address`.
//!
//! To accept a client, this instance first counts it where the others see it, and then
//! adds up the counts of all instances for its address. If the sum is above the limit,
//! it takes the client's count back. So the limit is never exceeded: of the accepted clients,
//! the one that was counted last has seen all others. If two clients reach two
//! instances at the same instant, the instances may see each other's count and refuse both,
//! although there was room for one.

use super::counts::{Counts, Key};
use ipnet::Ipv6Net;
use std::collections::HashMap;
use std::net::IpAddr;

/// All addresses that have clients here.
#[derive(Debug)]
pub(super) struct Addresses {
    /// 0 means no limit.
    limit: usize,
    ipv6_prefix: u8,
    here: HashMap<IpAddr, Here>,
    /// Set if several instances count together.
    counts: Option<Counts>,
}

/// The clients of one address.
#[derive(Debug, Default)]
struct Here {
    clients: usize,
    /// Where the other instances see that number.
    slot: Option<usize>,
}

impl Addresses {
    pub(super) fn new(limit: usize, ipv6_prefix: u8, counts: Option<Counts>) -> Addresses {
        Addresses { limit, ipv6_prefix, here: HashMap::new(), counts }
    }

    /// A client connects from there. Returns whether it may be accepted.
    pub(super) fn enter(&mut self, from: IpAddr) -> bool {
        if self.limit == 0 {
            return true;
        }
        let from = self.counted(from);
        let here = self.here.entry(from).or_default();
        here.clients += 1;
        let mut elsewhere = 0;
        // If an address is above the limit here alone, the others' counts don't matter.
        if let Some(counts) = self.counts.as_mut().filter(|_| here.clients <= self.limit) {
            counts.set(Key::from(from), &mut here.slot, here.clients);
            elsewhere = counts.elsewhere(Key::from(from));
        }
        if here.clients + elsewhere > self.limit {
            self.remove(from);
            return false;
        }
        true
    }

    /// A client from there is gone.
    pub(super) fn left(&mut self, from: IpAddr) {
        if self.limit > 0 {
            self.remove(self.counted(from));
        }
    }

    fn remove(&mut self, from: IpAddr) {
        let Some(here) = self.here.get_mut(&from) else { return };
        here.clients -= 1;
        if let Some(counts) = &mut self.counts {
            counts.set(Key::from(from), &mut here.slot, here.clients);
        }
        if here.clients == 0 {
            self.here.remove(&from);
        }
    }

    /// What counts as one address. A host with one IPv6 address has all of its prefix.
    fn counted(&self, from: IpAddr) -> IpAddr {
        match from {
            IpAddr::V4(_) => from,
            IpAddr::V6(ip) => Ipv6Net::new(ip, self.ipv6_prefix).map_or(from, |net| net.network().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::counts::tests::instances;
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn ipv6_addresses_count_by_their_prefix() {
        for (prefix, one, other, same) in [
            (64, "2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true),
            (64, "2001:db8:0:1::1", "2001:db8:0:2::1", false),
            (128, "2001:db8::1", "2001:db8::2", false),
            (56, "2001:db8:0:100::1", "2001:db8:0:1ff::1", true),
            (1, "192.0.2.1", "192.0.2.2", false),
        ] {
            let [a, b] = instances(1000).map(Some);
            for (first, second) in [(a, b), (None, None)] {
                let several = first.is_some();
                let mut addresses = [Addresses::new(1, prefix, first), Addresses::new(1, prefix, second)];
                assert!(addresses[0].enter(ip(one)));
                assert_eq!(addresses[usize::from(several)].enter(ip(other)), !same, "{one} {other} /{prefix}");
                addresses[0].left(if same { ip(other) } else { ip(one) });
                assert!(addresses[0].enter(ip(one)), "{one} left");
            }
        }
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let mut addresses = Addresses::new(0, 64, None);
        assert!(addresses.enter(ip("192.0.2.1")) && addresses.here.is_empty());
        addresses.left(ip("192.0.2.1"));
    }

    #[test]
    fn all_instances_count_together() {
        let [first, second] = instances(1000);
        let mut all = [Addresses::new(3, 64, Some(first)), Addresses::new(3, 64, Some(second))];
        let come = |all: &mut [Addresses; 2], n: usize| all[n].enter(ip("192.0.2.1"));
        assert!(come(&mut all, 0) && come(&mut all, 1) && come(&mut all, 1));
        assert!(!come(&mut all, 0) && !come(&mut all, 1));
        assert!(all[0].enter(ip("192.0.2.2")), "another address");
        all[1].left(ip("192.0.2.1"));
        assert!(come(&mut all, 0));
        assert!(!come(&mut all, 1));
        for _ in 0..2 {
            all[0].left(ip("192.0.2.1"));
        }
        all[0].left(ip("192.0.2.2"));
        all[1].left(ip("192.0.2.1"));
        assert!(all.iter().all(|addresses| addresses.here.is_empty()));
        assert!((0..3).all(|_| come(&mut all, 1)), "all have left");
    }

    #[test]
    fn clients_that_find_no_slot_count_in_their_own_instance() {
        // More addresses than the two have slots for.
        let [first, second] = instances(1);
        let mut all = [Addresses::new(1, 128, Some(first)), Addresses::new(1, 128, Some(second))];
        let from = |n: u32| IpAddr::from(n.to_be_bytes());
        assert!((0..1000).all(|n| all[0].enter(from(n))));
        assert!((0..1000).all(|n| !all[0].enter(from(n))), "each has its one here");
        let passed = (0..1000).filter(|n| all[1].enter(from(*n))).count();
        assert!((500..1000).contains(&passed), "{passed} are not seen by the other");
        (0..1000).for_each(|n| all[0].left(from(n)));
        (0..1000).for_each(|n| all[1].left(from(n)));
        assert!((0..1000).all(|n| all[1].enter(from(n))), "all have left");
    }

    #[test]
    fn the_limit_is_never_passed_in_whatever_order_clients_come() {
        const LIMIT: usize = 2;
        // With this few slots, each is used by one address after the other.
        let [first, second] = instances(16);
        let inside: [AtomicUsize; 8] = Default::default();
        let entered: AtomicUsize = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for (seed, counts) in (1u32..).zip([first, second]) {
                let (inside, entered) = (&inside, &entered);
                scope.spawn(move || {
                    let mut addresses = Addresses::new(LIMIT, 64, Some(counts));
                    let (mut dice, mut here) = (seed, Vec::new());
                    for _ in 0..300_000 {
                        dice ^= dice << 13;
                        dice ^= dice >> 17;
                        dice ^= dice << 5;
                        let n = dice as usize % inside.len();
                        let from = IpAddr::from([192, 0, 2, u8::try_from(n).expect("few")]);
                        if dice & 0x100 == 0 && addresses.enter(from) {
                            let before = inside[n].fetch_add(1, Ordering::SeqCst);
                            assert!(before < LIMIT, "{before} and one more of {from}");
                            entered.fetch_add(1, Ordering::Relaxed);
                            here.push(n);
                        } else if let Some(n) = here.pop() {
                            inside[n].fetch_sub(1, Ordering::SeqCst);
                            addresses.left(IpAddr::from([192, 0, 2, u8::try_from(n).expect("few")]));
                        }
                    }
                });
            }
        });
        assert!(entered.into_inner() > 10_000, "they got in");
    }
}
