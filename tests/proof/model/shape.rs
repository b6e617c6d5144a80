//! A configuration as the model knows it: its children and links, how it may
//! change, and which children a reload must leave alone.

use super::random::Random;
use crate::program::Program;
use std::collections::{BTreeMap, BTreeSet};

/// The number of instances. Only the echo has several.
const INSTANCES: u32 = 3;
const FORMATS: [&str; 3] = ["text", "raw", "json"];

/// What a child runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Echo {
        instances: u32,
        echo_after: &'static str,
    },
    /// The file's name ends in its format.
    Logger {
        file: String,
    },
    Own(Program),
}

/// One child of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) kind: Kind,
    pub(super) umask: u32,
    /// In milliseconds. A change of this keeps the process.
    stop_timeout: u32,
    /// Whether it is restarted only after two seconds.
    pub(super) patient: bool,
    after: Option<String>,
    to: Option<String>,
    pub(super) on_failure: bool,
}

impl Part {
    fn new(kind: Kind, random: &mut Random) -> Part {
        let patient = matches!(kind, Kind::Logger { .. } | Kind::Own(Program::Filter { .. } | Program::Plain))
            && random.one_in(4);
        let on_failure = random.one_in(3);
        let stop_timeout = if kind == Kind::Own(Program::Deaf) { 300 } else { 5000 };
        Part { kind, umask: 0o22, stop_timeout, patient, after: None, to: None, on_failure }
    }

    pub(super) fn is_job(&self) -> bool {
        matches!(self.kind, Kind::Own(Program::Job { .. }))
    }

    /// Whether it is a job that fails.
    pub(super) fn fails(&self) -> bool {
        matches!(self.kind, Kind::Own(Program::Job { status: 1.., .. }))
    }

    /// How many times one start may run it.
    pub(super) fn runs(&self) -> u32 {
        if self.fails() && self.on_failure { BURST } else { 1 }
    }

    fn is_source(&self) -> bool {
        matches!(self.kind, Kind::Own(Program::Source { .. }))
    }

    pub(super) fn is_filter(&self) -> bool {
        matches!(self.kind, Kind::Own(Program::Filter { .. }))
    }

    pub(super) fn file(&self) -> Option<&str> {
        match &self.kind {
            Kind::Logger { file } => Some(file),
            _ => None,
        }
    }

    fn takes_input(&self) -> bool {
        self.is_filter() || self.file().is_some()
    }
}

/// How often a failing job is started.
const BURST: u32 = 3;

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) parts: BTreeMap<String, Part>,
    /// The echo's port.
    pub(super) port: u16,
    /// How many files were used so far.
    files: u32,
    /// `daemon.stop_timeout` in seconds.
    pub(super) drain: u32,
    /// Appended to the text, and not part of the model.
    pub(super) extra: String,
}

impl Shape {
    /// An echo, a logger, and some more.
    pub(super) fn new(port: u16, random: &mut Random) -> Shape {
        let mut shape = Shape { parts: BTreeMap::new(), port, files: 0, drain: 10, extra: String::new() };
        let echo_after = if random.one_in(3) { "synced" } else { "saved" };
        let echo = Part::new(Kind::Echo { instances: 1 + random.below(INSTANCES), echo_after }, random);
        shape.add_logger(random);
        if random.one_in(2) {
            shape.add_logger(random);
        }
        let to = random.pick(&shape.names(|part| part.file().is_some()));
        let name = shape.free_name(&echo, random);
        shape.parts.insert(name, Part { to, ..echo });
        for _ in 0..2 + random.below(4) {
            shape.add_any(random);
        }
        if random.one_in(2) {
            shape.add(Kind::Own(Program::Deaf), None, random);
            shape.add(Kind::Own(Program::Plain), None, random);
        }
        if random.one_in(2) {
            shape.add_job(1, random);
        }
        shape.mend(random);
        shape
    }

    /// The names of the parts for which that holds.
    pub(super) fn names(&self, which: impl Fn(&Part) -> bool) -> Vec<String> {
        self.parts.iter().filter(|(_, part)| which(part)).map(|(name, _)| name.clone()).collect()
    }

    /// A free name. A job's is longer and never used again, because it may run only a limited number
    /// of times.
    fn free_name(&self, part: &Part, random: &mut Random) -> String {
        loop {
            let letters = (0..if part.is_job() { 3 } else { 2 }).map(|_| random.below(26));
            let name: String = letters.map(|n| char::from(b'a' + u8::try_from(n).unwrap())).collect();
            if !self.parts.contains_key(&name) {
                return name;
            }
        }
    }

    fn add(&mut self, kind: Kind, to: Option<String>, random: &mut Random) {
        let part = Part { to, ..Part::new(kind, random) };
        let name = self.free_name(&part, random);
        self.parts.insert(name, part);
    }

    fn new_file(&mut self, random: &mut Random) -> String {
        self.files += 1;
        format!("m{}.{}", self.files, FORMATS[random.below(3) as usize])
    }

    fn add_logger(&mut self, random: &mut Random) {
        let file = self.new_file(random);
        self.add(Kind::Logger { file }, None, random);
    }

    fn add_job(&mut self, status: u8, random: &mut Random) {
        let lasts = random.below(60);
        self.add(Kind::Own(Program::Job { lasts, status }), None, random);
    }

    fn add_any(&mut self, random: &mut Random) {
        match random.below(9) {
            0..=3 => {
                let to = self.some_sink(false, random);
                self.add(Kind::Own(Program::Source { lines: 1_000_000, pace: 1000 + random.below(4000) }), to, random);
                if random.one_in(2) {
                    self.insert_filter(random);
                }
            }
            4 => self.add(Kind::Own(Program::Deaf), None, random),
            5 => self.add(Kind::Own(Program::Slow { after: 20 + random.below(100) }), None, random),
            6 => self.add_job(0, random),
            7 => self.add_logger(random),
            _ => {
                let after = random
                    .pick(&self.names(|part| matches!(part.kind, Kind::Own(Program::Deaf | Program::Slow { .. }))));
                self.add(Kind::Own(Program::Plain), None, random);
                if let (Some(after), Some(part)) = (after, self.parts.values_mut().find(|part| part.is_plain_alone())) {
                    part.after = Some(after);
                }
            }
        }
    }

    /// A logger, or for a source also a filter that only sources write to.
    fn some_sink(&self, of_filter: bool, random: &mut Random) -> Option<String> {
        let open = |name: &String, part: &Part| {
            part.file().is_some()
                || !of_filter && part.is_filter() && self.sources_of(name).all(|(_, source)| source.is_source())
        };
        let sinks: Vec<String> =
            self.parts.iter().filter(|(name, part)| open(name, part)).map(|(name, _)| name.clone()).collect();
        random.pick(&sinks)
    }

    fn sources_of<'a>(&'a self, sink: &'a str) -> impl Iterator<Item = (&'a String, &'a Part)> {
        self.parts.iter().filter(move |(_, part)| part.to.as_deref() == Some(sink))
    }

    /// Puts a filter behind a source or a filter.
    fn insert_filter(&mut self, random: &mut Random) {
        // There are at most three filters in a row, so none is inserted behind a third one.
        let depth = |mut name: String| {
            let mut depth = 0;
            while let Some(to) = self.parts.get(&name).and_then(|part| part.to.clone()) {
                name = to;
                depth += 1;
            }
            depth
        };
        let mut befores = self.names(|part| part.is_source() || part.is_filter());
        befores.retain(|name| depth(name.clone()) < 4);
        let Some(before) = random.pick(&befores) else { return };
        let to = self.parts[&before].to.clone();
        // A filter that several write to must stay directly behind them.
        if to.as_ref().is_some_and(|to| self.parts[to].is_filter() && self.sources_of(to).count() > 1) {
            return;
        }
        let program = Program::Filter { pace: random.below(3) * 500, polite: random.one_in(2), swallow: 0 };
        let part = Part { to, ..Part::new(Kind::Own(program), random) };
        let name = self.free_name(&part, random);
        self.parts.insert(name.clone(), part);
        self.parts.get_mut(&before).unwrap().to = Some(name);
    }

    /// Another configuration, one to three changes away.
    pub(super) fn changed(&self, random: &mut Random) -> Shape {
        let mut new = self.clone();
        for _ in 0..1 + random.below(3) {
            new.change(random);
        }
        new.mend(random);
        new
    }

    fn change(&mut self, random: &mut Random) {
        let any = random.pick(&self.names(|_| true)).unwrap();
        let is_echo = matches!(self.parts[&any].kind, Kind::Echo { .. });
        match random.below(11) {
            0 | 1 => self.parts.get_mut(&any).unwrap().umask ^= 0o55,
            2 => self.parts.get_mut(&any).unwrap().stop_timeout ^= 1,
            3 => self.add_any(random),
            4 if !is_echo && self.parts.len() > 4 => self.remove(&any),
            5 if !is_echo => {
                let part = self.parts[&any].clone();
                let name = self.free_name(&part, random);
                for other in self.parts.values_mut().filter(|other| other.to.as_ref() == Some(&any)) {
                    other.to = Some(name.clone());
                }
                self.parts.remove(&any);
                self.parts.insert(name, part);
            }
            4 | 6 => {
                let file = self.new_file(random);
                let logger = random.pick(&self.names(|part| part.file().is_some())).unwrap();
                self.parts.get_mut(&logger).unwrap().kind = Kind::Logger { file };
            }
            7 => {
                let loggers = self.names(|part| part.file().is_some());
                if let [one, other, ..] = &loggers[..] {
                    let (a, b) = (self.parts[one].kind.clone(), self.parts[other].kind.clone());
                    self.parts.get_mut(one).unwrap().kind = b;
                    self.parts.get_mut(other).unwrap().kind = a;
                }
            }
            8 => {
                if let Some(source) = random.pick(&self.names(|part| part.is_source())) {
                    let to = self.some_sink(false, random);
                    self.parts.get_mut(&source).unwrap().to = to;
                }
            }
            9 => self.insert_filter(random),
            _ => {
                let loggers = self.names(|part| part.file().is_some());
                let more = random.below(INSTANCES);
                let echo = self.parts.values_mut().find(|part| matches!(part.kind, Kind::Echo { .. })).unwrap();
                if let (Kind::Echo { instances, .. }, true) = (&mut echo.kind, more > 0) {
                    *instances = 1 + (*instances + more) % INSTANCES;
                } else {
                    echo.to = random.pick(&loggers);
                }
            }
        }
    }

    /// Removes a part. What wrote to it now writes to its sink.
    fn remove(&mut self, name: &str) {
        if self.parts[name].file().is_some() && self.names(|part| part.file().is_some()).len() == 1 {
            return;
        }
        let gone = self.parts.remove(name).unwrap();
        for other in self.parts.values_mut().filter(|other| other.to.as_deref() == Some(name)) {
            other.to.clone_from(&gone.to);
        }
    }

    /// Makes sure that every part has what it needs.
    fn mend(&mut self, random: &mut Random) {
        loop {
            let idle =
                self.parts.iter().find(|(name, part)| part.is_filter() && self.sources_of(name).next().is_none());
            let Some(name) = idle.map(|(name, _)| name.clone()) else { break };
            self.parts.remove(&name);
        }
        let loggers = self.names(|part| part.file().is_some());
        let names: BTreeSet<String> = self.parts.keys().cloned().collect();
        let shared: Vec<String> = self
            .parts
            .iter()
            .filter(|(name, part)| {
                // splice(2) does not move whole lines, so they must not mix with those of another.
                part.is_filter()
                    && self.sources_of(name).count() > 1
                    && self.sources_of(name).any(|(_, source)| source.is_filter())
            })
            .map(|(name, _)| name.clone())
            .collect();
        for part in self.parts.values_mut() {
            let is_linked = part.is_source() || part.is_filter() || matches!(part.kind, Kind::Echo { .. });
            let mixes = part.is_filter() && part.to.as_ref().is_some_and(|to| shared.contains(to));
            if is_linked && (mixes || part.to.as_ref().is_none_or(|to| !names.contains(to))) {
                part.to = random.pick(&loggers);
            }
            part.after.take_if(|after| !names.contains(after));
        }
        // A logger without a source is a problem in a configuration.
        let idle: Vec<String> = loggers.into_iter().filter(|name| self.sources_of(name).next().is_none()).collect();
        for logger in idle {
            let source = Program::Source { lines: 1_000_000, pace: 2000 };
            self.add(Kind::Own(source), Some(logger), random);
        }
    }

    /// The children of a part, by their names.
    pub(super) fn instances(&self, name: &str) -> Vec<String> {
        match self.parts[name].kind {
            Kind::Echo { instances: count @ 2.., .. } => (0..count).map(|n| format!("{name}.{n}")).collect(),
            _ => vec![name.to_owned()],
        }
    }

    /// All children, each with its part.
    pub(super) fn children(&self) -> BTreeMap<String, &Part> {
        let of = |name: &String| {
            self.instances(name).into_iter().map(|child| (child, &self.parts[name])).collect::<Vec<_>>()
        };
        self.parts.keys().flat_map(of).collect()
    }

    /// The children that must be up before that one starts.
    pub(super) fn needs(&self, part: &Part) -> Vec<String> {
        part.after.iter().chain(&part.to).flat_map(|name| self.instances(name)).collect()
    }

    /// What a child's process is given. If that does not change, the process stays.
    pub(super) fn given(&self, child: &str) -> Option<String> {
        let part = *self.children().get(child)?;
        let base = child.split('.').next().unwrap();
        let sources: Vec<String> = self.sources_of(base).flat_map(|(name, _)| self.instances(name)).collect();
        let kind = match &part.kind {
            Kind::Echo { echo_after, .. } => format!("echo {echo_after}"),
            other => format!("{other:?}"),
        };
        Some(format!("{kind} {} {:?} {sources:?}", part.umask, part.to))
    }

    /// The configuration as text.
    pub(super) fn text(&self) -> String {
        let mut text = format!("[daemon]\nstop_timeout = \"{}s\"\n", self.drain);
        let mut links = String::new();
        for (name, part) in &self.parts {
            let (first, factor, max) = if part.patient { ("2s", "1.0", "2s") } else { ("0ms", "1.0", "1ms") };
            let burst = if part.is_job() { BURST } else { 1_000_000 };
            let what = match &part.kind {
                Kind::Echo { instances, echo_after } => format!(
                    "plugin = \"echo\"\nlisten = [\"tcp://127.0.0.1:{}\"]\ninstances = {instances}\n\
                     settings = {{ echo_after = \"{echo_after}\", partial_after = \"60s\" }}",
                    self.port
                ),
                Kind::Logger { file } => format!(
                    "plugin = \"logger\"\nsettings = {{ file = \"{file}\", format = \"{}\" }}",
                    file.split('.').nth(1).unwrap()
                ),
                Kind::Own(program) => {
                    let more = match program {
                        Program::Slow { .. } | Program::Deaf | Program::NeverReady => {
                            "\nready = \"fd\"\nready_timeout = \"20s\""
                        }
                        Program::Job { .. } if part.on_failure => "\nrestart = \"on-failure\"",
                        Program::Job { .. } => "\nrestart = \"never\"",
                        _ => "",
                    };
                    program.command() + more
                }
            };
            text += &format!(
                "[children.{name}]\n{what}\numask = \"{:04o}\"\nstop_timeout = \"{}ms\"\n\
                 backoff = {{ first = \"{first}\", factor = {factor}, max = \"{max}\", reset_after = \"1s\" }}\n\
                 start_limit = {{ burst = {burst}, within = \"60s\" }}\n",
                part.umask, part.stop_timeout
            );
            if let Some(after) = &part.after {
                text += &format!("after = [{after:?}]\n");
            }
            if let Some(to) = &part.to {
                // The capacity is small if possible, so that there is back-pressure on a source.
                let capacity = if part.is_source() || part.is_filter() { "64KiB" } else { "1MiB" };
                links += &format!("[[links]]\nfrom = {name:?}\nto = {to:?}\ncapacity = \"{capacity}\"\n");
            }
        }
        text + &links + &self.extra
    }
}

impl Part {
    fn is_plain_alone(&self) -> bool {
        self.kind == Kind::Own(Program::Plain) && self.after.is_none()
    }

    /// Whether anything flows into it.
    pub(super) fn is_sink(&self) -> bool {
        self.takes_input()
    }
}

impl Shape {
    /// A configuration in which a logger has another file, or two exchange theirs.
    pub(super) fn other_files(&self, random: &mut Random) -> Shape {
        let mut new = self.clone();
        let mut loggers = new.names(|part| part.file().is_some());
        let one = loggers.swap_remove(random.below(u32::try_from(loggers.len()).unwrap()) as usize);
        match random.pick(&loggers).filter(|_| random.one_in(2)) {
            Some(other) => {
                let (a, b) = (new.parts[&one].kind.clone(), new.parts[&other].kind.clone());
                new.parts.get_mut(&one).unwrap().kind = b;
                new.parts.get_mut(&other).unwrap().kind = a;
            }
            None => {
                let file = new.new_file(random);
                new.parts.get_mut(&one).unwrap().kind = Kind::Logger { file };
            }
        }
        new
    }
}
