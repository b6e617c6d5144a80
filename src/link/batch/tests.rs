use super::super::Link;
use super::super::handover::Protocol;
use super::super::record::{ACK_LEN, Flags, Head};
use super::super::words::kill_point;
use super::super::words::tests::killed_at;
use super::*;
use crate::sys::pipe;
use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::rc::Rc;

#[test]
fn a_batch_id_is_higher_than_the_last_and_after_the_highest_it_is_the_time() {
    let time = u64::try_from(now()).unwrap() * 1000;
    assert!(batch_id(0, 1) >= time && batch_id(u64::MAX, 1) >= time);
    assert_eq!((batch_id(0, 1007) % 1000, batch_id(0, 2000) % 1000), (7, 0));
    assert_eq!(batch_id(u64::MAX - 1, 1), u64::MAX);
    assert_eq!(batch_id(1 << 62, 1), (1 << 62) + 1);
}

/// The state that outlives every process: what is saved, and what is promised.
#[derive(Default)]
struct Store {
    saved: Vec<u8>,
    promise: Option<(Promise, Vec<u8>)>,
    settled: Vec<u64>,
    last_batch: u64,
    /// Whether its promises are lost whenever a sink is killed.
    forgets: bool,
    lost: bool,
}

/// A destination in memory. It can be killed before each of its actions.
struct Memory {
    store: Rc<RefCell<Store>>,
    body: Vec<u8>,
    /// The most bytes of a batch. They are few, so that there are several batches.
    room: usize,
}

impl Memory {
    fn new(store: &Rc<RefCell<Store>>) -> Memory {
        Memory { store: store.clone(), body: Vec::new(), room: 8 }
    }

    fn write_rest(&self, promise: &Promise, body: &[u8]) {
        loop {
            kill_point();
            let saved = &mut self.store.borrow_mut().saved;
            let offset = usize::try_from(promise.offset).unwrap();
            assert_eq!(&saved[offset..], &body[..saved.len() - offset], "something else was written there");
            match body[saved.len() - offset..].chunks(3).next() {
                Some(piece) => saved.extend(piece),
                None => return,
            }
        }
    }
}

impl Destination for Memory {
    type Halt = String;

    fn begin(&mut self, _now: i64) {
        self.body.clear();
    }

    fn put(&mut self, message: &Message<'_>) -> Result<(), usize> {
        let needs = message.bytes.len() + 1;
        if self.body.len() + needs > self.room {
            return Err(needs);
        }
        self.body.extend(message.bytes);
        self.body.push(b'\n');
        Ok(())
    }

    fn room_for_lines(&self) -> usize {
        0
    }

    fn put_lines(&mut self, _lines: &[u8]) {
        unreachable!("it has no room for them");
    }

    fn length(&self) -> u64 {
        self.body.len() as u64
    }

    fn grow(&mut self, needs: usize) -> Result<bool, String> {
        let grows = needs > self.room;
        self.room = self.room.max(needs);
        Ok(grows)
    }

    fn reserve(&mut self) -> Result<Option<Place>, String> {
        let offset = self.store.borrow().saved.len() as u64;
        Ok(Some(Place { file: FileId { device: 1, inode: 1 }, offset }))
    }

    fn endure(&mut self, trouble: &str, _error: &io::Error) -> Result<(), String> {
        Err(trouble.to_owned())
    }

    fn intend(&mut self, batch: &Promised<'_>) -> Result<bool, String> {
        kill_point();
        let mut store = self.store.borrow_mut();
        assert_eq!(store.promise, None, "one batch at a time");
        store.promise = Some((**batch, self.body.clone()));
        store.last_batch = batch.batch;
        Ok(true)
    }

    fn save(&mut self, batch: &mut Promised<'_>) -> Result<(), String> {
        self.write_rest(batch, &self.body);
        Ok(())
    }

    fn confirm(&mut self, _batch: &mut Promised<'_>) -> Result<bool, String> {
        kill_point();
        Ok(true)
    }

    fn withdraw(&mut self, _batch: &Promise) -> bool {
        false
    }

    fn close(&mut self) -> Result<(), String> {
        kill_point();
        self.store.borrow_mut().promise = None;
        Ok(())
    }

    fn name(&self) -> &Path {
        Path::new("/memory")
    }

    fn last_batch(&self) -> u64 {
        self.store.borrow().last_batch
    }

    fn found(&mut self) -> Result<Found, String> {
        let store = self.store.borrow();
        Ok(match &store.promise {
            Some((promise, _)) => Found::Promised(*promise),
            None if store.lost => Found::Lost,
            None => Found::Nothing,
        })
    }

    fn is_settled(&self, batch: u64) -> bool {
        self.store.borrow().settled.contains(&batch)
    }

    fn complete(&mut self, batch: &mut Promised<'_>) -> Result<(), String> {
        let (promise, body) = self.store.borrow().promise.clone().unwrap();
        assert_eq!(promise, **batch);
        self.write_rest(&promise, &body);
        Ok(())
    }

    fn take_back(&mut self, lost: &[ledger::Batch]) -> Result<(), String> {
        kill_point();
        if let Some(began) = lost.iter().map(|batch| usize::try_from(batch.offset).unwrap()).min() {
            self.store.borrow_mut().saved.truncate(began);
        }
        Ok(())
    }

    fn settle(&mut self, batch: Option<u64>) -> Result<(), String> {
        kill_point();
        let mut store = self.store.borrow_mut();
        store.settled.extend(batch);
        store.promise = None;
        Ok(())
    }

    fn rest(&mut self) -> Result<(), String> {
        kill_point();
        let mut store = self.store.borrow_mut();
        (store.promise, store.lost) = (None, false);
        Ok(())
    }
}

/// Two links and a store, used by one sink after another.
struct World {
    links: [Link; 2],
    acks: File,
    store: Rc<RefCell<Store>>,
}

/// What each source writes, in two parts. The second line of LINES is split between the
/// parts, and the third one does not fit into an empty batch.
const LINES: [&str; 2] = ["l1\nli", "ne2\na long line, 3\nl4\n"];
const RECORDS: [&[&str]; 2] = [&["r1", "r2"], &["r3", "record 4", "r5"]];

impl World {
    fn new(forgets: bool) -> World {
        let links = [Protocol::Lines, Protocol::Records].map(|protocol| Link::to_intake(4096, protocol).unwrap());
        let acks = File::from(links[1].replies.as_ref().unwrap().read.try_clone().unwrap());
        World { links, acks, store: Rc::new(RefCell::new(Store { forgets, ..Store::default() })) }
    }

    /// Lets the sources write that part.
    fn write(&self, part: usize) {
        let [lines, records] = self.links.each_ref().map(|link| File::from(link.queue.write.try_clone().unwrap()));
        (&lines).write_all(LINES[part].as_bytes()).unwrap();
        let before = RECORDS[..part].concat().len() as u64;
        for (sequence, message) in (before + 1..).zip(RECORDS[part]) {
            let (flags, peer) = (Flags::default(), Peer::None);
            let mut bytes = Vec::new();
            let head = Head { flags, peer, connection: 1, epoch: 7, sequence, time: 0 };
            head.encode_message(message.as_bytes(), &mut bytes, |_| {});
            (&records).write_all(&bytes).unwrap();
        }
    }

    /// Runs a sink until nothing is left to do, or until it is killed. Returns whether it was
    /// killed.
    fn sink(&self, kill_points: i64) -> bool {
        let give = |fd: &OwnedFd| fd.try_clone().unwrap().into_raw_fd();
        let inbound = self.links.each_ref().map(|link| {
            let intake = link.intake.as_ref().unwrap();
            Inbound {
                from: "source".to_owned(),
                stream: Stream::Stdout,
                protocol: if link.replies.is_some() { Protocol::Records } else { Protocol::Lines },
                queue: give(&link.queue.read),
                staging: [give(&intake.staging.read), give(&intake.staging.write)],
                ledger: give(&intake.ledger),
                replies: link.replies.as_ref().map(|replies| give(&replies.write)),
            }
        });
        let killed = killed_at(kill_points, || {
            let mut intakes = Intakes::open(&inbound).unwrap();
            let mut memory = Memory::new(&self.store);
            intakes.recover(&mut memory).unwrap();
            while intakes.is_busy() {
                intakes.batch(&mut memory).unwrap();
            }
        });
        let mut store = self.store.borrow_mut();
        if killed && store.forgets {
            (store.promise, store.lost) = (None, true);
        }
        killed
    }

    fn saved(&self, of: char) -> Vec<String> {
        let text = String::from_utf8(self.store.borrow().saved.clone()).unwrap();
        let is_of = |line: &&str| line.starts_with('r') == (of == 'r');
        text.split_inclusive('\n')
            .map(|line| line.strip_suffix('\n').unwrap())
            .filter(is_of)
            .map(str::to_owned)
            .collect()
    }

    /// How many of the records' messages are saved whole.
    fn saved_records(&self) -> u64 {
        let saved = &self.store.borrow().saved;
        saved
            .split_inclusive(|&byte| byte == b'\n')
            .filter(|line| line.starts_with(b"r") && line.ends_with(b"\n"))
            .count() as u64
    }

    /// The last message up to which everything is acknowledged.
    fn acknowledged(&self, mut last: u64) -> u64 {
        while pipe::bytes_in(&self.acks).unwrap() > 0 {
            let mut bytes = [0; ACK_LEN];
            (&self.acks).read_exact(&mut bytes).unwrap();
            let ack = Ack::decode(&bytes).unwrap();
            // After a lost promise, a sink acknowledges what its ledger has, which may be less.
            assert!(ack.epoch == 7 && (ack.sequence >= last || self.store.borrow().forgets), "{ack:?} after {last}");
            last = last.max(ack.sequence);
        }
        last
    }
}

/// Checks that nothing is lost or doubled if a sink is killed at some point, and the next one
/// at another, with the first or the second part of the messages. Returns which of the two
/// were killed.
fn killed_sinks_keep_the_law(forgets: bool, part: usize, kills: [i64; 2]) -> [bool; 2] {
    let world = World::new(forgets);
    let (mut killed, mut acknowledged) = ([false; 2], 0);
    for at in 0..2 {
        world.write(at);
        if at == part {
            for (kill, killed) in kills.into_iter().zip(&mut killed) {
                *killed = world.sink(kill);
                acknowledged = world.acknowledged(acknowledged);
                // If a promise is lost, what was saved of its batch is removed for a while.
                let saved = if forgets { acknowledged } else { world.saved_records() };
                assert!(saved >= acknowledged, "{acknowledged} are acknowledged, {saved} are saved");
            }
        }
        assert!(!world.sink(i64::MAX));
    }
    assert_eq!(world.saved('l'), ["l1", "line2", "a long line, 3", "l4"], "{kills:?}");
    assert_eq!(world.saved('r'), RECORDS.concat(), "{kills:?}");
    assert_eq!(world.acknowledged(acknowledged), 5, "{kills:?}");
    assert!(world.store.borrow().promise.is_none());
    killed
}

#[test]
fn wherever_a_sink_is_killed_nothing_is_lost_or_doubled_and_the_order_holds() {
    for forgets in [false, true] {
        for part in 0..2 {
            let mut points = 0;
            for first in 0.. {
                // The second sink is killed at some points of its recovery, and after it.
                for second in [i64::MAX, first % 5, 5 + first % 11, 16 + first % 31] {
                    let killed = killed_sinks_keep_the_law(forgets, part, [first, second]);
                    points = if killed[0] { first } else { points };
                }
                if points < first {
                    break;
                }
            }
            assert!(points > 50, "only {points} points at which it can be killed");
        }
    }
}
