//! What a logger makes of what others left: each batch is once in the files, and
//! nobody else's messages are touched.

use crate::logger::promised;
use crate::mini::Rig;
use plumbd::link::handover::Protocol::Lines;
use plumbd::link::intent::{FileId, Intent};
use plumbd::link::ledger::{Batch, Ledger};
use plumbd::link::record::Ack;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const NONE: Ack = Ack { epoch: 0, sequence: 0 };

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn intent_file(rig: &Rig) -> PathBuf {
    rig.folder.path().join(".m.log.intent")
}

/// A rig with `batch` in its link, which its ledger has as batch 7, to begin at
/// `offset` of a file.
fn prepared(at: &Path, offset: u64, batch: &str) -> Rig {
    let rig = Rig::with("raw", Lines);
    let file = FileId::of(&std::fs::metadata(at).unwrap());
    let mut ledger = Ledger::open(rig.links[0].intake.ledger.try_clone().unwrap()).unwrap();
    ledger.set_path(at).unwrap();
    ledger.prepare(&Batch { id: 7, take: batch.len() as u64, last: NONE, offset, file }, b"", 0).unwrap();
    rig.links[0].source().write_all(batch.as_bytes()).unwrap();
    rig
}

/// Makes the promise in an intent file one whose body is not whole.
fn tear(intent: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(intent).unwrap();
    file.write_all_at(b"~", 4096).unwrap();
}

#[test]
fn a_batch_that_was_never_promised_takes_nothing_of_anybody_s_out_of_a_file() {
    // Its own promise was cut short, or another logger's that came later, with
    // the same file in hand or another.
    for (elsewhere, closed) in [(false, false), (false, true), (true, false), (true, true)] {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("m.log");
        std::fs::write(&at, "one\nan hour\nof another's\n").unwrap();
        let mut rig = prepared(&at, 4, "batch\n");
        let other = Rig::with("raw", Lines);
        std::fs::write(other.path(), "").unwrap();
        promised(&other, &at, 25, b"never\n");
        tear(&intent_file(&other));
        std::fs::rename(intent_file(&other), folder.path().join(".m.log.intent")).unwrap();
        if closed {
            let mut intent = Intent::open(&folder.path().join(".m.log.intent"), 4096).unwrap().unwrap();
            intent.close().unwrap();
        }
        if !elsewhere {
            rig.settings["file"] = at.to_str().unwrap().into();
        }
        rig.drain();
        let (own, here) = if elsewhere { (rig.text(), "") } else { ("batch\n".to_owned(), "batch\n") };
        assert_eq!(read(&at), format!("one\nan hour\nof another's\n{here}"), "{elsewhere} {closed}");
        assert_eq!(own, "batch\n", "{elsewhere} {closed}");
    }
}

#[test]
fn a_promise_that_a_link_is_done_with_is_not_completed_again_wherever_its_file_is() {
    for moved in [true, false] {
        let mut rig = Rig::with("raw", Lines);
        std::fs::write(rig.path(), "one\nbatch\n").unwrap();
        promised(&rig, &rig.path(), 4, b"batch\n");
        let file = FileId::of(&std::fs::metadata(rig.path()).unwrap());
        let ledger = Ledger::open(rig.links[0].intake.ledger.try_clone().unwrap()).unwrap();
        ledger.prepare(&Batch { id: 7, take: 0, last: NONE, offset: 4, file }, b"", 0).unwrap();
        ledger.consuming(0);
        ledger.consumed();
        if moved {
            // Moved to another folder, or compressed.
            std::fs::remove_file(rig.path()).unwrap();
        } else {
            // logrotate's copytruncate.
            std::fs::write(rig.path(), "").unwrap();
        }
        rig.links[0].source().write_all(b"next\n").unwrap();
        rig.drain();
        assert_eq!(rig.text(), "next\n", "{moved}");
    }
}
