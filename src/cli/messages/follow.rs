//! Messages as they are saved, over rotations.

use super::files::{Opened, Series, became};
use super::print::End;
use super::seek;
use super::watch::Watch;
use super::{Flow, Live, Reading, Start, Stopped, output};
use crate::link::intent::names;
use crate::plugin::logger::archives::Form;
use crate::sys::cause::cause;
use std::io;
use std::os::unix::fs::FileExt;

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
        let mut watch = Watch::new(&path);
        let (mut live, mut newest) = (live, newest);
        live.iter().for_each(|live| watch.follow(&live.opened.file));
        let mut was_away = false;
        loop {
            if was_away {
                // Its folder may be another one by now.
                watch = Watch::new(&path);
                live.iter().for_each(|live| watch.follow(&live.opened.file));
            }
            // The name first: nothing is written to a file once its name is another one's.
            let is_named = live.as_ref().is_some_and(|live| names(&path, live.opened.id));
            let is_watched = is_named || was_away;
            was_away = !is_named;
            let is_replaced = !is_named && (live.is_none() || path.exists());
            if let Some(live) = &mut live {
                if self.more(live)? == Flow::Late {
                    return Ok(());
                }
            }
            self.printer.flush()?;
            if is_replaced {
                let before = live.take().and_then(|live| became(&path, newest.as_deref(), &live.opened, &live.head));
                let mut series = Series::of(&path, before.as_deref().or(newest.as_deref()));
                let (next, flow) = self.forth(&mut series, Start::default(), before, true)?;
                if flow == Flow::Late {
                    return self.printer.flush();
                }
                newest = series.newest.take().or(newest);
                live = next;
                if let Some(live) = &live {
                    watch.follow(&live.opened.file);
                    // What came before it was watched is not reported.
                    continue;
                }
                self.printer.flush()?;
            }
            if !is_watched {
                continue;
            }
            match watch.wait(self.printer.out()) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(why) => return Err(End::Failed(why.into())),
            }
        }
    }

    /// Prints what the message file has by now.
    fn more(&mut self, live: &mut Live) -> Result<Flow, End> {
        match mind_cut(live).map_err(Stopped::Read).and_then(|()| self.show(&mut live.lines, 0)) {
            Ok(flow) => Ok(flow),
            Err(Stopped::Print(end)) => Err(end),
            Err(Stopped::Read(error)) => {
                let why = format!("cannot read {}: {}", live.opened.path.display(), cause(&error));
                Err(End::Failed(why.into()))
            }
        }
    }
}

/// Where the file was truncated, goes on where it ends now, or at its beginning if it has
/// become another one.
fn mind_cut(live: &mut Live) -> io::Result<()> {
    let length = live.opened.file.metadata()?.len();
    let position = live.lines.position();
    let mut now = Vec::new();
    if length < position || live.head.len() < HEAD {
        now = head(&live.opened)?;
    }
    if length >= position {
        if now.len() > live.head.len() && now.starts_with(&live.head) {
            live.head = now;
        }
        return Ok(());
    }
    let path = live.opened.path.display();
    output::tell(&format!("plumbd: {path} was truncated from {position} to {length} bytes"));
    now.truncate(usize::try_from(length).unwrap_or(HEAD));
    let is_same = !now.is_empty() && live.head.starts_with(&now);
    let at = if is_same { seek::whole(&live.opened.file, length, &mut vec![0; HEAD])? } else { 0 };
    live.head = now;
    live.lines.go_to(at);
    Ok(())
}

/// How a file begins.
pub(super) fn head(opened: &Opened) -> io::Result<Vec<u8>> {
    if !opened.is_regular || opened.form != Form::Raw {
        return Ok(Vec::new());
    }
    let mut head = vec![0; HEAD];
    let read = opened.file.read_at(&mut head, 0)?;
    head.truncate(read);
    Ok(head)
}
