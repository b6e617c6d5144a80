//! `plumbd messages`: saved messages, in order, over all files that have them.
//!
//! - [`which`]: the message file; [`files`]: it and its archives, each opened before its turn;
//! - [`lines`]: the lines of a file; [`seek`]: where to begin in it;
//! - [`parse`]: what is in a line; [`filter`]: which are asked for; [`when`]: a time as it is
//!   typed; [`mod@print`]: how they are printed;
//! - [`follow`], [`watch`]: what comes later.

mod files;
mod filter;
mod follow;
mod lines;
mod parse;
mod print;
mod seek;
mod watch;
mod when;
mod which;

use super::typed::Messages;
use super::{Failure, output};
use crate::plugin::logger::archives::{self, Form};
use crate::sys::cause::cause;
use crate::sys::text::counted;
use files::{Opened, Series, Turn};
use filter::{Filter, Verdict, Wanted};
use jiff::Zoned;
use lines::Lines;
use parse::Shape;
use print::{End, Printer, Style};
use seek::Back;
use std::io::{self, ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};

/// How many are shown first of what is followed, as tail(1) does.
const FIRST: u64 = 10;
/// At most this many archives that are left out are named.
const NAMED: usize = 5;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    file: Option<PathBuf>,
    config: Option<PathBuf>,
    filter: Filter,
    /// `--since`, `--until` or `--peer`: what the format `raw` does not have.
    asks_more: Option<&'static str>,
    last: Option<u64>,
    follow: bool,
    unescape: bool,
    json: bool,
}

impl Messages {
    /// What these arguments mean.
    ///
    /// # Errors
    /// A time or a regular expression is none: wrong usage.
    pub(super) fn meant(self) -> Result<Asked, Failure> {
        let usage = |why: String| Failure::new(Failure::USAGE, why);
        let now = Zoned::now();
        let time = |option: &str, text: Option<String>| {
            let meant = text.map(|text| when::when(&text, &now)).transpose();
            meant.map_err(|why| usage(format!("cannot use {option}: {why}")))
        };
        let asks_more = [("--since", &self.since), ("--until", &self.until), ("--peer", &self.peer)]
            .into_iter()
            .find_map(|(option, given)| given.as_ref().map(|_| option));
        let last = self.lines.or_else(|| (self.follow && self.since.is_none()).then_some(FIRST));
        let wanted = Wanted {
            since: time("--since", self.since)?,
            until: time("--until", self.until)?,
            peer: self.peer,
            grep: self.grep,
        };
        Ok(Asked {
            file: self.file,
            config: self.config.config,
            filter: Filter::new(&wanted, Shape::Timed).map_err(usage)?,
            asks_more,
            last,
            follow: self.follow,
            unescape: self.unescape,
            json: self.json,
        })
    }
}

/// Prints them. The exit status is 1 if a file can't be read.
pub(super) fn messages(asked: Asked) -> Result<u8, Failure> {
    let style = asked.style()?;
    let (file, known) = match asked.file {
        None => which::only(asked.config.as_deref()).map(|(file, shape)| (file, Some(shape)))?,
        Some(file) => {
            let of = archives::of_path(&file).map_or_else(|| file.clone(), |(of, _, _)| of);
            let known = which::shape_of(&of, asked.config.as_deref())?;
            (file, known)
        }
    };
    let alone = archives::of_path(&file);
    let mut series = match &alone {
        Some((of, time, form)) => Series::one(of, time, *form),
        None => Series::of(&file, None),
    };
    if let Some(Turn::Failed { path, time: None, why }) = series.peek_back() {
        if why.kind() == ErrorKind::Unsupported {
            return Err(format!("cannot read {}: {why}", path.display()).into());
        }
    }
    let is_once = matches!(series.peek_back(), Some(Turn::File(opened)) if !opened.is_regular);
    if is_once && asked.last.is_some() && !asked.follow {
        let why = format!("cannot use -n: {} is not a regular file, so it can be read only once", file.display());
        return Err(Failure::new(Failure::USAGE, why));
    }
    if let Some(option) = asked.asks_more {
        let shape = known.or_else(|| series.peek_back().and_then(shape_of_turn));
        if shape == Some(Shape::Raw) {
            let why = format!("cannot use {option}: {} has the format raw, without times and peers", file.display());
            return Err(Failure::new(Failure::USAGE, why));
        }
    }
    let follow = asked.follow && alone.is_none();
    let last = asked.last.filter(|_| !is_once);
    let mut reading = Reading {
        file,
        left: last.filter(|_| !follow),
        filter: asked.filter,
        known,
        asks_more: asked.asks_more.is_some(),
        printer: Printer::new(style)?,
        told: String::new(),
        status: 0,
    };
    match reading.all(&mut series, last, follow) {
        Ok(()) | Err(End::Unread) => Ok(reading.status),
        Err(End::Failed(failure)) => Err(failure),
    }
}

impl Asked {
    fn style(&self) -> Result<Style, Failure> {
        let terminal = io::stdout().is_terminal();
        match (self.unescape, self.json) {
            (true, _) if terminal => Err(Failure::new(
                Failure::USAGE,
                "cannot print unescaped messages to a terminal, because they could control it; redirect them to a \
                 file or a pipe",
            )),
            (true, _) => Ok(Style::Unescaped),
            (_, true) => Ok(Style::Json { terminal }),
            _ if terminal => Ok(Style::Terminal { colours: output::colours() }),
            _ => Ok(Style::Saved),
        }
    }
}

/// Files being read.
struct Reading {
    file: PathBuf,
    filter: Filter,
    /// How lines are to be read, if the configuration says so; else each file's first line
    /// does.
    known: Option<Shape>,
    asks_more: bool,
    /// How many more are printed: the file may have grown since the last ones were counted.
    left: Option<u64>,
    printer: Printer,
    /// What was reported last.
    told: String,
    status: u8,
}

/// Where the first file is begun.
#[derive(Debug, Clone, Copy, Default)]
struct Start {
    /// At this byte, if it is plain.
    at: Option<u64>,
    /// Else after so many messages that are asked for.
    skip: u64,
}

/// Whether there is more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    /// Nothing that comes later is asked for, or it can't be read.
    Late,
}

/// The message file, read up to its present end.
struct Live {
    opened: Opened,
    lines: Lines,
    /// How it begins, which tells it from another file.
    head: Vec<u8>,
}

impl Reading {
    fn all(&mut self, series: &mut Series, last: Option<u64>, follow: bool) -> Result<(), End> {
        if let Some(error) = series.trouble.take() {
            self.cannot(&format!("cannot look for the archives of {}: {}", self.file.display(), cause(&error)));
        }
        self.tell_foreign(&series.foreign);
        series.skip_while(|time| self.filter.is_early(time));
        let start = match last {
            Some(last) => self.go_back(series, last),
            None => Start::default(),
        };
        let (live, flow) = self.forth(series, start, None, follow)?;
        self.printer.flush()?;
        if self.filter.unknown > 0 {
            let one = "line has no time or peer, and was left out";
            let many = "lines have no time or peer, and were left out";
            output::tell(&format!("plumbd: {}", counted(self.filter.unknown, one, many)));
        }
        if follow && flow == Flow::On {
            self.follow(live, series.newest.take())?;
        }
        Ok(())
    }

    /// Names the archives that are left out because somebody else may have put them there.
    fn tell_foreign(&self, foreign: &[PathBuf]) {
        let is_early = |path: &PathBuf| {
            let time = archives::of_path(path).and_then(|(_, time, _)| archives::micros(&time));
            time.is_some_and(|time| self.filter.is_early(time))
        };
        let asked: Vec<&PathBuf> = foreign.iter().filter(|path| !is_early(path)).collect();
        let named: Vec<String> = asked.iter().take(NAMED).map(|path| path.display().to_string()).collect();
        let more = match asked.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        if !named.is_empty() {
            let belong = if asked.len() == 1 { "it belongs" } else { "they belong" };
            output::tell(&format!(
                "plumbd: left out, because {belong} neither to you nor to the owner of {} or its folder: {}{more}",
                self.file.display(),
                named.join(", ")
            ));
        }
    }

    /// What could not be done, beside what else is printed.
    fn cannot(&mut self, why: &str) {
        // What is followed is looked at again and again.
        if self.told != why {
            output::tell(&format!("plumbd: {why}"));
            why.clone_into(&mut self.told);
        }
        self.status = Failure::FAILED;
    }

    fn cannot_read(&mut self, path: &Path, error: &io::Error) {
        self.cannot(&format!("cannot read {}: {}", path.display(), cause(error)));
    }

    /// Goes back to where the last so many messages begin.
    fn go_back(&mut self, series: &mut Series, last: u64) -> Start {
        let mut left = last;
        let mut start = Start::default();
        while let Some(turn) = series.next_back() {
            let mut is_done = false;
            if let Turn::File(opened) = &turn {
                // What can't be read is reported on the way forth.
                if let Ok(back) = self.count_back(opened, left) {
                    left -= back.count.min(left);
                    (start, is_done) = (back.start, left == 0 || back.is_early);
                }
            }
            series.put_back(turn);
            if is_done {
                break;
            }
        }
        series.turn_round();
        self.filter.unknown = 0;
        start
    }

    /// Counts back the messages of a file.
    fn count_back(&mut self, opened: &Opened, most: u64) -> io::Result<Counted> {
        self.settle(opened)?;
        let mut is_early = false;
        if opened.form == Form::Raw && opened.is_regular {
            let filter = &mut self.filter;
            let end = opened.file.metadata()?.len();
            let (at, count) = seek::last(&opened.file, end, most, |line| match filter.verdict(line) {
                Verdict::Wanted => Back::Counts,
                Verdict::Unwanted | Verdict::Late => Back::Not,
                Verdict::Early => {
                    is_early = true;
                    Back::End
                }
            })?;
            // Else it has less than were asked for, and begins at its beginning.
            let at = (count >= most || is_early).then_some(at);
            return Ok(Counted { start: Start { at, skip: 0 }, count, is_early });
        }
        if !opened.is_regular {
            return Err(io::Error::other("it can be read only once"));
        }
        let mut lines = Lines::new(opened.file.try_clone()?, opened.form, 0)?;
        let mut count = 0u64;
        // What was read before an error counts.
        while let Ok(Some(block)) = lines.next() {
            for line in lines::each(block) {
                match self.filter.verdict(line) {
                    Verdict::Wanted => count += 1,
                    Verdict::Early => is_early = true,
                    Verdict::Unwanted | Verdict::Late => {}
                }
            }
        }
        Ok(Counted { start: Start { at: None, skip: count.saturating_sub(most) }, count, is_early })
    }

    /// Prints what the files have, and returns the message file, if it is to be followed.
    /// `before` is the archive before the first one, if that is known.
    fn forth(
        &mut self,
        series: &mut Series,
        mut start: Start,
        mut before: Option<String>,
        follow: bool,
    ) -> Result<(Option<Live>, Flow), End> {
        let mut is_oldest = before.is_none();
        while let Some(turn) = series.next() {
            let was_oldest = std::mem::take(&mut is_oldest);
            let opened = match turn {
                Turn::File(opened) => opened,
                // By the number of archives that are kept.
                Turn::Removed(_) if was_oldest => {
                    is_oldest = true;
                    continue;
                }
                Turn::Removed(time) => {
                    self.printer.flush()?;
                    let path = archives::path(&self.file, &time, Form::Raw);
                    self.cannot(&format!("cannot read {}: it was removed meanwhile", path.display()));
                    before = Some(time);
                    continue;
                }
                // It is waited for.
                Turn::Failed { time: None, why, .. } if follow && files::is_gone(&why) => continue,
                Turn::Failed { path, time, why } => {
                    self.printer.flush()?;
                    self.cannot_read(&path, &why);
                    before = time;
                    continue;
                }
            };
            self.tell_gap(&opened, before.as_deref())?;
            before.clone_from(&opened.time);
            let (live, flow) = self.file(opened, std::mem::take(&mut start))?;
            // One that can't be read further is not begun again.
            if flow == Flow::Late || follow && before.is_none() && live.is_none() {
                return Ok((None, Flow::Late));
            }
            if let Some(live) = live.filter(|_| before.is_none()) {
                return Ok((Some(live), flow));
            }
        }
        Ok((None, Flow::On))
    }

    /// Reports that the archive is missing which a file follows.
    fn tell_gap(&mut self, opened: &Opened, before: Option<&str>) -> Result<(), End> {
        let (Some(before), Some(follows)) = (before, opened.follows.as_deref()) else { return Ok(()) };
        if follows > before {
            self.printer.flush()?;
            let path = archives::path(&self.file, follows, Form::Raw);
            output::tell(&format!("plumbd: messages are missing here: {} is not there any more", path.display()));
        }
        Ok(())
    }

    /// Prints what a file has. `None`: it can't be read further.
    fn file(&mut self, opened: Opened, start: Start) -> Result<(Option<Live>, Flow), End> {
        let path = opened.path.clone();
        // Before anything of it is printed, because it may be truncated then.
        let head = follow::head(&opened).unwrap_or_default();
        match self.begin(&opened, start) {
            Ok(mut lines) => match self.show(&mut lines, start.skip) {
                Ok(flow) => Ok((Some(Live { opened, lines, head }), flow)),
                Err(Stopped::Read(error)) => {
                    self.printer.flush()?;
                    self.cannot_read(&path, &error);
                    Ok((None, Flow::On))
                }
                Err(Stopped::Print(end)) => Err(end),
            },
            Err(error) => {
                self.printer.flush()?;
                self.cannot_read(&path, &error);
                Ok((None, Flow::On))
            }
        }
    }

    /// The lines of a file, from the first on that may be asked for.
    fn begin(&mut self, opened: &Opened, start: Start) -> io::Result<Lines> {
        self.settle(opened)?;
        let is_plain = opened.form == Form::Raw && opened.is_regular;
        let at = match start.at {
            Some(at) => at,
            None if is_plain && self.filter.has_since() => {
                let end = opened.file.metadata()?.len();
                seek::first(&opened.file, end, |line| self.filter.proves_early(line))?
            }
            None => 0,
        };
        Lines::new(opened.file.try_clone()?, opened.form, at)
    }

    /// Settles how the lines of a file are to be read.
    fn settle(&mut self, opened: &Opened) -> io::Result<()> {
        let shape = match self.known {
            Some(shape) => shape,
            None => shape_of(opened)?.unwrap_or(Shape::Timed),
        };
        self.filter.shape = shape;
        if shape == Shape::Raw && self.asks_more {
            return Err(io::Error::other("it has the format raw, without times and peers"));
        }
        Ok(())
    }

    /// Prints what is asked for, up to the present end.
    fn show(&mut self, lines: &mut Lines, mut skip: u64) -> Result<Flow, Stopped> {
        let is_all = self.left.is_none() && self.filter.is_all() && self.printer.is_plain();
        while let Some(block) = lines.next().map_err(Stopped::Read)? {
            if is_all && skip == 0 {
                self.printer.block(block).map_err(Stopped::Print)?;
                continue;
            }
            for line in lines::each(block) {
                match self.filter.verdict(line) {
                    Verdict::Wanted if skip > 0 => skip -= 1,
                    Verdict::Wanted if self.left == Some(0) => return Ok(Flow::Late),
                    Verdict::Wanted => {
                        self.left = self.left.map(|left| left - 1);
                        self.printer.line(line, self.filter.shape).map_err(Stopped::Print)?;
                    }
                    Verdict::Unwanted | Verdict::Early => {}
                    Verdict::Late => return Ok(Flow::Late),
                }
            }
        }
        Ok(Flow::On)
    }
}

/// What the way back found in a file.
struct Counted {
    start: Start,
    count: u64,
    /// No file before it has what is asked for.
    is_early: bool,
}

/// Why a file is not read to its end.
enum Stopped {
    Read(io::Error),
    Print(End),
}

/// How the lines of a file are to be read, as its first one shows.
fn shape_of(opened: &Opened) -> io::Result<Option<Shape>> {
    if !opened.is_regular {
        return Ok(None);
    }
    let mut lines = Lines::new(opened.file.try_clone()?, opened.form, 0)?;
    Ok(lines.next()?.and_then(|block| lines::each(block).next()).map(Shape::of))
}

fn shape_of_turn(turn: &Turn) -> Option<Shape> {
    match turn {
        Turn::File(opened) => shape_of(opened).ok().flatten(),
        Turn::Failed { .. } | Turn::Removed(_) => None,
    }
}
