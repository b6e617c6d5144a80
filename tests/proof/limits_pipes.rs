//! Pipes that are smaller than what was asked for.

use crate::clients_service::{Service, Wanted, counts};
use crate::limits::as_user;
use crate::trial::{Tried, scaled};

/// Each has two pipes of 1 MiB, 512 pages; a user has 16,384.
const LINKS: u32 = 40;
/// Asked for where 1 MiB is the most.
const ASKED: u64 = 4 << 20;

pub(crate) fn pipe_size(times: f64) -> Tried {
    let (messages, smallest, tiny, echoed, control) = many_links(times);
    let (granted, lone) = one_large(times);
    Tried {
        count: format!("{LINKS} links of one user, {messages} messages, and a link of {ASKED} bytes"),
        outcome: format!(
            "{tiny} links got less than 1 MiB, down to {smallest} bytes, the large one {granted}: status and log say so; {echoed}; {lone}"
        ),
        control: format!(
            "each link carried messages; as root none is smaller, and nothing is said: {}; {control}",
            as_root()
        ),
    }
}

/// One client for each instance, so that each link carries messages.
fn many_links(times: f64) -> (u64, u64, usize, String, String) {
    let child = format!("instances = {LINKS}");
    let wanted = Wanted { child: &child, echo: "max_connections = 1", ..Wanted::default() };
    let service = Service::start_after(&as_user(64_998), &wanted);
    let capacities: Vec<u64> = service.daemon.status().links.iter().map(|link| link.capacity_bytes).collect();
    assert_eq!(capacities.len(), LINKS as usize);
    let tiny = capacities.iter().filter(|capacity| **capacity < 1 << 20).count();
    assert!(tiny > 0, "none was refused: {capacities:?}");
    let log = service.daemon.log();
    assert_eq!(log.matches("the kernel grants").count(), tiny, "{log}");
    let load = service.load(|plan| (plan.connections, plan.depth) = (LINKS, 3));
    for instance in 0..LINKS {
        service.wait_metric(&format!("echo.{instance}"), "messages", scaled(200, times).into());
    }
    let outcome = load.end_unnoticed();
    let smallest = capacities.into_iter().min().unwrap();
    let checked = service.end(&outcome.connections);
    (outcome.echoed(), smallest, tiny, counts(&checked.verdict), checked.control)
}

/// A link that is larger than an ordinary user may have.
fn one_large(times: f64) -> (u64, String) {
    let link = format!("capacity = \"{ASKED}B\"");
    let service = Service::start_after(&as_user(64_997), &Wanted { link: &link, ..Wanted::default() });
    let granted = service.daemon.link("echo", "logger").capacity_bytes;
    let most = std::fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap();
    assert_eq!(granted, most.trim().parse::<u64>().unwrap(), "the most that he may have");
    service.daemon.wait_log(&format!("the kernel grants {granted} of {ASKED} bytes"));
    let load = service.load(|_| ());
    service.wait_metric("echo", "messages", scaled(2000, times).into());
    let outcome = load.end_unnoticed();
    (granted, counts(&service.end(&outcome.connections).verdict))
}

/// Who has the capability is granted all of it.
fn as_root() -> String {
    let child = format!("instances = {LINKS}");
    let mut service = Service::start(&Wanted { child: &child, ..Wanted::default() });
    let smallest = service.daemon.status().links.iter().map(|link| link.capacity_bytes).min().unwrap();
    assert!(smallest == 1 << 20 && !service.daemon.log().contains("the kernel grants"));
    service.daemon.stop();
    format!("{smallest} bytes each")
}
