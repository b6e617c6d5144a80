//! An outsider, another process, appends lines of its own to the message file.

use crate::disk_held::Held;
use crate::disk_site::{Site, tried};
use crate::trial::{Tried, scaled};
use std::fs::File;
use std::io::Write;
use std::time::Duration;

/// The beginning of the outsider's lines. No line of plumbd begins like this.
const ITS: &[u8] = b"an outsider's ";

/// It writes one line at a time, like `echo >>messages.log`.
struct Outsider {
    file: File,
    lines: usize,
}

impl Outsider {
    fn at(site: &Site) -> Outsider {
        Outsider { file: File::options().append(true).open(&site.file).unwrap(), lines: 0 }
    }

    fn append(&mut self) {
        self.file.write_all(&self.line(self.lines)).unwrap();
        self.lines += 1;
    }

    fn line(&self, number: usize) -> Vec<u8> {
        [ITS, format!("line {number}\n").as_bytes()].concat()
    }

    /// The file without the outsider's lines, and how many of them are there, whole and in order.
    fn taken_out(&self, file: &[u8]) -> (Vec<u8>, usize) {
        let (its, others): (Vec<&[u8]>, Vec<&[u8]>) =
            file.split_inclusive(|&byte| byte == b'\n').partition(|line| line.starts_with(ITS));
        let mut there = its.iter();
        let kept = (0..self.lines).filter(|&number| there.clone().any(|line| *line == self.line(number))).count();
        let in_order = (0..self.lines).all(|number| there.next().is_some_and(|line| *line == self.line(number)));
        assert!(in_order || kept < self.lines || its.len() != self.lines, "the outsider's lines are out of order");
        (others.concat(), kept)
    }
}

pub(crate) fn appended(times: f64) -> Tried {
    let rounds = scaled(500, times);
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "saved", "");
    let mut outsider = Outsider::at(&site);
    for round in 0..rounds {
        outsider.append();
        if round % 50 == 0 {
            site.wait_progress();
        }
        // The logger's writes are some hundred microseconds apart.
        std::thread::sleep(Duration::from_micros(u64::from(round * 37 % 1000)));
    }
    let held = Held::new(&site);
    for _ in 0..5 {
        held.before_a_write(|| outsider.append());
    }
    drop(held);
    let mut kept = 0;
    let of_plumbd = [site.end(&[], |live| {
        let (others, there) = outsider.taken_out(&live);
        kept = there;
        others
    })];
    assert_eq!(kept, outsider.lines, "its lines");
    let what = format!("{} lines of another process, 5 of them just before a write", outsider.lines);
    tried(&what, &of_plumbd, &format!("{kept} of these lines are there"), &written_over())
}

/// The control: the file is not open for appending.
fn written_over() -> String {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "saved", "");
    let mut outsider = Outsider::at(&site);
    let held = Held::new(&site);
    held.is_not_appending();
    held.before_a_write(|| outsider.append());
    drop(held);
    site.wait_progress();
    let (_, kept) = outsider.taken_out(&std::fs::read(&site.file).unwrap());
    assert!(kept < outsider.lines, "a file that is not open for appending loses nothing: the trial proves nothing");
    format!("without O_APPEND {} of {} of these lines overwritten", outsider.lines - kept, outsider.lines)
}
