use super::super::words::tests::killed_after;
use super::*;

const BODY: &[u8] = b"abc\nanother line\n";

fn promise(batch: u64) -> Promise {
    Promise { batch, file: FileId { device: 1, inode: 2 }, offset: 100, length: BODY.len() as u64 }
}

fn open(folder: &tempfile::TempDir) -> Intent {
    Intent::open(&folder.path().join("i"), 1 << 16).unwrap().unwrap()
}

fn open_after(intent: Intent, folder: &tempfile::TempDir) -> Intent {
    drop(intent);
    open(folder)
}

/// An intent file with nothing under way.
fn idle(folder: &tempfile::TempDir) -> Intent {
    let mut intent = open(folder);
    intent.reset().unwrap();
    put_body(&mut intent, BODY);
    intent
}

fn put_body(intent: &mut Intent, body: &[u8]) {
    intent.body_mut()[..body.len()].copy_from_slice(body);
}

/// Writes a word of the header.
fn set(intent: &Intent, word: usize, value: u64) {
    intent.file.write_at(&value.to_le_bytes(), 8 * word as u64).unwrap();
}

fn get(intent: &Intent, word: usize) -> u64 {
    let mut bytes = [0; 8];
    intent.file.read_exact_at(&mut bytes, 8 * word as u64).unwrap();
    u64::from_le_bytes(bytes)
}

#[test]
fn the_next_sink_finds_the_promise_and_the_body() {
    let folder = tempfile::tempdir().unwrap();
    let mut intent = open(&folder);
    assert_eq!(intent.found(), Found::Nothing);
    intent.reset().unwrap();
    let mut intent = open_after(intent, &folder);
    assert_eq!(intent.found(), Found::Idle);
    put_body(&mut intent, BODY);
    intent.promise(&promise(5)).unwrap();
    let mut intent = open_after(intent, &folder);
    assert_eq!(intent.found(), Found::Writing(promise(5)));
    assert_eq!(&intent.body()[..BODY.len()], BODY);
    assert_eq!(intent.last_batch(), 5);
    intent.close().unwrap();
    let intent = open_after(intent, &folder);
    assert_eq!((intent.found(), intent.last_batch(), intent.is_closed()), (Found::Idle, 5, true));
}

/// Earlier versions write these words, and later ones must too, because after an upgrade the
/// new version takes up the intent files of the old one.
#[test]
fn the_words_are_those_of_the_manual() {
    let folder = tempfile::tempdir().unwrap();
    let mut intent = open(&folder);
    intent.boot = [11, 12];
    intent.notes.settled[..2].copy_from_slice(&[9, 8]);
    intent.reset().unwrap();
    intent.set_began(FileId { device: 1, inode: 2 }, 50).unwrap();
    intent.set_untrusted(Some(FileId { device: 3, inode: 4 })).unwrap();
    put_body(&mut intent, BODY);
    intent.promise(&promise(5)).unwrap();
    #[rustfmt::skip]
    let front = [
        0x26964626d756c70, 0, 2, 0x20202020656c6469, 0, 0, 0, 0, 0, 0, 0, 0, 0xc7bf8b17, 0, 0, 0, 0, 0, 3, 4,
        0x4139f15d, 1, 2, 50, 0x62acde64, 9, 8, 0, 0, 0, 0, 0, 0, 0xb49fa935,
    ];
    #[rustfmt::skip]
    let slot = [
        3, 0x646573696d6f7270, 5, 1, 2, 100, 17, 11, 12, 0x8fa03080, 0xa6bfdcf3,
    ];
    assert_eq!(front, std::array::from_fn(|word| get(&intent, word)));
    assert_eq!(slot, std::array::from_fn(|word| get(&intent, SLOTS[0] + word)));
    assert!((front.len()..SLOTS[0]).all(|word| get(&intent, word) == 0));
    let mut body = [0; BODY.len()];
    intent.file.read_exact_at(&mut body, PAGE as u64).unwrap();
    assert_eq!(&body, BODY);
}

#[test]
fn a_body_longer_than_the_next_sink_has_room_for_is_found_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut intent = idle(&folder);
    let long = vec![b'x'; 100_000];
    intent.grow(long.len()).unwrap();
    put_body(&mut intent, &long);
    let promised = Promise { length: long.len() as u64, ..promise(5) };
    intent.promise(&promised).unwrap();
    let intent = open_after(intent, &folder);
    assert_eq!(intent.found(), Found::Writing(promised));
    assert_eq!(&intent.body()[..long.len()], long);
}

#[test]
fn it_takes_no_more_room_than_a_batch_and_gives_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut intent = idle(&folder);
    let length = || std::fs::metadata(folder.path().join("i")).unwrap().len();
    assert_eq!(length(), LEAST as u64);
    intent.promise(&promise(5)).unwrap();
    intent.close().unwrap();
    assert_eq!((length(), intent.shrink().unwrap()), (LEAST as u64, false));
    let long = 10_000;
    intent.promise(&Promise { length: long, ..promise(6) }).unwrap();
    assert_eq!(length(), PAGE as u64 + long);
    assert!(!intent.shrink().unwrap(), "a promise rests on its body");
    intent.close().unwrap();
    assert!(intent.shrink().unwrap() && !intent.shrink().unwrap());
    assert_eq!((length(), open_after(intent, &folder).found()), (LEAST as u64, Found::Idle));
}

/// Promises a batch this many times, each time to another place, and closes it.
fn one_batch(intent: &mut Intent, batch: u64, times: u64) {
    for offset in 0..times {
        intent.promise(&Promise { offset, ..promise(batch) }).unwrap();
    }
    intent.close().unwrap();
}

#[test]
fn after_a_kill_at_any_word_the_last_whole_promise_counts() {
    // An earlier batch has left the slots in each state that they can be in.
    for before in 0..4 {
        for whole in 0..3 {
            for words in 0.. {
                let folder = tempfile::tempdir().unwrap();
                let mut intent = idle(&folder);
                if before > 0 {
                    one_batch(&mut intent, 4, before);
                }
                put_body(&mut intent, b"xyz, and another!");
                let promises = [0, 1, 2].map(|offset| Promise { offset, ..promise(5) });
                promises[..whole].iter().for_each(|promise| intent.promise(promise).unwrap());
                let killed = killed_after(words, || intent.promise(&promises[whole]).unwrap());
                let found = open_after(intent, &folder).found();
                let when = format!("{before} {whole} {words}: {found:?}");
                match whole {
                    _ if !killed => assert_eq!(found, Found::Writing(promises[whole]), "{when}"),
                    0 => assert!(matches!(found, Found::Idle | Found::Nothing), "{when}"),
                    _ => assert_eq!(found, Found::Writing(promises[whole - 1]), "{when}"),
                }
                if !killed {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_close_that_is_cut_short_leaves_the_promise_or_nothing_and_is_done_again() {
    for times in 1..4 {
        for words in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let mut intent = idle(&folder);
            for offset in 0..times {
                intent.promise(&Promise { offset, ..promise(5) }).unwrap();
            }
            let last = Promise { offset: times - 1, ..promise(5) };
            let killed = killed_after(words, || intent.close().unwrap());
            let mut intent = open_after(intent, &folder);
            let found = intent.found();
            assert!([Found::Writing(last), Found::Idle, Found::Nothing].contains(&found), "{times} {words}: {found:?}");
            assert!(killed || found == Found::Idle && intent.is_closed());
            if found == Found::Nothing {
                intent.reset().unwrap();
            } else {
                intent.close().unwrap();
            }
            assert_eq!(intent.look().unwrap(), Found::Idle);
            // Wherever the next write is cut short, it does not bring the old promise back.
            put_body(&mut intent, BODY);
            killed_after(words, || intent.promise(&promise(6)).unwrap());
            let found = open_after(intent, &folder).found();
            assert!([Found::Nothing, Found::Idle, Found::Writing(promise(6))].contains(&found), "{found:?}");
            if !killed {
                break;
            }
        }
    }
}

#[test]
fn a_promise_that_was_cut_short_and_then_closed_is_no_promise() {
    for words in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let mut intent = idle(&folder);
        // This is what a full disk leaves.
        killed_after(words, || intent.promise(&promise(5)).unwrap());
        intent.state = State::Begun;
        intent.close().unwrap();
        assert_eq!(open_after(intent, &folder).found(), Found::Idle, "{words}");
    }
}

#[test]
fn a_promise_of_another_boot_is_worthless() {
    let folder = tempfile::tempdir().unwrap();
    let mut intent = idle(&folder);
    intent.boot[1] ^= 1;
    intent.promise(&promise(5)).unwrap();
    let mut intent = open_after(intent, &folder);
    assert_eq!(intent.found(), Found::OtherBoot);
    intent.reset().unwrap();
    assert_eq!(open_after(intent, &folder).found(), Found::Idle);
}

#[test]
fn a_file_of_layout_1_counts_as_new() {
    let folder = tempfile::tempdir().unwrap();
    let mut page = [0; PAGE];
    page[..16].copy_from_slice(b"plumbdi\x01promise1");
    std::fs::write(folder.path().join("i"), page).unwrap();
    let mut intent = open(&folder);
    assert_eq!((intent.found(), intent.last_batch(), intent.untrusted()), (Found::Nothing, 0, None));
    intent.reset().unwrap();
    assert_eq!(open_after(intent, &folder).found(), Found::Idle);
}

#[test]
fn what_is_noted_is_whole_or_unknown_and_outlives_a_reset() {
    let files = [FileId { device: 1, inode: 2 }, FileId { device: 3, inode: 4 }];
    for words in 0.. {
        let folder = tempfile::tempdir().unwrap();
        // Nothing in a file that is not an intent file is believed.
        std::fs::write(folder.path().join("i"), [7; PAGE]).unwrap();
        let mut intent = open(&folder);
        assert_eq!(intent.untrusted(), None);
        intent.reset().unwrap();
        assert_eq!(intent.began(FileId { device: 7, inode: 7 }), None);
        intent.set_began(files[0], 50).unwrap();
        intent.settle(8).unwrap();
        intent.reset().unwrap();
        let mut intent = open_after(intent, &folder);
        assert_eq!((intent.began(files[0]), intent.is_settled(8), intent.is_settled(0)), (Some(50), true, false));
        let killed = killed_after(words, || {
            intent.set_began(files[1], -60).unwrap();
            intent.set_untrusted(Some(files[0])).unwrap();
        });
        let mut intent = open_after(intent, &folder);
        let [first, second] = files.map(|file| intent.began(file));
        assert!(first.is_none_or(|time| time == 50 && second.is_none()));
        assert!(second.is_none_or(|time| time == -60));
        assert!(intent.untrusted().is_none_or(|file| file == files[0]));
        if !killed {
            assert_eq!((second, intent.untrusted()), (Some(-60), Some(files[0])));
            intent.set_untrusted(None).unwrap();
            assert_eq!(open_after(intent, &folder).untrusted(), None);
            return;
        }
    }
}

#[test]
fn any_process_can_look_up_the_last_settled_batches() {
    let folder = tempfile::tempdir().unwrap();
    let mut intent = idle(&folder);
    for batch in 1..=SETTLED as u64 + 1 {
        intent.promise(&promise(batch)).unwrap();
        intent.settle(batch).unwrap();
    }
    let header = Header::at(&folder.path().join("i")).unwrap();
    assert_eq!(header.batch(), None);
    assert!(!header.is_settled(1) && (2..=9).all(|batch| header.is_settled(batch)));
    intent.promise(&promise(77)).unwrap();
    assert_eq!(Header::at(&folder.path().join("i")).unwrap().batch(), Some(77));
}

#[test]
fn with_a_wrong_bit_a_promise_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let mut intent = idle(&folder);
    intent.promise(&promise(5)).unwrap();
    let body = PAGE / 8;
    for word in (HEADER..=HEADER).chain(SLOTS[0]..SLOTS[0] + SLOT).chain(body..body + BODY.len() / 8) {
        for bit in 0..64 {
            let right = get(&intent, word);
            set(&intent, word, right ^ 1 << bit);
            assert_eq!(intent.look().unwrap(), Found::Nothing, "{word} {bit}");
            set(&intent, word, right);
        }
    }
    assert_eq!(intent.look().unwrap(), Found::Writing(promise(5)));
    // If the batch was promised anew, the promise before that counts.
    let moved = Promise { offset: 7, ..promise(5) };
    intent.promise(&moved).unwrap();
    assert_eq!(intent.look().unwrap(), Found::Writing(moved));
    for word in SLOTS[1]..SLOTS[1] + SLOT {
        let right = get(&intent, word);
        set(&intent, word, right ^ 1);
        assert_eq!(intent.look().unwrap(), Found::Writing(promise(5)), "{word}");
        set(&intent, word, right);
    }
}

#[test]
fn a_promise_of_more_bytes_than_the_body_has_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let mut intent = idle(&folder);
    intent.promise(&promise(5)).unwrap();
    intent.file.set_len((PAGE + BODY.len() - 1) as u64).unwrap();
    assert_eq!(open_after(intent, &folder).found(), Found::Nothing);
}

#[test]
fn only_one_process_can_hold_it_and_its_body_can_grow() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i");
    assert!(Intent::open_existing(&path, 1).is_err());
    let mut intent = open(&folder);
    assert!(Intent::open(&path, 1 << 16).unwrap().is_none());
    intent.body_mut()[0] = 7;
    intent.grow(1 << 20).unwrap();
    assert_eq!((intent.body().len(), intent.body()[0]), (1 << 20, 7));
    assert!(intent.is_named().unwrap());
    std::fs::remove_file(&path).unwrap();
    assert!(!intent.is_named().unwrap());
}

#[test]
fn without_proc_the_error_names_the_path_and_does_not_pass() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    for path in [folder.path().join("none"), empty.join("below"), empty] {
        let error = boot_id_at(&path).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot read {}: ", path.display())), "{error}");
        assert_eq!(error.raw_os_error(), None, "it does not pass");
    }
}

#[test]
fn a_body_that_does_not_fit_into_memory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i");
    let refused = |result: io::Result<()>| assert_eq!(result.unwrap_err().raw_os_error(), Some(nix::libc::ENOMEM));
    refused(Intent::open(&path, 1 << 47).map(|_| ()));
    let mut intent = Intent::open(&path, 100).unwrap().unwrap();
    for size in [1 << 47, usize::MAX] {
        refused(intent.grow(size));
    }
    assert_eq!(intent.body().len(), 100);
}
