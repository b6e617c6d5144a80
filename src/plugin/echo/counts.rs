//! Shows the other instances how many clients of each address this one has. The counts are
//! a table in the memory that all instances share ([`crate::plugin::shared`]). Each instance
//! has a region of it, which only that instance writes and all read.
//!
//! | where | words of 8 bytes |
//! |---|---|
//! | before the regions | the number of regions that are or were in use |
//! | a region's first | its seed; 0 if no instance uses the region |
//! | from its eighth word on | slots of three words: state, and the address in two |
//!
//! An address can be in any slot of two groups of eight, which its hash with the seed
//! chooses. Clients can't know the seed, so they can't choose addresses that share the
//! same groups. The owner puts a new address into the group with more free slots, and
//! remembers the slot; the others search all sixteen. There are twice as many slots as
//! `max_connections`, so both groups are hardly ever full (with two to choose from, an
//! overfull group is rarer than one in a billion). An address that finds no slot is counted
//! by its own instance alone.
//!
//! A slot's state is its generation, in the upper half, and how many clients its address
//! has:
//!
//! | state | the address | next |
//! |---|---|---|
//! | (g, 0) free | means nothing, and may be changed | (g + 1, 1), once the next one is written |
//! | (g, n) | is valid | (g, n + 1), (g, n - 1), for the last client (g, 0) |
//!
//! All loads and stores are sequentially consistent, so they have one order. A reader loads
//! the state, the address, the state again, and the seed again. If both states have the
//! same generation and counts above 0, the address was valid between the two loads, and the
//! second state is its count, provided that the process that wrote it is still the same,
//! which the seed shows. (Between two loads no slot is taken 2^32 times, and no two of 2^64
//! seeds are equal.)
//!
//! In every other case the reader counts nothing, although a client may be there: the slot
//! was free at one of the two loads, or it or the region changed between them. So a client
//! that is there now was counted after the reader's first load. The reader had counted its
//! own client before that, so the other instance sees that client ([`super::addresses`]):
//! at least one of the two sees the other.
//!
//! A killed instance is counted until its process is reaped; its sockets are closed before
//! that. Then its region is zeroed, including the seed.
//!
//! A test tries every interleaving of a reader's loads with an owner's stores.

use crate::plugin::shared::{Layout, MOST_INSTANCES, Shared};
use crate::sys::map::{self, SharedMap};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Slots of a group.
const GROUP: usize = 8;
/// Words of a slot.
const SLOT: usize = 3;
/// Words before the first slot, so that groups begin where cache lines do.
const HEADER: usize = 8;

/// How many groups are needed if all clients have different addresses.
fn groups(max_connections: usize) -> usize {
    (2 * max_connections).div_ceil(GROUP).max(2)
}

/// The size of a region in bytes.
pub(super) fn region(max_connections: usize) -> usize {
    8 * (HEADER + SLOT * GROUP * groups(max_connections))
}

/// An address as it is stored in a slot. An IPv4 address is stored as an IPv4-mapped IPv6
/// address (RFC 4291, 2.5.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(u64, u64);

impl From<IpAddr> for Key {
    #[expect(clippy::cast_possible_truncation, reason = "two halves")]
    fn from(ip: IpAddr) -> Key {
        let bits = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        Key((bits >> 64) as u64, bits as u64)
    }
}

/// The counts of all instances, including this process.
#[derive(Debug)]
pub(super) struct Counts {
    map: SharedMap,
    layout: Layout,
    instance: usize,
    groups: usize,
}

impl Counts {
    /// Zeroes this instance's region, so at first it shows no clients.
    ///
    /// # Errors
    /// EINVAL: the file is too short for this many connections; ENOMEM from mmap(2).
    pub(super) fn open(shared: &Shared, max_connections: usize) -> io::Result<Counts> {
        let layout = Layout::new(region(max_connections));
        let Shared { file, instance } = shared;
        map::zero(file, layout.region_of(*instance), layout.region())?;
        let map = SharedMap::new(file, layout.bytes())?;
        // It is nearly all holes, which a core dump would fill.
        map.leave_out_of_dumps()?;
        let counts = Counts { map, layout, instance: *instance, groups: groups(max_connections) };
        counts.region(*instance)[0].store(seed(), Ordering::SeqCst);
        counts.used().fetch_max(*instance as u64 + 1, Ordering::SeqCst);
        Ok(counts)
    }

    /// Shows that this instance has this many clients of that address. `slot` is the slot of
    /// the address, if it has one, and is updated.
    pub(super) fn set(&mut self, key: Key, slot: &mut Option<usize>, clients: usize) {
        let region = self.region(self.instance);
        let state = |at: usize| region[at].load(Ordering::SeqCst);
        match *slot {
            Some(at) => {
                region[at].store(with(state(at), clients), Ordering::SeqCst);
                if clients == 0 {
                    *slot = None;
                }
            }
            None if clients == 0 => {}
            None => {
                let seed = region[0].load(Ordering::SeqCst);
                let free = |group: usize| slots(group).filter(|&at| count(state(at)) == 0);
                let group = self.groups_of(seed, key).into_iter().max_by_key(|&group| free(group).count());
                let Some(at) = group.and_then(|group| free(group).next()) else { return };
                region[at + 1].store(key.0, Ordering::SeqCst);
                region[at + 2].store(key.1, Ordering::SeqCst);
                region[at].store(with(next(state(at)), clients), Ordering::SeqCst);
                *slot = Some(at);
            }
        }
    }

    /// How many clients of that address the other instances have.
    pub(super) fn elsewhere(&self, key: Key) -> usize {
        let used = usize::try_from(self.used().load(Ordering::SeqCst)).unwrap_or(usize::MAX);
        let others = (0..used.min(MOST_INSTANCES)).filter(|&other| other != self.instance);
        others.map(|other| self.of(other, key)).sum()
    }

    /// How many clients of that address one other instance has.
    fn of(&self, other: usize, key: Key) -> usize {
        let region = self.region(other);
        let load = |at: usize| region[at].load(Ordering::SeqCst);
        let seed = load(0);
        if seed == 0 {
            return 0;
        }
        let mut all = self.groups_of(seed, key).into_iter().flat_map(slots);
        all.find_map(|at| Some(standing(load, seed, at, key)).filter(|&clients| clients > 0)).unwrap_or(0)
    }

    /// The two groups of an address.
    fn groups_of(&self, seed: u64, key: Key) -> [usize; 2] {
        // SipHash, hard to predict because a secret is hashed first. All instances are the
        // same executable, so they compute the same hash.
        let mut hasher = DefaultHasher::new();
        (seed, key).hash(&mut hasher);
        let hash = hasher.finish();
        // Scales each half to the number of groups.
        [hash >> 32, hash & 0xffff_ffff].map(|half| ((half * self.groups as u64) >> 32) as usize)
    }

    /// How many regions are in use, or were.
    fn used(&self) -> &AtomicU64 {
        &self.map.words(1)[0]
    }

    fn region(&self, instance: usize) -> &[AtomicU64] {
        let from = self.layout.region_of(instance) / 8;
        &self.map.words(from + self.layout.region() / 8)[from..]
    }
}

/// How many clients the slot at `at` shows if it belongs to that address, else 0. `seed` is
/// the region's seed, loaded before.
fn standing(mut load: impl FnMut(usize) -> u64, seed: u64, at: usize, key: Key) -> usize {
    let before = load(at);
    if count(before) == 0 || Key(load(at + 1), load(at + 2)) != key {
        return 0;
    }
    let after = load(at);
    let stood = generation(before) == generation(after) && load(0) == seed;
    if stood { count(after) } else { 0 }
}

/// The first words of a group's slots.
fn slots(group: usize) -> impl Iterator<Item = usize> {
    (group * GROUP..(group + 1) * GROUP).map(|slot| HEADER + slot * SLOT)
}

fn generation(state: u64) -> u64 {
    state >> 32
}

fn count(state: u64) -> usize {
    (state & 0xffff_ffff) as usize
}

/// The same state with this many clients.
fn with(state: u64, clients: usize) -> u64 {
    (state & !0xffff_ffff) | (clients as u64 & 0xffff_ffff)
}

/// The same state in the next generation.
fn next(state: u64) -> u64 {
    state.wrapping_add(1 << 32)
}

/// A random number other than 0.
fn seed() -> u64 {
    // The keys of std::hash::RandomState are random.
    RandomState::new().hash_one(0).max(1)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sys::map::{memory_file, zero};

    /// Instances 0 and 2, as the supervisor makes them.
    pub(in super::super) fn instances(max_connections: usize) -> [Counts; 2] {
        let [(one, _), (other, _)] = opened(max_connections);
        [one, other]
    }

    fn opened(max_connections: usize) -> [(Counts, Shared); 2] {
        let layout = Layout::new(region(max_connections));
        let file = memory_file(c"counts", layout.bytes()).expect("a memory file");
        [0, 2].map(|instance| {
            let shared = Shared { file: file.try_clone().expect("a descriptor"), instance };
            (Counts::open(&shared, max_connections).expect("long enough"), shared)
        })
    }

    fn key(n: u64) -> Key {
        Key(n, !n)
    }

    #[test]
    fn others_see_the_clients_of_one_until_they_are_gone() {
        let [mut one, other] = instances(100);
        let mut slot = None;
        for clients in [1, 2, 1, 0] {
            one.set(key(7), &mut slot, clients);
            assert_eq!((one.elsewhere(key(7)), other.elsewhere(key(7))), (0, clients));
            assert_eq!(other.elsewhere(key(8)), 0);
            assert_eq!(slot.is_some(), clients > 0);
        }
    }

    #[test]
    fn a_dead_instance_is_not_counted_and_starts_with_no_clients() {
        let [(mut one, shared), (other, _)] = opened(100);
        let mut slot = None;
        one.set(key(7), &mut slot, 3);
        assert_eq!(other.elsewhere(key(7)), 3);
        drop(one);
        assert_eq!(other.elsewhere(key(7)), 3, "until its region is zeroed");
        zero(&shared.file, other.layout.region_of(0), other.layout.region()).expect("zeroed");
        assert_eq!(other.elsewhere(key(7)), 0);
        let mut one = Counts::open(&shared, 100).expect("as before");
        let mut slot = None;
        one.set(key(7), &mut slot, 1);
        assert_eq!(other.elsewhere(key(7)), 1);
        // It starts with no clients even if the supervisor has not zeroed the region.
        let _again = Counts::open(&shared, 100).expect("as before");
        assert_eq!(other.elsewhere(key(7)), 0);
    }

    #[test]
    fn if_every_client_has_another_address_all_find_slots() {
        const CLIENTS: usize = 10_000;
        let [mut one, other] = instances(CLIENTS);
        let mut all: Vec<_> = (0..CLIENTS as u64).map(|n| (n, None)).collect();
        // Each client leaves, and one with another address comes, ten times.
        for round in 0..10 {
            for (n, slot) in &mut all {
                one.set(key(*n), slot, 0);
                *n += CLIENTS as u64;
                one.set(key(*n), slot, 1);
                assert!(slot.is_some(), "round {round}");
            }
        }
        assert!(all.iter().all(|(n, _)| other.elsewhere(key(*n)) == 1));
        assert_eq!((0..CLIENTS as u64).map(|n| other.elsewhere(key(n))).sum::<usize>(), 0);
    }

    #[test]
    fn an_address_that_finds_both_its_groups_full_is_not_shown() {
        let [mut one, other] = instances(1);
        let mut all: Vec<_> = (0..1000).map(|n| (n, None)).collect();
        for (n, slot) in &mut all {
            one.set(key(*n), slot, 1);
        }
        assert_eq!(all.iter().filter(|(_, slot)| slot.is_some()).count(), 2 * GROUP);
        assert!(all.iter().all(|(n, slot)| other.elsewhere(key(*n)) == usize::from(slot.is_some())));
        // A client that leaves makes room for another.
        for (n, slot) in &mut all {
            one.set(key(*n), slot, 0);
            assert_eq!(other.elsewhere(key(*n)), 0);
        }
        one.set(key(5000), &mut all[0].1, 1);
        assert_eq!(other.elsewhere(key(5000)), 1);
    }

    /// The contents of a region with one slot after each store, and the address and count that
    /// the slot then showed.
    struct History {
        words: Vec<[u64; 4]>,
        stood: Vec<Option<(Key, usize)>>,
    }

    impl History {
        fn store(&mut self, at: usize, value: u64) {
            let mut words = *self.words.last().expect("it began");
            words[at] = value;
            let clients = count(words[1]);
            self.stood.push((clients > 0).then_some((Key(words[2], words[3]), clients)));
            self.words.push(words);
        }

        /// Stores as [`Counts::set`] does.
        fn set(&mut self, key: Key, clients: usize) {
            let words = *self.words.last().expect("it began");
            if count(words[1]) == 0 {
                self.store(2, key.0);
                self.store(3, key.1);
                self.store(1, with(next(words[1]), clients));
            } else {
                self.store(1, with(words[1], clients));
            }
        }
    }

    /// Every interleaving of a reader's loads with an owner's stores: the time of each load,
    /// in order.
    fn times(loads: usize, from: usize, to: usize) -> Vec<Vec<usize>> {
        if loads == 0 {
            return vec![Vec::new()];
        }
        let first = |at: usize| times(loads - 1, at, to).into_iter().map(move |rest| [vec![at], rest].concat());
        (from..to).flat_map(first).collect()
    }

    #[test]
    fn no_reader_mistakes_one_address_for_another_or_misses_a_count_that_stands() {
        let mut history = History { words: vec![[5, 0, 0, 0]], stood: vec![None] };
        for (key, clients) in [(Key(7, 7), 1), (Key(7, 7), 2), (Key(7, 7), 0), (Key(8, 8), 3), (Key(8, 8), 0)] {
            history.set(key, clients);
        }
        history.set(Key(8, 7), 1);
        // It dies, and its region is zeroed. The next one begins with the same generations.
        for at in [1, 2, 3, 0] {
            history.store(at, 0);
        }
        history.store(0, 6);
        history.set(Key(9, 8), 4);
        let keys = [7, 8, 9].into_iter().flat_map(|high| [7, 8, 9].map(|low| Key(high, low)));
        let orders = times(6, 0, history.words.len());
        for key in keys {
            for order in &orders {
                let mut when = order.iter();
                let mut load = |at: usize| history.words[*when.next().expect("six loads")][at];
                let seed = load(0);
                let seen = if seed == 0 { 0 } else { standing(&mut load, seed, 1, key) };
                let stood = &history.stood[order[0]..=order[5]];
                let was_there = stood.contains(&Some((key, seen)));
                assert!(seen == 0 || was_there, "{key:?} {order:?}: {seen} of {stood:?}");
                let throughout = stood.iter().all(|stood| stood.is_some_and(|(stands, _)| stands == key));
                assert!(seen > 0 || !throughout, "{key:?} {order:?}: none of {stood:?}");
            }
        }
    }
}
