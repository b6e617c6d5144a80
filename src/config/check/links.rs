//! `[[links]]`.

use super::super::keys;
use super::super::model::{Link, Program};
use super::child::Draft;
use crate::link::handover::Protocol;
use crate::plugin::PLUGINS;
use crate::plugin::check::{Largest, Saved};
use crate::schema::table::{Placed, Reader, Section, Span};
use crate::schema::value::{self, kind, quoted, size_text};
use crate::sys::stream::Stream;
use toml::de::DeValue;

/// The most links into one sink that keeps its links apart. Each link takes 4 or 5 of the
/// sink's descriptors, and 5 or 7 of the supervisor's.
const MAX_INTO: u64 = 1000;

/// A link between children, before it is split up into links between instances.
#[derive(Debug)]
pub(super) struct LinkDraft {
    span: Span,
    line: usize,
    from: Option<Placed<String>>,
    stream: Stream,
    stream_span: Span,
    to: Option<Placed<String>>,
    capacity: u64,
    capacity_span: Span,
    protocol: Option<Placed<Protocol>>,
}

impl LinkDraft {
    /// A link for each instance of its source, as the model has them.
    pub(super) fn instances(&self, drafts: &[Draft]) -> Vec<Link> {
        let (Some(from), Some(to)) = (self.source(drafts), self.sink(drafts)) else {
            return Vec::new();
        };
        let names = from.names().into_iter();
        names
            .map(|name| Link {
                from: name,
                stream: self.stream,
                to: to.name().to_owned(),
                line: self.line,
                capacity: usize::try_from(self.capacity).unwrap_or(usize::MAX),
                protocol: self.protocol(from, to),
            })
            .collect()
    }

    fn source<'a>(&self, drafts: &'a [Draft]) -> Option<&'a Draft> {
        find(drafts, &self.from.as_ref()?.value)
    }

    fn sink<'a>(&self, drafts: &'a [Draft]) -> Option<&'a Draft> {
        find(drafts, &self.to.as_ref()?.value)
    }

    fn leads_to(&self, draft: &Draft) -> bool {
        self.to.as_ref().is_some_and(|to| to.value == draft.name())
    }

    fn protocol(&self, from: &Draft, to: &Draft) -> Protocol {
        match &self.protocol {
            Some(placed) => placed.value,
            None if self.stream.is_stdout() && from.plugin.is_some() && to.plugin.is_some() => Protocol::Records,
            None => Protocol::Lines,
        }
    }
}

fn find<'a>(drafts: &'a [Draft], name: &str) -> Option<&'a Draft> {
    drafts.iter().find(|draft| draft.name() == name)
}

/// Reads every link and checks it against the children.
pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>, drafts: &[Draft]) -> Vec<LinkDraft> {
    let links = drafts_of(reader, root);
    let complete = !root.has("links") || links.iter().all(|link| link.source(drafts).and(link.sink(drafts)).is_some());
    for (at, link) in links.iter().enumerate() {
        ends(reader, link, drafts);
        stream(reader, link, drafts);
        one_output(reader, link, &links[..at]);
        one_queue(reader, link, &links[..at], drafts);
        asked(reader, link, drafts);
        not_too_many(reader, link, &links[..at], drafts);
    }
    // If a link lacks an end, the child that seems unlinked may be that end.
    if complete && (!links.is_empty() || root.lacks("links")) {
        unlinked(reader, &links, drafts);
        for draft in drafts.iter().filter(|draft| !links.iter().any(|link| link.leads_to(draft))) {
            if let Some(span) = &draft.stalled {
                let what = format!("{} is the sink of no link, so no bytes wait for it", quoted(draft.name()));
                reader.problem(span.clone(), what, "leave `stalled` out, or add a link to it");
            }
        }
    }
    links
}

fn drafts_of(reader: &mut Reader<'_>, root: &Section<'_>) -> Vec<LinkDraft> {
    let Some(value) = root.value("links") else {
        return Vec::new();
    };
    let DeValue::Array(items) = value.get_ref() else {
        let what = format!("links is {}, not a list of tables", kind(value.get_ref()));
        reader.problem(root.key_place("links"), what, "write [[links]] with two brackets, once for each link");
        return Vec::new();
    };
    let words = [("lines", Protocol::Lines), ("records", Protocol::Records)];
    let streams = [Stream::Stdout, Stream::Stderr].map(|stream| (stream.word(), stream));
    if let Some(item) = items.get(super::MAX_TABLES) {
        let what = format!("{} links are too many", items.len());
        reader.problem(item.span(), what, format!("at most {}", super::MAX_TABLES));
    }
    let mut links = Vec::new();
    for item in items.iter().take(super::MAX_TABLES) {
        let section = reader.section("[[links]]", item.span(), item, keys::LINK);
        if !super::is_table(item.get_ref()) {
            continue;
        }
        links.push(LinkDraft {
            span: item.span(),
            line: reader.places.line(item.span().start),
            from: reader.required(&section, "from", r#"add from = "NAME", the source"#, value::string),
            stream: reader
                .optional(&section, "stream", value::choice(&streams))
                .map(|placed| placed.value)
                .unwrap_or_default(),
            stream_span: section.place("stream"),
            to: reader.required(&section, "to", r#"add to = "NAME", the sink"#, value::string),
            capacity: reader.size(&section, "capacity"),
            capacity_span: section.place("capacity"),
            protocol: reader.optional(&section, "protocol", value::choice(&words)),
        });
    }
    links
}

/// Both ends must exist and differ, and be able to be a source and a sink.
fn ends(reader: &mut Reader<'_>, link: &LinkDraft, drafts: &[Draft]) {
    let names = drafts.iter().map(Draft::name);
    for end in [&link.from, &link.to].into_iter().flatten() {
        if find(drafts, &end.value).is_none() {
            let what = format!("there is no child {}", quoted(&end.value));
            reader.missing(end.span.clone(), what, super::meant(&end.value, names.clone()));
        }
    }
    if let (Some(from), Some(to)) = (&link.from, &link.to) {
        if from.value == to.value {
            let what = format!("{} is linked to itself", quoted(&to.value));
            reader.problem(to.span.clone(), what, "a link goes from one child to another");
            return;
        }
    }
    let (source, sink) = (link.source(drafts), link.sink(drafts));
    let can_swap = sink.is_some_and(|draft| draft.plugin.is_none_or(|plugin| plugin.source))
        && source.is_some_and(|draft| draft.plugin.is_none_or(|plugin| plugin.sink));
    if let (Some(from), Some(plugin)) = (&link.from, source.and_then(|draft| draft.plugin)) {
        if !plugin.source && link.stream.is_stdout() {
            let what = format!("{} is {}, which can't be a source", quoted(&from.value), plugin.one());
            let help = if can_swap { "swap from and to" } else { "link it as a sink, with to" };
            reader.problem(from.span.clone(), what, help);
        }
    }
    let (Some(to), Some(sink)) = (&link.to, sink) else {
        return;
    };
    if let Some(plugin) = sink.plugin.filter(|plugin| !plugin.sink) {
        let what = format!("{} is {}, which can't be a sink", quoted(&to.value), plugin.one());
        // If both are the wrong way round, one advice is enough.
        let help = if can_swap { "swap from and to" } else { "link it as a source, with from" };
        reader.problem(to.span.clone(), what, help);
    } else if sink.plugin.is_none() && sink.instances > 1 {
        let what = format!("{} is the sink of a link and can't have {} instances", quoted(&to.value), sink.instances);
        let help = "any one of them might read a message; leave `instances` out";
        reader.problem(sink.instances_span.clone(), what, help);
    }
}

/// Standard error can be linked if it is not a log with priorities, and carries lines.
fn stream(reader: &mut Reader<'_>, link: &LinkDraft, drafts: &[Draft]) {
    if link.stream.is_stdout() {
        return;
    }
    if let (Some(from), Some(plugin)) = (&link.from, link.source(drafts).and_then(|draft| draft.plugin)) {
        let what = format!(
            "{} is {}: its standard error is its log, which can't be linked",
            quoted(&from.value),
            plugin.one()
        );
        let help = format!("leave this link out; `plumbd log {}` shows its log", from.value);
        reader.problem(link.stream_span.clone(), what, help);
    }
    if let Some(placed) = link.protocol.as_ref().filter(|placed| placed.value == Protocol::Records) {
        let what = "a link from standard error carries lines, not records";
        reader.problem(placed.span.clone(), what, "leave `protocol` out, or link standard output");
    }
}

/// A child is the source of at most one link for each of its outputs.
fn one_output(reader: &mut Reader<'_>, link: &LinkDraft, before: &[LinkDraft]) {
    let Some(from) = &link.from else {
        return;
    };
    let same = |other: &&LinkDraft| {
        other.stream == link.stream && other.from.as_ref().is_some_and(|other| other.value == from.value)
    };
    if let Some(other) = before.iter().find(same) {
        let source = link.stream.of(&quoted(&from.value));
        let what = format!("{source} is already the source of the link in line {}", other.line);
        let help = "each output of a child goes into one link: link it to a program that copies, as tee does";
        reader.problem(from.span.clone(), what, help);
    }
}

/// Links of lines into one ordinary program share its standard input, so they must have
/// the same capacity.
fn one_queue(reader: &mut Reader<'_>, link: &LinkDraft, before: &[LinkDraft], drafts: &[Draft]) {
    let name = |end: &Option<Placed<String>>| end.as_ref().map(|end| end.value.clone());
    let shared = |link: &LinkDraft| match (link.source(drafts), link.sink(drafts)) {
        (Some(from), Some(to)) => to.plugin.is_none() && link.protocol(from, to) == Protocol::Lines,
        _ => false,
    };
    let (sink, capacity) = (name(&link.to).unwrap_or_default(), link.capacity);
    if !shared(link) {
        return;
    }
    let differs = |other: &&LinkDraft| other.capacity != capacity && name(&other.to).as_ref() == Some(&sink);
    let other = before.iter().filter(differs).find(|other| shared(other));
    if let Some(other) = other {
        let (mine, its) = (size_text(link.capacity), size_text(other.capacity));
        let what = format!("this link's capacity is {mine}, that of the link in line {} is {its}", other.line);
        let help = format!("links into {} share its standard input: give them one capacity", quoted(&sink));
        reader.problem(link.capacity_span.clone(), what, help);
    }
}

/// A sink that keeps its links apart must have enough descriptors for them.
fn not_too_many(reader: &mut Reader<'_>, link: &LinkDraft, before: &[LinkDraft], drafts: &[Draft]) {
    let Some(to) = &link.to else {
        return;
    };
    let count = |link: &LinkDraft| match (link.source(drafts), link.sink(drafts)) {
        (Some(from), Some(sink)) if sink.name() == to.value => {
            let apart = sink.plugin.is_some() || link.protocol(from, sink) == Protocol::Records;
            if apart { from.instances } else { 0 }
        }
        _ => 0,
    };
    let earlier: u64 = before.iter().map(count).sum();
    let all = earlier.saturating_add(count(link));
    // Report it once, at the link that exceeds the limit.
    if earlier <= MAX_INTO && all > MAX_INTO {
        let what = format!("{all} links into {} are too many", quoted(&to.value));
        let help = format!(
            "at most {MAX_INTO}, instances of a source included: each link takes 4 or 5 descriptors of its sink's; \
             share them out among several"
        );
        reader.problem(to.span.clone(), what, help);
    }
}

/// A link must be able to do what its source asks of it.
fn asked(reader: &mut Reader<'_>, link: &LinkDraft, drafts: &[Draft]) {
    if !link.stream.is_stdout() {
        return;
    }
    let (Some(source), Some(sink)) = (link.source(drafts), link.sink(drafts)) else {
        return;
    };
    let can_be_sink = sink.plugin.is_none_or(|plugin| plugin.sink);
    if let (Some(saved), Protocol::Lines, true) = (&source.asks.saved, link.protocol(source, sink), can_be_sink) {
        let Saved { setting, without, span } = saved;
        let what =
            format!("{} gets plain lines and can't say what it has saved, as {setting} needs", quoted(sink.name()));
        let help = match sink.child.program {
            Program::Command(_) => format!("set {without}, or link to {}", sinks()),
            Program::Plugin(_) => format!("leave `protocol` out, or set {without}"),
        };
        reader.problem(span.clone().unwrap_or_else(|| link.to_span()), what, help);
    }
    let Some(Largest { key, bytes, span }) =
        source.asks.largest.as_ref().filter(|asked| asked.bytes > link.capacity / 4)
    else {
        return;
    };
    let (message, capacity) = (size_text(*bytes), size_text(link.capacity));
    let (span, what, help) = match span {
        Some(span) => (
            span,
            format!("{key}, {message}, is more than a quarter of what the link holds, {capacity}"),
            format!("at most {}, or more capacity for the link in line {}", size_text(link.capacity / 4), link.line),
        ),
        None => {
            let name = source.plugin.map_or("", |plugin| plugin.name);
            (
                &link.capacity_span,
                format!("capacity, {capacity}, is less than four times {name}'s {key}, {message}"),
                format!("at least {}, or a lower {key}", size_text(bytes * 4)),
            )
        }
    };
    reader.problem(span.clone(), what, help);
}

/// The plugins that can be a sink, with their articles.
fn sinks() -> String {
    let sinks: Vec<String> = PLUGINS.iter().filter(|plugin| plugin.sink).map(|plugin| plugin.one()).collect();
    sinks.join(" or ")
}

impl LinkDraft {
    fn to_span(&self) -> Span {
        self.to.as_ref().map_or_else(|| self.span.clone(), |to| to.span.clone())
    }
}

/// A plugin without a link is of no use.
fn unlinked(reader: &mut Reader<'_>, links: &[LinkDraft], drafts: &[Draft]) {
    for draft in drafts {
        let is = |end: &Option<Placed<String>>| end.as_ref().is_some_and(|end| end.value == draft.name());
        let (out, inward) = (links.iter().any(|link| is(&link.from)), links.iter().any(|link| is(&link.to)));
        let Some(plugin) = draft.plugin else {
            continue;
        };
        let name = draft.name();
        // A link that is the wrong way round has its own problem.
        if plugin.source && !out && !inward {
            let what = format!("{} has no link: its messages would be saved nowhere", quoted(name));
            reader.missing(
                draft.span.clone(),
                what,
                format!("add [[links]] with from = \"{name}\" and to = {}", sinks()),
            );
        }
        if plugin.sink && !inward && !out {
            let what = format!("{} has no link: it has nothing to save", quoted(name));
            reader.missing(draft.span.clone(), what, format!("add [[links]] with to = \"{name}\" and from = a source"));
        }
    }
}
