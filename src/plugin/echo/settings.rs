//! The settings of `echo`: their keys, the type that the server reads them into, and the
//! checks between them. Also its metrics.

use crate::link::record::MESSAGE_MAX;
use crate::plugin::Metric;
use crate::plugin::check::{Asks, Check, Largest, Saved};
use crate::schema::kind::{Keys, Kind, key};
use crate::schema::settings::{bytes, defaults, millis, read, typed};
use crate::schema::value::{YEAR, size_text};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

const NOTHING: Duration = Duration::ZERO;
const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const MAX_CONNECTIONS: u64 = 1_000_000;
/// TCP_KEEPIDLE takes 32,767 s at most (MAX_TCP_KEEPIDLE in the kernel's net/tcp.h).
const KEEPALIVE_MAX: Duration = Duration::from_secs(9 * 3600);
/// `max_memory` has room for at least this many of the longest messages.
const MESSAGES: usize = 8;

/// `[children.NAME.settings]` of an echo.
pub const KEYS: Keys = &[
    key(
        "echo_after",
        Kind::Words(&[
            ("queued", "in a pipe that the supervisor holds; it survives SIGKILL of any child"),
            ("saved", "in the file, where every reader sees it; it survives SIGKILL of all processes at once"),
            ("synced", "on the disk, after fdatasync(2) returned; it survives power loss"),
        ]),
        r#""saved""#,
        "queued | saved | synced: where a message must be before its echo is sent",
        "Where a message must be before its echo is sent.",
    ),
    key(
        "framing",
        Kind::Words(&[("line", "a message ends at a newline"), ("read", "each read from the socket is a message")]),
        r#""line""#,
        "line: a message ends at a newline; read: each read is a message",
        "What counts as a message. In either case, clients get every byte back as it came.",
    ),
    key(
        "partial_after",
        Kind::Duration(MILLISECOND, HOUR),
        r#""1s""#,
        "bytes without a newline become a message when idle for this long",
        "Bytes without a newline become a message when the connection has been idle for this long. A lost segment \
         takes 0.2 s or more to arrive, so with less than the default, one line may be saved as two.",
    ),
    key(
        "max_message",
        Kind::Size(1, MESSAGE_MAX as u64),
        r#""64KiB""#,
        "longer messages are saved in parts, in order, none lost",
        "Longer messages are saved in parts, in order, none lost. `max_message` can be at most a quarter of the link's \
         capacity.",
    ),
    key(
        "max_connections",
        Kind::Integer(1, MAX_CONNECTIONS),
        "10000",
        "at the limit, new clients wait in the backlog",
        "How many clients are served at once. Further clients wait in the backlog; none is refused.",
    ),
    key(
        "max_connections_per_address",
        Kind::Integer(0, MAX_CONNECTIONS),
        "0",
        "0: no limit",
        "How many clients of one address are served at once, by all instances together. Further clients are closed at \
         once and counted. 0: no limit. If two clients reach two instances at the same instant, both may be refused \
         although there was room for one.",
    ),
    key(
        "ipv6_prefix",
        Kind::Integer(1, 128),
        "64",
        "IPv6 addresses that share this many bits count as one",
        "IPv6 addresses that share this many bits count as one address for `max_connections_per_address`, because a \
         host usually has all addresses of a /64. An IPv4-mapped address is an IPv4 address.",
    ),
    key(
        "idle_timeout",
        Kind::Duration(NOTHING, YEAR),
        r#""0s""#,
        "a client that sends nothing for this long is disconnected; 0s: never",
        "A client that sends nothing for this long is disconnected. 0s: never.",
    ),
    key(
        "send_timeout",
        Kind::Duration(NOTHING, YEAR),
        r#""60s""#,
        "a client that takes none of its echoes for this long is closed; 0s: never",
        "A client that takes none of its echoes for this long, or up to a quarter longer, is closed with a reset and \
         counted as `send_timeouts`. What the client's kernel acknowledges counts as taken, so a client that reads \
         slowly but steadily stays connected. But a kernel whose buffer was full acknowledges nothing until a part of \
         it, about a sixteenth, is free again. 0s: never.",
    ),
    key(
        "keepalive",
        Kind::Duration(NOTHING, KEEPALIVE_MAX),
        r#""60s""#,
        "a client is probed after being silent for this long; 0s: never",
        "After this long without a byte (rounded up to whole seconds), the kernel asks the client's kernel whether it \
         is still there. During the next period of the same length, it asks three more times. So a client that has \
         vanished is closed after twice this long. If an echo is due to the client, `send_timeout` closes it instead. \
         0s: never.",
    ),
    key(
        "max_memory",
        Kind::Size(1 << 20, 1 << 40),
        r#""256MiB""#,
        "for all connections together; beyond it, no further client is read",
        "How many bytes all connections together may hold: messages that are incomplete, that are not saved yet, or \
         whose echoes the client has not taken. Beyond that, a client that holds nothing is not read until others \
         release memory. Clients are then served in the order in which they came, and nothing is lost. A part is \
         reserved for the first 4 KiB of every client, so clients that take no echoes never make clients with short \
         messages wait. `max_memory` must be at least 8 times `max_message`. In addition, the kernel holds up to some \
         400 KiB for a client that is not read and does not read.",
    ),
    key(
        "allow",
        Kind::List(&Kind::Network),
        r#"["0.0.0.0/0", "::/0"]"#,
        "networks that may connect; others are closed at once and counted",
        "Networks whose clients are served, as in `10.0.0.0/8` or `::1`. Other clients are closed at once and counted. \
         IPv4-mapped networks, as in `::ffff:10.0.0.0/104`, are IPv4 networks.",
    )
    .help(r#"as in allow = ["10.0.0.0/8", "::1/128"]"#),
];

/// The slots of its metrics page, in order.
pub const METRICS: &[Metric] = &[
    Metric::gauge("connections", "connections", "Clients that are connected."),
    Metric::counter("accepted", "connections", "Clients that were accepted."),
    Metric::counter(
        "refused",
        "connections",
        "Clients that were closed at once because of `allow` or `max_connections_per_address`.",
    ),
    Metric::counter("messages", "messages", "Messages that were received.").rated(),
    Metric::counter("bytes", "bytes", "Bytes that were received.").rated(),
    Metric::counter("send_timeouts", "connections", "Clients that were closed because of `send_timeout`."),
    Metric::gauge("memory", "bytes", "What all connections hold, out of `max_memory`."),
];

/// `[children.NAME.settings]` of an echo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What must have happened to a message before its echo leaves.
    pub echo_after: EchoAfter,
    /// Where a message ends.
    pub framing: Framing,
    /// Milliseconds of silence after which bytes with no newline become a message.
    #[serde(rename = "partial_after", deserialize_with = "millis")]
    pub partial_after_ms: u64,
    /// Bytes; longer messages are saved in parts.
    #[serde(deserialize_with = "bytes")]
    pub max_message: usize,
    /// At the limit, new clients wait in the backlog.
    pub max_connections: usize,
    /// 0 means no limit.
    pub max_connections_per_address: usize,
    /// IPv6 addresses that share this many bits count as one address to that limit.
    pub ipv6_prefix: u8,
    /// Milliseconds; 0 means no limit.
    #[serde(rename = "idle_timeout", deserialize_with = "millis")]
    pub idle_timeout_ms: u64,
    /// How many milliseconds a client may take nothing that is due to it; 0 means no limit.
    #[serde(rename = "send_timeout", deserialize_with = "millis")]
    pub send_timeout_ms: u64,
    /// Milliseconds of silence until the kernel probes the client; 0 means never.
    #[serde(rename = "keepalive", deserialize_with = "millis")]
    pub keepalive_ms: u64,
    /// The most bytes that the buffers of all connections hold.
    #[serde(deserialize_with = "bytes")]
    pub max_memory: usize,
    /// Networks that may connect.
    pub allow: Vec<IpNet>,
}

/// `echo_after`, section "guarantee" of the manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EchoAfter {
    /// It is in a pipe that the supervisor holds.
    Queued,
    /// It is in the file, as every reader of it sees.
    Saved,
    /// It is on the disk.
    Synced,
}

/// `framing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Framing {
    /// A message ends at a newline.
    Line,
    /// Each read is a message.
    Read,
}

impl Settings {
    /// Reads them from JSON. A missing setting has its default.
    ///
    /// # Errors
    /// They are not settings of an echo.
    pub fn read(json: &str) -> Result<Settings, String> {
        read(KEYS, json)
    }
}

impl Default for Settings {
    fn default() -> Settings {
        defaults(KEYS)
    }
}

/// Checks more than each key's own range, and returns what its outbound link must do.
pub(crate) fn check(check: &mut Check<'_, '_>) -> Asks {
    let settings: Settings = typed(KEYS, check.values.clone()).expect("what fits the rows fits the type");
    memory(check, &settings);
    allow(check, &settings.allow);
    let section = check.section;
    let place = |key| section.has(key).then(|| section.place(key));
    let saved = match settings.echo_after {
        EchoAfter::Queued => None,
        EchoAfter::Saved => Some(r#"echo_after = "saved""#),
        EchoAfter::Synced => Some(r#"echo_after = "synced""#),
    };
    Asks {
        saved: saved.map(|setting| Saved { setting, without: r#"echo_after = "queued""#, span: place("echo_after") }),
        largest: Some(Largest { key: "max_message", bytes: settings.max_message as u64, span: place("max_message") }),
    }
}

/// Checks that all connections together have room for several of the longest messages.
fn memory(check: &mut Check<'_, '_>, settings: &Settings) {
    let least = settings.max_message.saturating_mul(MESSAGES);
    if settings.max_memory >= least {
        return;
    }
    let text = |bytes: usize| size_text(bytes as u64);
    // The problem is at the key that the file gives, because both defaults fit each other.
    let (key, other) = match check.section.has("max_memory") {
        true => ("max_memory", format!("max_message is {}", text(settings.max_message))),
        false => ("max_message", format!("max_memory is {}", text(settings.max_memory))),
    };
    let what = format!("{key}: {other}, and max_memory must be at least {MESSAGES} times max_message");
    check.problem(key, what, format!("as in max_memory = \"{}\"", text(least)));
}

/// Checks that at least one client can connect to at least one address.
fn allow(check: &mut Check<'_, '_>, networks: &[IpNet]) {
    if check.section.is_empty_list("allow") {
        check.problem("allow", "no client could connect: the list is empty", "leave it out to allow all");
    }
    let addresses: Vec<IpAddr> = check.listen.iter().filter_map(|placed| placed.value.ip()).collect();
    let can_come = |to: &IpAddr| networks.iter().any(|network| can_come(*to, network));
    if !networks.is_empty() && !addresses.is_empty() && !addresses.iter().any(can_come) {
        let (there, here) = if addresses[0].is_ipv4() { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
        let what = format!("no client could connect: it listens on {here} and allows {there} alone");
        check.problem("allow", what, format!("add a network of {here}"));
    }
}

/// Whether clients of that network can connect to that address. If the families differ, only
/// to `[::]`, which a service manager may have bound for both (ipv6(7)).
fn can_come(to: IpAddr, network: &IpNet) -> bool {
    to == IpAddr::V6(Ipv6Addr::UNSPECIFIED) || to.is_ipv4() == network.addr().is_ipv4()
}
