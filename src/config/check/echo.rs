//! What only an echo asks.

use super::super::keys;
use super::super::model::Address;
use super::super::table::{Placed, Reader, Section, Span};
use super::super::value::{self, Read, quoted, wrong};
use super::child;
use crate::plugin::echo::settings::{EchoAfter, Framing, Settings};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv6Addr};
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
        ipv6_prefix: u8::try_from(reader.integer(&inner, "ipv6_prefix")).unwrap_or(u8::MAX),
        idle_timeout_ms: millis(reader.duration(&inner, "idle_timeout")),
        send_timeout_ms: millis(reader.duration(&inner, "send_timeout")),
        keepalive_ms: millis(reader.duration(&inner, "keepalive")),
        max_memory: count(reader.size(&inner, "max_memory")),
        allow: allow(reader, &inner, listen),
    };
    memory(reader, &inner, &settings);
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

/// All connections together need room for some messages of the longest.
fn memory(reader: &mut Reader<'_>, inner: &Section<'_>, settings: &Settings) {
    const MESSAGES: usize = 8;
    let least = settings.max_message.saturating_mul(MESSAGES);
    if settings.max_memory >= least {
        return;
    }
    // At the one that the file gives; the default of the other fits the default of this.
    let (key, other) = match inner.has("max_memory") {
        true => ("max_memory", format!("max_message is {}", text(settings.max_message))),
        false => ("max_message", format!("max_memory is {}", text(settings.max_memory))),
    };
    let what = format!("{key}: {other}, and max_memory must be at least {MESSAGES} times max_message");
    reader.problem(inner.place(key), what, format!("as in max_memory = \"{}\"", text(least)));
}

fn text(bytes: usize) -> String {
    value::size_text(u64::try_from(bytes).unwrap_or(u64::MAX))
}

fn allow(reader: &mut Reader<'_>, inner: &Section<'_>, listen: &[Placed<Address>]) -> Vec<IpNet> {
    if !inner.has("allow") {
        return Settings::default().allow;
    }
    let networks = reader.list(inner, "allow", r#"["10.0.0.0/8", "::1/128"]"#, network);
    if inner.is_empty_list("allow") {
        reader.problem(inner.place("allow"), "no client could connect: the list is empty", "leave it out to allow all");
    }
    let addresses: Vec<IpAddr> = listen.iter().filter_map(|placed| placed.value.ip()).collect();
    let may_come = |to: &IpAddr| networks.iter().any(|placed| may_come(*to, &placed.value));
    if !networks.is_empty() && !addresses.is_empty() && !addresses.iter().any(may_come) {
        let (there, here) = if addresses[0].is_ipv4() { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
        let what = format!("no client could connect: it listens on {here} and allows {there} alone");
        reader.problem(inner.place("allow"), what, format!("add a network of {here}"));
    }
    networks.into_iter().map(|placed| placed.value).collect()
}

/// Whether clients of that network can come to that address: to one of the other family
/// only if it is `[::]`, which a service manager may have bound for both (ipv6(7)).
fn may_come(to: IpAddr, network: &IpNet) -> bool {
    to == IpAddr::V6(Ipv6Addr::UNSPECIFIED) || to.is_ipv4() == network.addr().is_ipv4()
}

/// A network that clients can come from. Of IPv4-mapped ones the IPv4 ones are meant:
/// an IPv4 client has an IPv4 address, whatever socket it came to (RFC 4291, 2.5.5.2).
fn network(value: &DeValue<'_>) -> Read<IpNet> {
    const HELP: &str = "write an address and its prefix, as in \"10.0.0.0/8\" or \"::1/128\"";
    let text = match value {
        DeValue::String(text) => text,
        other => return wrong(format!("expected a network, found {}", value::kind(other)), HELP),
    };
    let network = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(network), _) => canonical(network),
        (_, Ok(address)) => IpNet::from(address.to_canonical()),
        _ => return wrong(format!("{} is no network", quoted(text)), HELP),
    };
    let first = network.network();
    let all = if first.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    let no_clients = format!("no client comes from {}", quoted(text));
    match first {
        _ if network.prefix_len() == 0 => Ok(network),
        _ if first.is_unspecified() && network.prefix_len() == network.max_prefix_len() => {
            wrong(no_clients, format!("for all write \"{all}\""))
        }
        _ if first.is_multicast() => wrong(format!("{no_clients}: it is multicast"), "write where they come from"),
        _ if mapped_and_others(&network) => wrong(
            format!("{} has the IPv4-mapped addresses and others", quoted(text)),
            "write an IPv4 network for the former, as in \"0.0.0.0/0\", and \"::/0\" for IPv6",
        ),
        _ => Ok(network),
    }
}

const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);

fn canonical(network: IpNet) -> IpNet {
    let v4 = match network {
        IpNet::V6(net) if MAPPED.contains(&net) => {
            net.addr().to_ipv4_mapped().map(|ip| Ipv4Net::new_assert(ip, net.prefix_len() - MAPPED.prefix_len()))
        }
        _ => None,
    };
    v4.map_or(network, IpNet::from)
}

/// A prefix within the mapped ones that is too short to mean them alone.
fn mapped_and_others(network: &IpNet) -> bool {
    matches!(network, IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some() && net.contains(&MAPPED))
}
