//! Reading a file's tables: a value or its default, and a problem for each
//! that is not right.

use super::keys::{Key, Keys, Kind, nearest};
use super::model::Lines;
use super::problem::{Places, Problem};
use super::system::System;
use super::value::{self, Read, Wrong, kind, quoted};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A part of the file.
pub(super) type Span = Range<usize>;

/// What reads, and gathers the problems.
pub(super) struct Reader<'a> {
    pub(super) places: Places<'a>,
    pub(super) problems: Vec<Problem>,
    /// Parts of the file can't be read, so what seems missing may be there.
    pub(super) partial: bool,
    /// Where mistakes of syntax are: what stands there is told already.
    pub(super) told: Vec<Span>,
    /// What relative paths are relative to.
    pub(super) base: &'a Path,
    pub(super) system: &'a dyn System,
    /// The child whose table is read.
    pub(super) child: Option<String>,
}

/// A table of the file.
#[derive(Debug)]
pub(super) struct Section<'t> {
    /// As it is called in messages: `[children.echo]`.
    pub(super) title: String,
    /// Where it begins.
    pub(super) span: Span,
    keys: Keys,
    entries: Vec<Entry<'t>>,
    /// Keys that an unknown one seems to mean, so that they do not lack.
    slips: Vec<&'static str>,
    /// Whether it is a table at all.
    whole: bool,
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry<'t> {
    pub(super) key: &'t str,
    pub(super) key_span: Span,
    pub(super) value: &'t Spanned<DeValue<'t>>,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// A table's entries in the order of the file.
pub(super) fn entries<'t>(table: &'t DeTable<'t>) -> Vec<Entry<'t>> {
    let mut entries: Vec<Entry<'t>> =
        table.iter().map(|(key, value)| Entry { key: key.get_ref(), key_span: key.span(), value }).collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    entries
}

impl Section<'_> {
    fn entry(&self, name: &str) -> Option<&Entry<'_>> {
        self.entries.iter().find(|entry| entry.key == name)
    }

    /// On which line each key stands, and each of the tables within.
    pub(super) fn lines(&self, places: &Places<'_>) -> Lines {
        let all = self.entries.iter().flat_map(|outer| {
            let inner = outer.value.get_ref().as_table().map(entries).unwrap_or_default();
            let inner = inner.into_iter().map(|entry| (format!("{}.{}", outer.key, entry.key), entry.key_span));
            std::iter::once((outer.key.to_owned(), outer.key_span.clone())).chain(inner.collect::<Vec<_>>())
        });
        all.map(|(key, span)| (key, places.line(span.start))).collect()
    }

    /// Whether a key is missing, and not only written wrongly.
    pub(super) fn lacks(&self, name: &str) -> bool {
        self.whole && !self.has(name) && !self.slips.contains(&name)
    }

    /// The key's value as it stands.
    pub(super) fn value(&self, name: &str) -> Option<&Spanned<DeValue<'_>>> {
        self.entry(name).map(|entry| entry.value)
    }

    /// Whether the file gives that key.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// Whether the key is given as a list of nothing.
    pub(super) fn is_empty_list(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value.get_ref().as_array().is_some_and(|items| items.is_empty()))
    }

    /// Where the key's value stands; where the table begins, if it is not given.
    pub(super) fn place(&self, name: &str) -> Span {
        self.entry(name).map_or_else(|| self.span.clone(), |entry| entry.value.span())
    }

    /// Where the key itself stands; where the table begins, if it is not given.
    pub(super) fn key_place(&self, name: &str) -> Span {
        self.entry(name).map_or_else(|| self.span.clone(), |entry| entry.key_span.clone())
    }

    fn key(&self, name: &str) -> &'static Key {
        self.keys.iter().find(|key| key.name == name).expect("the table of keys has each that is read")
    }

    fn default(&self, name: &str) -> DeValue<'static> {
        DeValue::parse(self.key(name).default).expect("every default is TOML: a test reads them all").into_inner()
    }
}

impl<'a> Reader<'a> {
    /// Says that something is wrong.
    pub(super) fn problem(&mut self, span: Span, what: impl Into<String>, help: impl Into<String>) {
        if !self.told.iter().any(|told| told.start < span.end && span.start < told.end) {
            self.problems.push(self.places.problem(span, what.into(), help.into()));
        }
    }

    /// Says that the system lacks something, maybe only for now, that the child needs
    /// whose table is read.
    pub(super) fn absent(&mut self, span: Span, what: impl Into<String>, help: impl Into<String>) {
        let before = self.problems.len();
        self.problem(span, what, help);
        for problem in &mut self.problems[before..] {
            problem.lacking.clone_from(&self.child);
        }
    }

    /// Says that something is missing, unless it may be in what could not be read.
    pub(super) fn missing(&mut self, span: Span, what: impl Into<String>, help: impl Into<String>) {
        if !self.partial {
            self.problem(span, what, help);
        }
    }

    /// A table whose keys are known. Others are problems.
    pub(super) fn section<'t>(
        &mut self,
        title: &str,
        span: Span,
        value: &'t Spanned<DeValue<'t>>,
        keys: Keys,
    ) -> Section<'t> {
        let (entries, whole) = match value.get_ref() {
            DeValue::Table(table) => (entries(table), true),
            other => {
                let what = format!("expected a table, found {}", kind(other));
                self.problem(value.span(), what, format!("write {title} and its keys below"));
                (Vec::new(), false)
            }
        };
        let slips = self.unknown(title, keys, &entries);
        Section { title: title.to_owned(), span, keys, entries, slips, whole }
    }

    /// The file's own table.
    pub(super) fn root<'t>(&mut self, table: &'t DeTable<'t>, keys: Keys) -> Section<'t> {
        let entries = entries(table);
        let slips = self.unknown("the file", keys, &entries);
        Section { title: "the file".to_owned(), span: 0..0, keys, entries, slips, whole: true }
    }

    /// Says which keys are not known; returns those that seem to be meant.
    fn unknown(&mut self, title: &str, keys: Keys, entries: &[Entry<'_>]) -> Vec<&'static str> {
        let known = || keys.iter().map(|key| key.name);
        let mut slips = Vec::new();
        for entry in entries.iter().filter(|entry| !known().any(|name| name == entry.key)) {
            let near = nearest(entry.key, known());
            let help = match near {
                Some(name) => format!("did you mean \"{name}\"?"),
                None => format!("the keys are {}", known().collect::<Vec<_>>().join(", ")),
            };
            self.problem(entry.key_span.clone(), format!("unknown key {} in {title}", quoted(entry.key)), help);
            slips.extend(near);
        }
        slips
    }

    /// The key's value, or its default where it is not given or not right.
    pub(super) fn read<T>(&mut self, section: &Section<'_>, name: &str, parse: impl Fn(&DeValue<'_>) -> Read<T>) -> T {
        match self.optional(section, name, &parse) {
            Some(placed) => placed.value,
            None => {
                parse(&section.default(name)).unwrap_or_else(|wrong| unreachable!("default of {name}: {}", wrong.what))
            }
        }
    }

    /// A duration in the key's range.
    pub(super) fn duration(&mut self, section: &Section<'_>, name: &str) -> Duration {
        match section.key(name).kind {
            Kind::Duration(least, most) => self.read(section, name, value::duration(least..=most)),
            other => unreachable!("{name} is read as a duration, and is {other:?}"),
        }
    }

    /// A size in the key's range, in bytes.
    pub(super) fn size(&mut self, section: &Section<'_>, name: &str) -> u64 {
        match section.key(name).kind {
            Kind::Size(least, most) => self.read(section, name, value::size(least..=most)),
            other => unreachable!("{name} is read as a size, and is {other:?}"),
        }
    }

    /// A whole number in the key's range.
    pub(super) fn integer(&mut self, section: &Section<'_>, name: &str) -> u64 {
        match section.key(name).kind {
            Kind::Integer(least, most) => self.read(section, name, value::integer(least..=most)),
            other => unreachable!("{name} is read as a whole number, and is {other:?}"),
        }
    }

    /// A number in the key's range.
    pub(super) fn number(&mut self, section: &Section<'_>, name: &str) -> f64 {
        match section.key(name).kind {
            Kind::Number(least, most) => self.read(section, name, value::float(least..=most)),
            other => unreachable!("{name} is read as a number, and is {other:?}"),
        }
    }

    /// The key's value, where it is given and right.
    pub(super) fn optional<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        parse: impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> Option<Placed<T>> {
        let value = section.entry(name)?.value;
        self.take_of(name, value.span(), parse(value.get_ref()))
    }

    /// The key's value, which must be given.
    pub(super) fn required<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        help: &str,
        parse: impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> Option<Placed<T>> {
        if section.lacks(name) {
            self.missing(section.span.clone(), format!("{} lacks the key \"{name}\"", section.title), help);
        }
        self.optional(section, name, parse)
    }

    /// Each item of a list, where it is right; nothing where the key is not given.
    pub(super) fn list<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        example: &str,
        parse: impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> Vec<Placed<T>> {
        let Some(entry) = section.entry(name) else {
            return Vec::new();
        };
        let DeValue::Array(items) = entry.value.get_ref() else {
            let found = kind(entry.value.get_ref());
            self.problem(
                entry.value.span(),
                format!("expected a list, found {found}"),
                format!("as in {name} = {example}"),
            );
            return Vec::new();
        };
        let items: Vec<&Spanned<DeValue<'_>>> = items.iter().collect();
        items.into_iter().filter_map(|item| self.take_of(name, item.span(), parse(item.get_ref()))).collect()
    }

    /// The entries of a table whose keys are free, in the order of the file.
    pub(super) fn free<'t>(&mut self, section: &'t Section<'_>, name: &str, help: &str) -> Vec<Entry<'t>> {
        match section.value(name).map(|value| (value.span(), value.get_ref())) {
            None => Vec::new(),
            Some((_, DeValue::Table(table))) => entries(table),
            Some((span, other)) => {
                self.problem(span, format!("{name}: expected a table, found {}", kind(other)), help);
                Vec::new()
            }
        }
    }

    /// A table within a table, empty where it is not given.
    pub(super) fn inner<'t>(&mut self, section: &'t Section<'_>, name: &str, title: &str, keys: Keys) -> Section<'t> {
        match section.entry(name) {
            Some(entry) => self.section(title, entry.key_span.clone(), entry.value, keys),
            None => {
                let (title, span, whole) = (title.to_owned(), section.span.clone(), section.lacks(name));
                Section { title, span, keys, entries: Vec::new(), slips: Vec::new(), whole }
            }
        }
    }

    /// A value that was read, or its problem, which names the key.
    pub(super) fn take_of<T>(&mut self, key: &str, span: Span, read: Read<T>) -> Option<Placed<T>> {
        self.take(span, read.map_err(|wrong| Wrong { what: format!("{key}: {}", wrong.what), ..wrong }))
    }

    /// A value that was read, or its problem.
    pub(super) fn take<T>(&mut self, span: Span, read: Read<T>) -> Option<Placed<T>> {
        match read {
            Ok(value) => Some(Placed { value, span }),
            Err(Wrong { what, help }) => {
                self.problem(span, what, help);
                None
            }
        }
    }
}
