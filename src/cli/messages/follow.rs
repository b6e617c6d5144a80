//! Messages as they are saved, over rotations.

use super::files::{Series, became};
use super::print::End;
use super::seek;
use super::watch::Watch;
use super::{Flow, Live, Reading, Start, Stopped};
use crate::link::intent::names;
use crate::plugin::logger::file::folder;
use crate::sys::cause::cause;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// As much of a file's beginning as tells it from others.
const HEAD: usize = 4096;

impl Reading {
    /// Prints what comes, until nobody reads it or nothing later is asked for. `newest` is the
    /// time of the newest archive when the message file was opened.
    pub(super) fn follow(&mut self, live: Option<Live>, newest: Option<String>) -> Result<(), End> {
        if live.as_ref().is_some_and(|live| !live.opened.is_regular) {
            return Ok(());
        }
        let path = self.file.clone();
        let mut watch = Watch::new(&path, folder(&path));
        let (mut live, mut newest) = (live, newest);
        let mut head = Vec::new();
        live.iter().for_each(|live| watch.follow(&live.opened.file));
        loop {
            // The name first: nothing is written to a file once its name is another one's.
            let is_replaced = match &live {
                Some(live) => !names(&path, live.opened.id) && path.exists(),
                None => true,
            };
            if let Some(live) = &mut live {
                if self.more(live, &mut head)? == Flow::Late {
                    return Ok(());
                }
            }
            self.printer.flush()?;
            if is_replaced {
                let before =
                    live.take().and_then(|live| became(&path, newest.as_deref(), &live.opened, &beginning(&live)));
                let mut series = Series::of(&path, before.as_deref().or(newest.as_deref()));
                let (next, flow) = self.forth(&mut series, Start::default(), before, true)?;
                if flow == Flow::Late {
                    return self.printer.flush();
                }
                newest = series.newest.take().or(newest);
                head.clear();
                live = next;
                if let Some(live) = &live {
                    watch.follow(&live.opened.file);
                    // What came before it was watched is not reported.
                    continue;
                }
                self.printer.flush()?;
            }
            match watch.wait(self.printer.out()) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(why) => return Err(End::Failed(why.into())),
            }
        }
    }

    /// Prints what the message file has by now.
    fn more(&mut self, live: &mut Live, head: &mut Vec<u8>) -> Result<Flow, End> {
        let shown = self.mind_cut(live, head).map_err(Stopped::Read).and_then(|()| self.show(&mut live.lines, 0));
        if head.len() < HEAD {
            // It may have become another file's meanwhile.
            let now = beginning(live);
            if now.len() > head.len() && now.starts_with(head) {
                *head = now;
            }
        }
        match shown {
            Ok(flow) => Ok(flow),
            Err(Stopped::Print(end)) => Err(end),
            Err(Stopped::Read(error)) => {
                let why = format!("cannot read {}: {}", live.opened.path.display(), cause(&error));
                Err(End::Failed(why.into()))
            }
        }
    }

    /// Where the file was truncated, goes on where it ends now, or at its beginning if it has
    /// become another one.
    fn mind_cut(&mut self, live: &mut Live, head: &mut Vec<u8>) -> io::Result<()> {
        let length = live.opened.file.metadata()?.len();
        let position = live.lines.position();
        if length >= position {
            return Ok(());
        }
        self.tell_cut(&live.opened.path, position, length);
        let now = read_head(live, length)?;
        head.truncate(now.len());
        let is_same = !head.is_empty() && now.starts_with(head);
        let at = if is_same { seek::whole(&live.opened.file, length, &mut vec![0; HEAD])? } else { 0 };
        if !is_same {
            head.clear();
        }
        live.lines.go_to(at);
        Ok(())
    }

    fn tell_cut(&mut self, path: &Path, before: u64, now: u64) {
        super::output::tell(&format!("plumbd: {} was truncated from {before} to {now} bytes", path.display()));
    }
}

/// How a file begins, as far as it was read.
fn beginning(live: &Live) -> Vec<u8> {
    read_head(live, live.lines.position()).unwrap_or_default()
}

fn read_head(live: &Live, most: u64) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEAD.min(usize::try_from(most).unwrap_or(HEAD))];
    let read = live.opened.file.read_at(&mut head, 0)?;
    head.truncate(read);
    Ok(head)
}
