//! What the outcome of a start must be, according to the documentation alone:
//! doc/law-of-a-link.md and its tables.

use super::super::pages::{
    BATCH as ID, CARRY, CONSUMING, DONE_BATCH, FILE, HELD, LEAVES, MAGIC, OFFSET, PHASE, PREPARED, Says, TAKE,
    UNTRUSTED, carry_len, is_right, is_settled, last_batch, says,
};
use super::case::{Case, Here};
use super::{BATCH, CARRIED, QUEUED, STAGED, body};
use plumbd::link::lines::LINE_MAX;

/// What is there afterwards.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Whether the logger refused.
    pub(super) refused: bool,
    /// The message file.
    pub(super) file: Vec<u8>,
    /// The file that had been renamed.
    pub(super) renamed: Vec<u8>,
    /// The parts that were moved away, in any order.
    pub(super) aside: Vec<Vec<u8>>,
    /// What is left in the link.
    pub(super) left: Vec<u8>,
}

impl Outcome {
    /// The outcome of that case, if `before` was in the file.
    pub(super) fn of(case: &Case, here: Here, before: &[u8]) -> Outcome {
        let mut outcome = Outcome { left: [STAGED, QUEUED].concat(), ..Outcome::default() };
        *if case.moved { &mut outcome.renamed } else { &mut outcome.file } = before.to_vec();
        if is_right(&case.ledger) {
            let saved = outcome.settle_file(case, here);
            match settle_link(case, saved) {
                Some((carry, rest)) => outcome.save_all(carry, rest),
                None => outcome.refused = true,
            }
        } else {
            outcome.refused = true;
        }
        outcome.aside.sort();
        outcome
    }

    /// Completes the promised batch in the file, if there is one. Returns its id.
    fn settle_file(&mut self, case: &Case, here: Here) -> Option<u64> {
        let (ledger, header) = (&case.ledger, &case.header);
        let is_ours = |words: &[u64], at: usize| words[at..at + 2] == [here.file.device, here.file.inode];
        let [device, inode] = [UNTRUSTED.of[0], UNTRUSTED.of[1]];
        let noted = header[0] == MAGIC && UNTRUSTED.is_right(header);
        let untrusted = noted && is_ours(header, device) && header[inode] != 0;
        if untrusted && !case.moved {
            self.move_away(0);
        }
        // Whether the identity that is known here is that of the message file.
        let named = !case.moved && !untrusted;
        let found = says(header, here.boot, &body());
        match found {
            // A link is done with it, even if something has happened to its file since.
            Says::Writing(at) if latest(ledger) <= header[at] && is_done(ledger, header, header[at]) => {
                return Some(header[at]);
            }
            Says::Writing(at) if latest(ledger) <= header[at] => {
                let [offset, length] =
                    [header[at + 3], header[at + 4]].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
                let mut body = BATCH[..length.min(BATCH.len())].to_vec();
                body.resize(length, 0);
                let file = match is_ours(header, at + 1) {
                    true if named => Some(&mut self.file),
                    true if !untrusted => Some(&mut self.renamed),
                    _ => None,
                };
                let there = file.as_ref().map_or(At::Nowhere, |file| find(file, offset, &body));
                match (file, there) {
                    // Another file must have the beginning of the batch.
                    (Some(file), At::Begun { done }) if named || done > 0 => file.extend(&body[done..]),
                    (_, there) => {
                        match there {
                            At::Broken(at) if named => self.move_away(at),
                            _ => self.move_torn(),
                        }
                        self.file.extend(body);
                    }
                }
                return Some(header[at]);
            }
            // A promise that was cut short: not a byte of its batch was saved.
            Says::Nothing if header[0] == MAGIC => {}
            Says::Writing(_) | Says::Nothing => {
                let offset = usize::try_from(ledger[OFFSET]).unwrap_or(usize::MAX);
                // If it is older than what the intent file knows, it was never promised.
                let last = if header[0] == MAGIC { last_batch(header) } else { 0 };
                let began = ledger[PHASE] == PREPARED && ledger[ID] >= last && !is_done(ledger, header, ledger[ID]);
                if began && named && is_ours(ledger, FILE) && offset < self.file.len() {
                    self.move_away(offset);
                }
            }
            Says::Idle | Says::OtherBoot => {}
        }
        None
    }

    fn move_away(&mut self, from: usize) {
        let moved = self.file.split_off(from);
        self.aside.push(moved);
    }

    fn move_torn(&mut self) {
        let whole = self.file.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if whole < self.file.len() {
            self.move_away(whole);
        }
    }

    /// Saves all that is in the link, in order.
    fn save_all(&mut self, carry: u64, rest: &[u8]) {
        self.move_torn();
        let mut bytes = CARRIED[..CARRIED.len().min(usize::try_from(carry_len(carry)).unwrap())].to_vec();
        bytes.resize(usize::try_from(carry_len(carry)).unwrap(), 0);
        bytes.extend([rest, QUEUED].concat());
        for line in bytes.strip_suffix(b"\n").unwrap().split(|&byte| byte == b'\n') {
            let parts = line.chunks(LINE_MAX).chain(line.is_empty().then_some(&[][..]));
            parts.for_each(|part| self.file.extend([part, b"\n"].concat()));
        }
        self.left.clear();
    }
}

/// Whether that batch was settled, or the link is done with it.
fn is_done(ledger: &[u64], header: &[u64], id: u64) -> bool {
    let consumes = ledger[PHASE] == CONSUMING && ledger[ID] == id;
    ledger[DONE_BATCH] == id || consumes || is_settled(header, id)
}

/// The last batch that the link knows about.
fn latest(ledger: &[u64]) -> u64 {
    let under_way = if matches!(ledger[PHASE], PREPARED | CONSUMING) { ledger[ID] } else { 0 };
    under_way.max(ledger[DONE_BATCH])
}

/// Where a file has a batch.
#[derive(Debug, Clone, Copy)]
enum At {
    /// It has this many bytes of the batch: all, or as many as the file has there.
    Begun {
        done: usize,
    },
    /// It has at least the first line, and something else behind it.
    Broken(usize),
    Nowhere,
}

/// Looks for the batch at each line from that offset on: for all of it, or for a beginning
/// at the end of the file. A beginning that is followed by something else counts if it has a
/// whole line, and takes precedence over a shorter one at the end.
fn find(file: &[u8], offset: usize, body: &[u8]) -> At {
    let lines = || (offset..=file.len()).filter(|&at| at == 0 || file[at - 1] == b'\n');
    let line = body.iter().position(|&byte| byte == b'\n').map_or(body.len(), |at| at + 1);
    let begun = lines().find(|&at| body.starts_with(&file[at..]));
    let broken = lines().find(|&at| file[at..].starts_with(&body[..line]));
    if lines().any(|at| file[at..].starts_with(body)) {
        return At::Begun { done: body.len() };
    }
    match (begun.map(|at| file.len() - at), broken) {
        (Some(done), None) => At::Begun { done },
        (Some(done), Some(_)) if done >= line => At::Begun { done },
        (_, Some(at)) => At::Broken(at),
        (None, None) => At::Nowhere,
    }
}

/// The carry, and what is left in staging; `None` if the ledger contradicts what staging has.
fn settle_link(case: &Case, saved: Option<u64>) -> Option<(u64, &'static [u8])> {
    let ledger = &case.ledger;
    let (staged, take) = (STAGED.len() as u64, ledger[TAKE]);
    let is_saved =
        saved == Some(ledger[ID]) || ledger[DONE_BATCH] == ledger[ID] || is_settled(&case.header, ledger[ID]);
    let rest = match ledger[PHASE] {
        PREPARED if is_saved => take,
        CONSUMING => take.checked_sub((ledger[HELD] & 0xffff_ffff).checked_sub(staged)?)?,
        _ => return Some((ledger[CARRY], STAGED)),
    };
    let rest = usize::try_from(rest).ok().filter(|&rest| rest <= STAGED.len())?;
    Some((ledger[LEAVES], &STAGED[rest..]))
}
