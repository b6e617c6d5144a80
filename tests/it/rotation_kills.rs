//! Whenever a logger is killed in a rotation, or its archivist at work, each
//! message is in the file or an archive exactly once.

use crate::logger_kills::{COUNT, Dice, ECHO, assert_same, expected, full_rig, saved, under_load};
use crate::mini::{Rig, wait_until};
use crate::trace::{Place, kill_at, kill_started_at};
use plumbd::link::handover::Protocol::{Lines, Records};

#[test]
fn rotations_under_load_survive_kills_at_random_instants() {
    for (protocol, peer, compress) in [(Lines, "tick", "gzip"), (Records, ECHO, "zstd")] {
        let mut rig = Rig::with("text", protocol);
        rig.settings["rotate"] = serde_json::json!({"size": 100_000, "compress": compress, "least_ms": 0});
        let rig = under_load(rig, peer, 60);
        assert!(rig.archives().len() >= 5, "only {} rotations", rig.archives().len());
        assert_all_archived(&rig, "after kills under load");
    }
}

/// A rig whose file is rotated after each batch, into a folder with leftovers.
fn rotating_rig() -> Rig {
    let mut rig = full_rig(COUNT);
    rig.settings["rotate"] = serde_json::json!({"size": 4096, "compress": "gzip", "least_ms": 0});
    rig
}

/// Checks that after one more pass of the archivist, nothing is raw, nothing exists in two
/// forms, and nothing is left over.
fn assert_all_archived(rig: &Rig, when: &str) {
    let before = rig.all_bytes();
    rig.start_archivist(&[]).wait_success();
    assert!(rig.all_bytes() == before, "the archivist changed what was saved, {when}");
    let archives = rig.archives();
    let times = archives.iter().map(|path| path.file_stem().unwrap());
    assert!(
        archives.iter().all(|path| path.extension().is_some_and(|e| e == "gz" || e == "zst")),
        "{archives:?} {when}"
    );
    assert_eq!(times.collect::<std::collections::BTreeSet<_>>().len(), archives.len(), "{archives:?} {when}");
    let mut hidden = rig.files(".m.log");
    hidden.sort();
    assert_eq!(hidden, [rig.folder.path().join(".m.log.intent")], "{when}");
}

#[test]
#[ignore = "needs ptrace and a minute, run by .ci/run"]
fn a_kill_before_or_after_any_system_call_of_rotations_loses_and_doubles_nothing() {
    for stop in 0.. {
        let mut rig = rotating_rig();
        let place = Place { stop, steps: 0 };
        let killed = kill_at(&rig, place);
        if killed {
            rig.drain();
        }
        let when = format!("after a kill at {place:?}");
        for peer in ["tick", ECHO] {
            assert_same(&saved(&rig, peer), &expected(peer, COUNT), &format!("{when}, from {peer}"));
        }
        assert!(rig.archives().len() >= 2, "{} rotations, {when}", rig.archives().len());
        assert_all_archived(&rig, &when);
        if !killed {
            println!("{stop} places");
            assert!(stop > 150, "only {stop} places");
            return;
        }
    }
}

#[test]
#[ignore = "needs ptrace and a minute, run by .ci/run"]
fn kills_at_any_instruction_of_rotations_lose_and_double_nothing() {
    let mut dice = Dice(std::process::id().into());
    println!("seed {}", dice.0);
    for _ in 0..100 {
        let mut rig = rotating_rig();
        let mut places = Vec::new();
        for _ in 0..=dice.below(3) {
            let place = Place { stop: dice.below(260), steps: dice.below(2).pow(2) * dice.below(3000) };
            places.push(place);
            kill_at(&rig, place);
        }
        rig.drain();
        let when = format!("after kills at {places:?}");
        for peer in ["tick", ECHO] {
            assert_same(&saved(&rig, peer), &expected(peer, COUNT), &format!("{when}, from {peer}"));
        }
        assert_all_archived(&rig, &when);
    }
}

#[test]
#[ignore = "needs ptrace and a minute, run by .ci/run"]
fn if_all_are_killed_in_a_rotation_what_was_acknowledged_is_saved_once_and_nothing_is_torn() {
    let mut dice = Dice(std::process::id().into());
    println!("seed {}", dice.0);
    let mut stop = 0;
    loop {
        let mut rig = rotating_rig();
        let place = Place { stop, steps: dice.below(2) * dice.below(200) };
        if !kill_at(&rig, place) {
            return;
        }
        let acknowledged = rig.links[1].acks().last().map_or(0, |ack| ack.sequence);
        let before = rig.all_bytes();
        rig.links_anew();
        rig.drain();
        let when = format!("after all were killed at {place:?}");
        assert!(rig.all_bytes().starts_with(&before), "what was saved is saved, {when}");
        for peer in ["tick", ECHO] {
            let got = saved(&rig, peer);
            assert!(peer == "tick" || got.len() as u64 >= acknowledged, "{acknowledged} were acknowledged, {when}");
            assert_same(&got, &expected(peer, COUNT)[..got.len()], &when);
        }
        assert_all_archived(&rig, &when);
        stop += 1 + dice.below(3);
    }
}

#[test]
#[ignore = "needs ptrace and a minute, run by .ci/run"]
fn an_archivist_that_is_killed_at_any_system_call_leaves_all_to_the_next() {
    for (compress, ending) in [("gzip", "gz"), ("zstd", "zst")] {
        for stop in 0.. {
            let mut rig = Rig::new("raw");
            rig.settings["rotate"] = serde_json::json!({"size": 4096, "keep": 3, "compress": compress, "least_ms": 0});
            let put = |name: &str, content: &str| std::fs::write(rig.folder.path().join(name), content).unwrap();
            put("m.log.20200101T000000.000000Z", "too old\n");
            let texts = ["one\n", "two\n", "three\n"].map(|line| line.repeat(30_000));
            for (i, text) in texts.iter().enumerate() {
                put(&format!("m.log.20200101T000001.00000{i}Z"), text);
            }
            // A half archive, at which another archivist was killed, is not used.
            put(&format!("m.log.20200101T000001.000001Z.{ending}"), "half");
            put(".m.log.archive", &"left over".repeat(100_000));
            put("m.log.torn-20200101T000000.000000Z", "torn");
            put("m.log", "live\n");
            let place = Place { stop, steps: 0 };
            let killed = kill_started_at(|wrapper| rig.start_archivist(wrapper), place);
            let when = format!("after a kill at {place:?}");
            let want = texts.concat() + "live\n";
            let got = rig.all_text();
            assert!(got == want || got == format!("too old\n{want}"), "{} bytes, {when}", got.len());
            std::fs::write(rig.folder.path().join(".m.log.intent"), "").unwrap();
            rig.start_archivist(&[]).wait_success();
            assert!(rig.all_text() == want, "{when}");
            assert_all_archived(&rig, &when);
            let names = rig.files("m.log");
            assert_eq!(names.len(), 5, "{names:?}, {when}");
            if !killed {
                println!("{stop} places");
                assert!(stop > 60, "only {stop} places");
                break;
            }
        }
    }
}

#[test]
fn a_batch_is_completed_in_a_file_that_was_made_an_archive_meanwhile() {
    let mut rig = rotating_rig();
    // It is not rotated before it is killed.
    rig.settings["rotate"]["size"] = serde_json::json!(1_u64 << 40);
    let logger = rig.start();
    wait_until("a batch is under way", || (!rig.bytes().is_empty()).then_some(()));
    logger.kill();
    std::fs::rename(rig.path(), rig.folder.path().join("m.log.20200101T000000.000000Z")).unwrap();
    rig.settings["rotate"]["size"] = serde_json::json!(4096);
    rig.drain();
    for peer in ["tick", ECHO] {
        assert_same(&saved(&rig, peer), &expected(peer, COUNT), &format!("from {peer}"));
    }
    assert_all_archived(&rig, "after a rename");
}
