//! Networks that clients come from.

use super::value::{Read, kind, quoted, wrong};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv6Addr};
use toml::de::DeValue;

/// A network that clients can come from. An IPv4-mapped network becomes the IPv4 network,
/// because an IPv4 client has an IPv4 address here, whatever socket it connected to
/// (RFC 4291, 2.5.5.2).
pub(crate) fn network(value: &DeValue<'_>) -> Read<IpNet> {
    const HELP: &str = "write an address and its prefix, as in \"10.0.0.0/8\" or \"::1/128\"";
    let text = match value {
        DeValue::String(text) => text,
        other => return wrong(format!("expected a network, found {}", kind(other)), HELP),
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

/// Whether a network contains all IPv4-mapped addresses, and others besides.
fn mapped_and_others(network: &IpNet) -> bool {
    matches!(network, IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some() && net.contains(&MAPPED))
}
