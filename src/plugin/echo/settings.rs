//! The settings of `echo`, as the configuration's check writes them and the
//! plugin reads them (JSON in $PLUMBD_SETTINGS).

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// `[children.NAME.settings]` of an echo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What must have happened to a message before its echo leaves.
    pub echo_after: EchoAfter,
    /// Where a message ends.
    pub framing: Framing,
    /// Milliseconds of silence after which bytes with no newline become a message.
    pub partial_after_ms: u64,
    /// Bytes; longer messages are saved in parts.
    pub max_message: usize,
    /// At the limit new clients wait in the backlog.
    pub max_connections: usize,
    /// 0: no limit.
    pub max_connections_per_address: usize,
    /// IPv6 addresses that share so many bits are one address to that limit.
    pub ipv6_prefix: u8,
    /// Milliseconds; 0: none.
    pub idle_timeout_ms: u64,
    /// Milliseconds in which a client takes nothing of what is due to it; 0: none.
    pub send_timeout_ms: u64,
    /// Milliseconds of silence until the peer is asked whether it is there; 0: never.
    pub keepalive_ms: u64,
    /// Bytes of buffers that all connections hold together.
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
    /// Each read is one.
    Read,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            echo_after: EchoAfter::Saved,
            framing: Framing::Line,
            partial_after_ms: 1000,
            max_message: 64 * 1024,
            max_connections: 10_000,
            max_connections_per_address: 0,
            ipv6_prefix: 64,
            idle_timeout_ms: 0,
            send_timeout_ms: 60_000,
            keepalive_ms: 60_000,
            max_memory: 256 << 20,
            allow: vec![IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())],
        }
    }
}
