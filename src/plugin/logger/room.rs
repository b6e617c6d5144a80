//! Room on a full disk: `when_full = "drop-archives"`.

use super::archives::{self, list};
use super::compress::empty_workshop;
use super::settings::{Settings, WhenFull};
use nix::errno::Errno;
use std::io;

/// Frees something if an error says that there is no room and the settings
/// allow it: first what an archivist left unfinished, then the oldest archive.
/// Returns whether it did, so that it makes sense to try again.
pub fn make_room(settings: &Settings, error: &io::Error) -> bool {
    may_make_room(settings, error) && (empty_workshop(&settings.file) || drop_oldest(settings))
}

/// Whether the error says that there is no room, and the settings allow archives to be
/// dropped.
pub fn may_make_room(settings: &Settings, error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    settings.when_full == WhenFull::DropArchives && matches!(errno, Some(Errno::ENOSPC | Errno::EDQUOT))
}

fn drop_oldest(settings: &Settings) -> bool {
    let archives = list(&settings.file).unwrap_or_default();
    archives.iter().any(|archive| match archives::remove(&settings.file, archive) {
        Ok(true) => {
            log::warn!("the disk is full: dropped {}.{}", settings.file.display(), archive.time);
            true
        }
        Ok(false) => false,
        Err(error) => {
            log::error!("the disk is full, and {}.{} can't be dropped: {error}", settings.file.display(), archive.time);
            false
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Format, Rotate, Sync};
    use super::*;

    #[test]
    fn the_oldest_archive_is_removed_first_and_nothing_else_ever_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.log");
        let names = [
            "m.log",
            "m.log.torn-20200101T000000.000000Z",
            "m.log.20261122T150405.000001Z.gz",
            "m.log.20261122T150405.000002Z",
        ];
        for name in names {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let mut settings = Settings {
            file: file.clone(),
            mode: 0o640,
            group: None,
            format: Format::Text,
            sync: Sync::Asked,
            rotate: Rotate::default(),
            when_full: WhenFull::Wait,
        };
        let full = io::Error::from(Errno::ENOSPC);
        assert!(!make_room(&settings, &full));
        settings.when_full = WhenFull::DropArchives;
        assert!(!make_room(&settings, &io::Error::from(Errno::EIO)));
        std::fs::write(super::super::compress::workshop_path(&file), "begun").unwrap();
        assert!(make_room(&settings, &full) && folder.path().join(names[2]).exists());
        assert!(make_room(&settings, &full) && !folder.path().join(names[2]).exists());
        assert!(folder.path().join(names[3]).exists());
        assert!(make_room(&settings, &full) && !folder.path().join(names[3]).exists());
        assert!(!make_room(&settings, &full));
        assert!(names[..2].iter().all(|name| folder.path().join(name).exists()));
    }
}
