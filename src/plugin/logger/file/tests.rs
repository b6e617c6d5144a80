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

/// Whether its file system can reserve room for it.
fn keeps_room(file: &MessageFile) -> bool {
    file.allocate(0, 1) != Err(Errno::EOPNOTSUPP)
}

#[test]
fn room_is_reserved_without_a_change_of_length() {
    use std::os::unix::fs::MetadataExt;
    let (_folder, mut file) = file(b"one\n");
    file.reserve(4, 100_000).unwrap();
    let is = file.file().metadata().unwrap();
    assert_eq!(is.len(), 4);
    assert_eq!(file.reserved, 2 * AHEAD);
    assert!(is.blocks() * 512 >= 2 * AHEAD || !keeps_room(&file));
}

#[test]
fn room_lost_by_a_truncation_is_reserved_again() {
    use std::os::unix::fs::MetadataExt;
    let (_folder, mut file) = file(b"one\ntw");
    let kept = |file: &MessageFile| {
        let is = file.file().metadata().unwrap();
        is.blocks() * 512 >= AHEAD || !keeps_room(file)
    };
    file.reserve(6, 10).unwrap();
    assert!(kept(&file));
    file.mend_tail(&mut |_| Ok(())).unwrap();
    file.reserve(4, 10).unwrap();
    assert!(kept(&file), "after its end was cut off");
    file.leave_at(4);
    File::options().write(true).open(file.path()).unwrap().set_len(0).unwrap();
    file.reserve(0, 10).unwrap();
    assert!(kept(&file), "after another process truncated it");
}

#[test]
fn a_rotated_file_has_another_name_and_a_new_file_has_its_old_one() {
    let (folder, first) = file(b"one\n");
    let archive = folder.path().join("archive");
    std::fs::write(next_path(first.path()), "").unwrap();
    let second = first.rotate(&archive).unwrap().unwrap();
    assert!(second.is_named() && second.size().unwrap() == 0 && !next_path(first.path()).exists());
    assert_eq!(std::fs::read(&archive).unwrap(), b"one\n");
    assert!(MessageFile::open(second.path(), &RIGHTS).unwrap().is_none(), "it is locked");
    // The first has lost its name. The second must not take a name that is not free.
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
fn only_a_regular_file_is_accepted() {
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

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_rotation_that_is_killed_between_its_two_renames_loses_no_rights() {
    let (folder, first) = file(b"one\n");
    let path = first.path().to_owned();
    std::fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
    let second = first.rotate(&folder.path().join("archive")).unwrap().unwrap();
    std::fs::rename(&path, next_path(&path)).unwrap();
    remove_next(&path);
    drop(second);
    let third = MessageFile::open(&path, &RIGHTS).unwrap().unwrap();
    assert_eq!((mode(&path), third.size().unwrap(), third.lacks()), (0o604, 0, ""));
    assert!(!next_path(&path).exists());
}

#[test]
fn a_next_file_without_its_rights_or_beside_a_message_file_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.log");
    let make_next = |mode| {
        std::fs::write(next_path(&path), "").unwrap();
        std::fs::set_permissions(next_path(&path), Permissions::from_mode(mode)).unwrap();
    };
    make_next(0o1600);
    remove_next(&path);
    assert!(!next_path(&path).exists());
    make_next(0o1600);
    drop(MessageFile::open(&path, &RIGHTS).unwrap().unwrap());
    assert!(next_path(&path).exists() && mode(&path) & 0o1000 == 0);
    make_next(0o604);
    remove_next(&path);
    assert!(!next_path(&path).exists());
}

#[test]
fn a_next_file_does_not_replace_a_dangling_symbolic_link() {
    let folder = tempfile::tempdir().unwrap();
    let [path, real] = ["m.log", "real"].map(|name| folder.path().join(name));
    std::os::unix::fs::symlink(&real, &path).unwrap();
    std::fs::write(next_path(&path), "").unwrap();
    drop(MessageFile::open(&path, &RIGHTS).unwrap().unwrap());
    assert!(path.is_symlink() && real.exists());
}

#[test]
fn a_new_file_gets_its_group_even_if_its_first_logger_was_killed() {
    let own = nix::unistd::getegid().as_raw();
    let id = if geteuid().is_root() { 54_321 } else { own };
    let group = super::super::settings::Group { name: "logs".to_owned(), id };
    let rights = Rights { mode: 0o640, group: Some(&group) };
    let (_folder, made) = file(b"");
    let path = made.path().to_owned();
    drop(made);
    let opened = |before: u32, content: &str| {
        std::fs::write(&path, content).unwrap();
        std::os::unix::fs::chown(&path, None, Some(own)).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
        assert_eq!(MessageFile::open(&path, &rights).unwrap().unwrap().lacks(), "");
        (mode(&path), std::fs::metadata(&path).unwrap().gid())
    };
    assert_eq!(opened(0o1640, ""), (0o640, id));
    // Rights that an administrator set are left alone.
    assert_eq!(opened(0o640, ""), (0o640, own));
    assert_eq!(opened(0o1640, "one\n"), (0o1640, own));
    std::fs::remove_file(&path).unwrap();
    drop(MessageFile::open(&path, &rights).unwrap().unwrap());
    assert_eq!((mode(&path) & 0o7700, std::fs::metadata(&path).unwrap().gid()), (0o600, id));
}

#[test]
fn a_length_that_the_file_system_refused_is_not_tried_again() {
    let (_folder, mut file) = file(b"one\n");
    file.note_longest(100).unwrap();
    assert!(is_too_large(&file.reserve(4, 97).unwrap_err()) && is_too_large(&file.reserve(50, u64::MAX).unwrap_err()));
    file.reserve(4, 96).unwrap();
    file.reserve(0, 97).unwrap();
}

#[test]
fn room_is_reserved_ahead_only_up_to_a_limit() {
    let (_folder, mut file) = file(b"one\n");
    file.note_longest(AHEAD + 100).unwrap();
    file.reserve(4, 10).unwrap();
    assert_eq!(file.reserved, AHEAD);
    file.reserve(AHEAD, 10).unwrap();
    assert_eq!(file.reserved, AHEAD + 100);
    file.reserve(AHEAD + 10, 90).unwrap();
    assert!(is_too_large(&file.reserve(AHEAD + 10, 91).unwrap_err()));
}

#[test]
fn on_nfs_a_file_is_removed_if_only_the_clients_name_is_left() {
    let (folder, mut file) = file(b"one\n");
    let name = |name: &str| folder.path().join(name);
    std::fs::rename(file.path(), name(".nfs000000000000a1b200000001")).unwrap();
    assert!(!file.is_removed().unwrap(), "on another file system, it is an ordinary name");
    file.on_nfs = true;
    assert!(file.is_removed().unwrap());
    std::fs::rename(name(".nfs000000000000a1b200000001"), name("m.log.1")).unwrap();
    assert!(!file.is_removed().unwrap(), "a rotation has renamed it");
}
