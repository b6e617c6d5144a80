//! When and how the message file is rotated: the steps of doc/rotation.md,
//! "Rotation". The archivist takes care of the archives.

use super::destination::FileDestination;
use super::file::now;
use super::orders::{Flaw, Halt};
use super::settings::Rotate;
use super::{ROTATIONS, archives};
use crate::link::intent::FileId;
use std::io;
use std::time::{Duration, Instant};

/// What is known about past and future rotations.
#[derive(Debug, Default)]
pub struct Rotations {
    /// The file, and when this process first saw messages in it. Unlike the clock, this
    /// can't be set back.
    seen: Option<(FileId, Instant)>,
    /// The next rotation is not due before this time.
    at: Option<Instant>,
    /// The last rotation failed, and is not tried again before this time.
    pub(super) retry_at: Option<Instant>,
}

impl Rotations {
    /// When the next one will be due if nothing more comes.
    pub fn at(&self) -> Option<Instant> {
        self.at
    }
}

/// How long until a file of that length and age is due; `None` if it never is unless it
/// grows.
pub fn due(rotate: &Rotate, len: u64, age: Duration) -> Option<Duration> {
    let by_size = rotate.size.filter(|size| len >= *size).map(|_| Duration::ZERO);
    let by_age = rotate.age_ms.filter(|_| len > 0).map(Duration::from_millis);
    let at = [by_size, by_age].into_iter().flatten().min()?;
    Some(at.max(rotate.least()).saturating_sub(age))
}

impl FileDestination {
    /// Rotates the file between two batches, if that is due.
    pub(super) fn rotate_if_due(&mut self) -> Result<(), Halt> {
        if !self.settings.rotate.is_on() {
            return Ok(());
        }
        let len = self.file_len()?;
        let age = self.age(len);
        self.rotations.at = None;
        let Some(wait) = due(&self.settings.rotate, len, age) else {
            return Ok(());
        };
        let now = Instant::now();
        let at = self.rotations.retry_at.map_or(now + wait, |retry| retry.max(now + wait));
        if at > now {
            self.rotations.at = Some(at);
            return Ok(());
        }
        self.rotate()
    }

    /// How old the first message of the file is.
    pub(super) fn age(&mut self, len: u64) -> Duration {
        let id = self.file.id();
        if len == 0 {
            self.rotations.seen = None;
            return Duration::ZERO;
        }
        let seen = match self.rotations.seen {
            Some((file, at)) if file == id => at,
            _ => {
                let at = Instant::now();
                self.rotations.seen = Some((id, at));
                at
            }
        };
        let began = self.intent.began(id).unwrap_or_else(|| {
            // No logger has recorded when its first message came.
            let born = self.file.born().unwrap_or_else(now);
            // If this can't be written now, it is written at the end of the next batch.
            let _written_later = self.intent.set_began(id, born);
            born
        });
        let age = u64::try_from(now().saturating_sub(began)).unwrap_or(0);
        Duration::from_micros(age).max(seen.elapsed())
    }

    pub(super) fn rotate(&mut self) -> Result<(), Halt> {
        // 1 sync, if a sync is due. If that fails, it replaces the file.
        if self.sync_at.is_some() {
            self.sync(None)?;
            if self.file_len()? == 0 {
                return Ok(());
            }
        }
        let path = self.settings.file.clone();
        // 2 make, 3 away, 4 into place
        let rotated = archives::next_path(&path).and_then(|archive| Ok((self.file.rotate(&archive)?, archive)));
        let (next, archive) = match rotated {
            Ok(done) => done,
            Err(error) => {
                self.cannot_rotate(&error);
                return Ok(());
            }
        };
        self.rotations.retry_at = None;
        self.orders.set_flaw(Flaw::Rotation, "");
        self.metrics.add(ROTATIONS, 1);
        log::info!("rotated {} to {}", path.display(), archive.display());
        match next {
            Some(file) => self.take_file(file),
            None => {
                let mut file = self.open_file()?;
                file.take_rights(&self.file);
                self.take_file(file);
                self.mend_tail()?;
            }
        }
        // 6 the archivist (5, the sync of the folder, comes before an acknowledgement that
        // needs it)
        let rotate = &self.settings.rotate;
        if rotate.compress.is_some() || rotate.keep.is_some() || rotate.keep_size.is_some() {
            self.archivist.start(&mut self.orders);
        }
        Ok(())
    }

    fn cannot_rotate(&mut self, error: &io::Error) {
        let flaw = format!("cannot rotate {}: {error}; going on with it", self.settings.file.display());
        self.orders.set_flaw(Flaw::Rotation, &flaw);
        let retry_at = Instant::now() + self.settings.rotate.least() * 6;
        (self.rotations.retry_at, self.rotations.at) = (Some(retry_at), Some(retry_at));
    }

    /// Frees room if an error says that there is none and the settings allow it.
    /// Returns whether it makes sense to try again.
    pub(super) fn make_room(&mut self, error: &io::Error) -> bool {
        self.archivist.make_room(&self.settings, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(size: Option<u64>, age: Option<u64>) -> Rotate {
        Rotate { size, age_ms: age.map(|s| s * 1000), ..Rotate::default() }
    }

    #[test]
    fn it_is_due_by_size_or_by_age_and_never_sooner_than_the_least() {
        let seconds = Duration::from_secs;
        let cases = [
            (rules(Some(100), None), 99, 50, None),
            (rules(Some(100), None), 100, 50, Some(0)),
            (rules(Some(100), None), 100, 4, Some(6)),
            (rules(None, Some(60)), 1, 50, Some(10)),
            (rules(None, Some(60)), 1, 61, Some(0)),
            (rules(None, Some(60)), 0, 61, None),
            (rules(None, Some(1)), 1, 4, Some(6)),
            (rules(Some(100), Some(60)), 1, 50, Some(10)),
            (rules(Some(100), Some(60)), 200, 50, Some(0)),
            (rules(Some(100), Some(60)), 200, 1, Some(9)),
        ];
        for (rotate, len, age, wait) in cases {
            assert_eq!(due(&rotate, len, seconds(age)), wait.map(seconds), "{rotate:?} {len} {age}");
        }
    }
}
