//! A logger that has another `file` each time that it starts, and two loggers that
//! exchange theirs: each message is in all files together exactly once.

use super::count::Count;
use super::doctor::any;
use super::rig;
use crate::load::checker::{self, Format};
use crate::load::generator::Connection;
use crate::mini::{Held, Logger, Rig};
use crate::trace::{self, Place};
use crate::trial::{Tried, scaled};
use plumbd::link::handover::Protocol::Lines;
use plumbd::sys::map::{PAGE, SharedMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

pub(crate) fn attempt(times: f64) -> Tried {
    let mut count = Count::default();
    for round in 0..scaled(100, times) {
        let (mut rig, sent) = rig::full();
        let files = change_files(&mut rig, &mut count, |_| ());
        together(&files, &rig.path());
        rig::check(&rig, &sent, &mut count, &format!("round {round}, {} files", files.len()));
    }
    for round in 0..scaled(100, times) {
        let (rig, sent) = exchange(&mut count);
        rig::check(&rig, &sent, &mut count, &format!("exchange {round}"));
    }
    count.tried(&forgetful())
}

/// Kills a logger at any place, and starts it with another file, a few times.
fn change_files(rig: &mut Rig, count: &mut Count, between: impl Fn(&Rig)) -> Vec<PathBuf> {
    let mut files = vec![rig.path()];
    for number in 0..=any(4) {
        count.kills += u64::from(trace::kill_at(rig, place(300)));
        count.within_a_line += u64::from(rig::is_within_a_line(rig));
        between(rig);
        files.push(rig.path().with_file_name(format!("n{number}.log")));
        rig.settings["file"] = files.last().unwrap().to_str().unwrap().into();
    }
    rig.drain();
    files
}

fn place(stops: u64) -> Place {
    let number = |below| usize::try_from(any(below)).unwrap();
    Place { stop: number(stops), steps: number(2) * number(2000) }
}

/// Writes the lines of all files to one, in the order of their times.
fn together(files: &[PathBuf], to: &Path) {
    let mut all = Vec::new();
    for file in files {
        all.extend(std::fs::read(file).unwrap_or_default());
        assert!(all.last().is_none_or(|&last| last == b'\n'), "{} ends within a line", file.display());
    }
    let mut lines: Vec<&[u8]> = all.split_inclusive(|&byte| byte == b'\n').collect();
    lines.sort_by_key(|line| &line[..line.len().min("2026-11-22T15:04:05.123456Z".len())]);
    let sorted = lines.concat();
    std::fs::write(to, sorted).unwrap();
}

/// Two loggers are killed, one after the other or only one of them, and have each
/// other's file when they start again.
fn exchange(count: &mut Count) -> (Rig, Vec<Connection>) {
    let mut sent = Vec::new();
    let mut rigs = [(1, "left"), (2, "right")].map(|(number, from)| {
        let mut rig = Rig::new("text");
        rig.links.push(Held::new(from, Lines, 1 << 20));
        let mut c = rig::nobody(number, from, 120);
        rig::put_lines(&mut rig.links[0].source(), &mut c, 6000);
        sent.push(c);
        rig.end();
        rig
    });
    let files = ["a.log", "b.log"].map(|name| rigs[0].path().with_file_name(name));
    let turns = 1 + any(3) as usize;
    for turn in 0..=turns {
        for (at, rig) in rigs.iter_mut().enumerate() {
            rig.settings["file"] = files[(at + turn) % 2].to_str().unwrap().into();
        }
        if turn == turns {
            let last = [rigs[0].start(), rigs[1].start()];
            last.into_iter().for_each(Logger::wait_success);
            break;
        }
        for rig in &rigs[usize::try_from(any(2)).unwrap()..] {
            count.kills += u64::from(trace::kill_at(rig, place(250)));
        }
    }
    let [mut first, _] = rigs;
    first.settings["file"] = files[0].with_file_name("m.log").to_str().unwrap().into();
    together(&files, &first.path());
    (first, sent)
}

/// The control: ledgers that don't name the file of a batch.
fn forgetful() -> String {
    const PLACE: usize = 18;
    let (mut found, rounds) = (0, 60);
    for _ in 0..rounds {
        let (mut rig, sent) = rig::full();
        let files = change_files(&mut rig, &mut Count::default(), |rig| {
            for link in &rig.links {
                let ledger = SharedMap::new(&link.intake.ledger, PAGE).unwrap();
                ledger.words(PLACE + 1)[PLACE].store(0, Ordering::Relaxed);
            }
        });
        // A logger comes back to each of them.
        for file in &files {
            rig.links.clear();
            rig.settings["file"] = file.to_str().unwrap().into();
            rig.links.push(Held::new("nobody", Lines, 4096));
            rig.drain();
        }
        together(&files, &rig.path());
        let verdict = checker::check(&*rig.bytes(), Format::Text, &sent).unwrap();
        found += u32::from(!verdict.is_clean());
    }
    assert!(found > 0, "ledgers that name no file were not found out");
    format!("ledgers that name no file: found out in {found} of {rounds} rounds")
}
