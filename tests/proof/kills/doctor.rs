//! A right message file, damaged: the checker must find it.

use crate::load::checker::{self, Format, Verdict};
use crate::load::generator::Connection;
use memchr::{memchr, memmem, memrchr};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

/// A number below `n`, a different one each time.
pub(crate) fn any(n: u64) -> u64 {
    RandomState::new().build_hasher().finish() % n
}

/// Gives the checker the file without one line, with one twice, with two in
/// the wrong order, with one torn, and with one that no client sent. Returns how many files
/// there were.
///
/// # Panics
/// If one is not found out.
pub(crate) fn damage(file: &[u8], format: Format, connections: &[Connection]) -> u64 {
    let Some((first, second)) = two_lines(file, connections) else { return 0 };
    let (before, between, after) = (&file[..first.start], &file[first.end..second.start], &file[second.end..]);
    let (one, two) = (&file[first.clone()], &file[second.clone()]);
    let half = &one[..one.len() / 2];
    let stranger = [&one[..one.len() - 1], b"?\n"].concat();
    let check = |parts: &[&[u8]]| checker::check(&*parts.concat(), format, connections).unwrap();
    let found = |what: &str, verdict: Verdict, found: fn(&Verdict) -> u64| {
        assert!(found(&verdict) > 0, "a file with a line {what} was not found out: {verdict}");
    };
    found("removed", check(&[before, between, two, after]), |v| v.lost);
    found("doubled", check(&[before, one, between, two, one, after]), |v| v.doubled);
    found("out of order", check(&[before, two, between, one, after]), |v| v.disordered);
    found("torn", check(&[before, half, between, two, after]), |v| v.lost.min(v.torn + v.forged));
    found("changed", check(&[before, one, between, two, &stranger, after]), |v| v.torn + v.forged);
    5
}

/// Two neighbouring messages of one connection, both echoed.
fn two_lines(file: &[u8], connections: &[Connection]) -> Option<(Range<usize>, Range<usize>)> {
    let of: Vec<&Connection> = connections.iter().filter(|c| c.echoed >= 2).collect();
    let c = of.get(usize::try_from(any(of.len().max(1) as u64)).ok()?)?;
    let sequence = any(u64::from(c.echoed) - 1);
    let line = |sequence: u64| {
        let at = memmem::find(file, format!("{:08x}.{sequence:08x} ", c.number).as_bytes())?;
        let start = memrchr(b'\n', &file[..at]).map_or(0, |newline| newline + 1);
        Some(start..at + memchr(b'\n', &file[at..])? + 1)
    };
    Some((line(sequence)?, line(sequence + 1)?))
}
