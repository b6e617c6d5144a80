//! The other end of a connection.

use crate::link::record;
use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};

/// A client, as the log and the records of its messages identify it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// A client on the network.
    Net(SocketAddr),
}

impl Peer {
    /// The address that `allow` and `max_connections_per_address` apply to.
    pub(super) fn ip(self) -> IpAddr {
        match self {
            Peer::Net(address) => address.ip(),
        }
    }

    /// As it appears in records.
    pub(super) fn in_record(self) -> record::Peer {
        match self {
            Peer::Net(address) => record::Peer::Net(address),
        }
    }
}

impl From<SocketAddr> for Peer {
    /// An IPv4 client of an IPv6 socket is shown, counted and matched as an IPv4 client.
    fn from(address: SocketAddr) -> Peer {
        Peer::Net(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

/// As the message file shows it.
impl Display for Peer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Net(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_client_of_an_ipv6_socket_is_an_ipv4_client() {
        for (accepted, shown) in [
            ("[::ffff:192.0.2.1]:7", "192.0.2.1:7"),
            ("192.0.2.1:7", "192.0.2.1:7"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
        ] {
            let peer = Peer::from(accepted.parse::<SocketAddr>().expect("an address"));
            let same = shown.parse::<SocketAddr>().expect("an address");
            assert_eq!((peer.to_string().as_str(), peer.ip()), (shown, same.ip()));
            assert_eq!(peer.in_record(), record::Peer::Net(same));
        }
    }
}
