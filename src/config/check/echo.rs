//! What only an echo asks.

use super::super::keys;
use super::super::model::Address;
use super::super::table::{Placed, Reader, Section, Span};
use super::super::value::{self, Read, quoted, wrong};
use super::child;
use crate::plugin::echo::settings::{EchoAfter, Framing, Settings};
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;
use toml::de::DeValue;

/// What the check of its link needs of an echo.
#[derive(Debug)]
pub(super) struct Echo {
    pub(super) echo_after: EchoAfter,
    /// Where that is said; `None` where it is the default.
    pub(super) echo_after_span: Option<Span>,
    /// Bytes.
    pub(super) max_message: u64,
    /// Where that is said; `None` where it is the default.
    pub(super) max_message_span: Option<Span>,
}

pub(super) fn read(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    title: &str,
    listen: &[Placed<Address>],
) -> (child::Settings, serde_json::Value) {
    listening(reader, section, listen);
    let inner = reader.inner(section, "settings", title, keys::ECHO);
    let after = [("queued", EchoAfter::Queued), ("saved", EchoAfter::Saved), ("synced", EchoAfter::Synced)];
    let framing = [("line", Framing::Line), ("read", Framing::Read)];
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let max_message = reader.size(&inner, "max_message");
    let settings = Settings {
        echo_after: reader.read(&inner, "echo_after", value::choice(&after)),
        framing: reader.read(&inner, "framing", value::choice(&framing)),
        partial_after_ms: millis(reader.duration(&inner, "partial_after")),
        max_message: count(max_message),
        max_connections: count(reader.integer(&inner, "max_connections")),
        max_connections_per_address: count(reader.integer(&inner, "max_connections_per_address")),
        idle_timeout_ms: millis(reader.duration(&inner, "idle_timeout")),
        allow: allow(reader, &inner),
    };
    let echo = Echo {
        echo_after: settings.echo_after,
        echo_after_span: inner.has("echo_after").then(|| inner.place("echo_after")),
        max_message,
        max_message_span: inner.has("max_message").then(|| inner.place("max_message")),
    };
    let json = serde_json::to_value(&settings).expect("settings are plain data with names for keys");
    (child::Settings::Echo(echo), json)
}

fn listening(reader: &mut Reader<'_>, section: &Section<'_>, listen: &[Placed<Address>]) {
    if section.lacks("listen") {
        let what = format!("{} is an echo and listens nowhere", section.title);
        reader.missing(section.span.clone(), what, r#"add listen = ["tcp://127.0.0.1:7007"]"#);
    } else if section.is_empty_list("listen") {
        reader.problem(
            section.place("listen"),
            "the list is empty: echo would listen nowhere",
            r#"as in listen = ["tcp://127.0.0.1:7007"]"#,
        );
    }
    for placed in listen {
        let kind = match placed.value {
            Address::Tcp(_) => continue,
            Address::Udp(_) => "udp://",
            Address::Unix(_) => "unix:",
        };
        let what = format!("echo does not serve {kind} addresses yet");
        reader.problem(placed.span.clone(), what, "write tcp://HOST:PORT");
    }
}

fn allow(reader: &mut Reader<'_>, inner: &Section<'_>) -> Vec<IpNet> {
    if !inner.has("allow") {
        return Settings::default().allow;
    }
    let networks = reader.list(inner, "allow", r#"["10.0.0.0/8", "::1/128"]"#, network);
    if inner.is_empty_list("allow") {
        reader.problem(inner.place("allow"), "no client could connect: the list is empty", "leave it out to allow all");
    }
    networks.into_iter().map(|placed| placed.value).collect()
}

fn network(value: &DeValue<'_>) -> Read<IpNet> {
    const HELP: &str = "write an address and its prefix, as in \"10.0.0.0/8\" or \"::1/128\"";
    let text = match value {
        DeValue::String(text) => text,
        other => return wrong(format!("expected a network, found {}", value::kind(other)), HELP),
    };
    match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(network), _) => Ok(network),
        (_, Ok(address)) => Ok(IpNet::from(address)),
        _ => wrong(format!("{} is no network", quoted(text)), HELP),
    }
}
