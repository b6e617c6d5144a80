use super::*;

const RIGHTS: Rights<'_> = Rights { mode: 0o640, group: None };

fn file(content: &[u8]) -> (tempfile::TempDir, MessageFile) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.log");
    std::fs::write(&path, content).unwrap();
    let file = MessageFile::open(&path, &RIGHTS).unwrap().unwrap();
    (folder, file)
}

#[test]
fn another_process_has_to_wait_and_a_new_name_is_a_new_file() {
    let (folder, first) = file(b"");
    let path = folder.path().join("m.log");
    assert!(MessageFile::open(&path, &RIGHTS).unwrap().is_none());
    let aside = first.set_aside("untrusted").unwrap().unwrap();
    assert!(!first.is_named() && first.set_aside("untrusted").unwrap().is_none());
    let second = MessageFile::open(&path, &RIGHTS).unwrap().unwrap();
    assert_ne!(first.id(), second.id());
    assert_eq!(find(&path, first.id()).unwrap().unwrap(), aside);
    assert!(second.is_named() && !second.is_removed().unwrap());
    second.remove().unwrap();
    assert!(second.is_removed().unwrap());
}

#[test]
fn room_is_kept_without_a_change_of_length() {
    use std::os::unix::fs::MetadataExt;
    let (_folder, mut file) = file(b"one\n");
    file.reserve(4, 100_000).unwrap();
    let is = file.file().metadata().unwrap();
    assert_eq!(is.len(), 4);
    assert!(file.reserved == u64::MAX || file.reserved == 2 * AHEAD && is.blocks() * 512 >= 2 * AHEAD);
}

#[test]
fn room_that_somebody_gave_back_is_asked_for_again() {
    use std::os::unix::fs::MetadataExt;
    let (_folder, mut file) = file(b"one\ntw");
    let kept = |file: &MessageFile| {
        let is = file.file().metadata().unwrap();
        file.reserved == u64::MAX || is.blocks() * 512 >= AHEAD
    };
    file.reserve(6, 10).unwrap();
    assert!(kept(&file));
    file.mend_tail(&mut |_| Ok(())).unwrap();
    file.reserve(4, 10).unwrap();
    assert!(kept(&file), "after its end was cut off");
    file.leave_at(4);
    OpenOptions::new().write(true).open(file.path()).unwrap().set_len(0).unwrap();
    file.reserve(0, 10).unwrap();
    assert!(kept(&file), "after somebody cut it");
}

#[test]
fn rotated_it_has_another_name_and_a_new_file_has_its_own() {
    let (folder, first) = file(b"one\n");
    let archive = folder.path().join("archive");
    std::fs::write(next_path(first.path()), "").unwrap();
    let second = first.rotate(&archive).unwrap().unwrap();
    assert!(second.is_named() && second.size().unwrap() == 0 && !next_path(first.path()).exists());
    assert_eq!(std::fs::read(&archive).unwrap(), b"one\n");
    assert!(MessageFile::open(second.path(), &RIGHTS).unwrap().is_none(), "it is locked");
    // The first has lost its name; the second must not take one that is not free.
    assert!(first.rotate(&folder.path().join("other")).is_err());
    assert!(second.rotate(&archive).is_err() && second.is_named());
    assert_eq!(folder.path().read_dir().unwrap().count(), 2);
    assert_eq!(std::fs::read(&archive).unwrap(), b"one\n");
}

#[test]
fn a_symbolic_link_is_not_rotated_nor_is_anything_overwritten() {
    let (folder, first) = file(b"one\n");
    let (link, archive) = (folder.path().join("link"), folder.path().join("archive"));
    std::os::unix::fs::symlink(first.path(), &link).unwrap();
    drop(first);
    let file = MessageFile::open(&link, &RIGHTS).unwrap().unwrap();
    let why = file.rotate(&archive).unwrap_err().to_string();
    assert!(why.contains("symbolic link") && !archive.exists(), "{why}");
    std::fs::remove_file(&link).unwrap();
    drop(file);
    let file = MessageFile::open(&folder.path().join("m.log"), &RIGHTS).unwrap().unwrap();
    std::fs::write(next_path(file.path()), "somebody's").unwrap();
    assert_eq!(file.rotate(&archive).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(next_path(file.path())).unwrap(), b"somebody's");
    assert!(file.is_named() && file.born().is_some());
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(MessageFile::open(&path, &RIGHTS).unwrap_err().to_string().contains("no regular file"));
    assert!(MessageFile::open(folder.path(), &RIGHTS).is_err());
}

#[test]
fn the_intent_file_is_hidden_beside_it() {
    assert_eq!(intent_path(Path::new("/var/log/m.log")), Path::new("/var/log/.m.log.intent"));
    assert_eq!(intent_path(Path::new("m.log")), Path::new("./.m.log.intent"));
}
