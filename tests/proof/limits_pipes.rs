//! Pipes that are smaller than what the configuration asks for.

use crate::clients_service::{Service, Wanted, counts};
use crate::limits::as_user;
use crate::trial::{Tried, scaled};

/// The default capacity of each of the two pipes of a link.
const USUAL: u64 = 1 << 20;
/// How many more links there are than pages for them.
const MORE: u64 = 8;
/// The most instances that a child may have.
const MOST_LINKS: u64 = 256;
/// The largest capacity that a configuration may have.
const MOST_ASKED: u64 = 1 << 30;

/// The limits of this machine (pipe(7), "/proc files").
struct Limits {
    /// The limit for all pipes of a user together, in bytes.
    of_user: u64,
    /// The limit for one pipe, in bytes.
    of_pipe: u64,
}

impl Limits {
    fn read() -> Limits {
        let number = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/fs/{name}")).unwrap();
            text.trim().parse::<u64>().unwrap()
        };
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap();
        Limits {
            of_user: number("pipe-user-pages-soft") * u64::try_from(page).unwrap(),
            of_pipe: number("pipe-max-size"),
        }
    }

    /// A number of links that exceeds the limit of a user.
    fn links(&self) -> u64 {
        self.of_user / (2 * USUAL) + MORE
    }

    /// A capacity that only root is granted.
    fn asked(&self) -> u64 {
        4 * self.of_pipe
    }
}

/// Why such limits can't be reached on this machine, if they can't.
pub(crate) fn missing() -> Option<String> {
    let limits = Limits::read();
    if limits.of_user == 0 || limits.links() > MOST_LINKS {
        return Some(format!("needs a fs.pipe-user-pages-soft that {MOST_LINKS} links are past"));
    }
    let right = (USUAL..=MOST_ASKED / 4).contains(&limits.of_pipe) && 2 * limits.of_pipe <= limits.of_user;
    (!right).then(|| "needs a fs.pipe-max-size of 1 MiB to half of what a user has".to_owned())
}

pub(crate) fn pipe_size(times: f64) -> Tried {
    let limits = Limits::read();
    let (links, asked) = (u32::try_from(limits.links()).unwrap(), limits.asked());
    let (messages, smallest, tiny, echoed, control) = many_links(links, times);
    let (granted, lone) = one_large(&limits, times);
    Tried {
        count: format!("{links} links of one user, {messages} messages, and a link of {asked} bytes"),
        outcome: format!(
            "{tiny} links got less than 1 MiB, down to {smallest} bytes, the large one {granted}: status and log say so; {echoed}; {lone}"
        ),
        control: format!(
            "each link carried messages; as root none is smaller, and nothing is said: {}; {control}",
            as_root(links)
        ),
    }
}

/// Runs one client for each instance, so that each link carries messages.
fn many_links(links: u32, times: f64) -> (u64, u64, usize, String, String) {
    let child = format!("instances = {links}");
    let wanted = Wanted { child: &child, echo: "max_connections = 1", ..Wanted::default() };
    let service = Service::start_after(&as_user(64_998), &wanted);
    let capacities: Vec<u64> = service.daemon.status().links.iter().map(|link| link.capacity_bytes).collect();
    assert_eq!(capacities.len(), links as usize);
    let tiny = capacities.iter().filter(|capacity| **capacity < USUAL).count();
    assert!(tiny > 0, "none was refused: {capacities:?}");
    let log = service.daemon.log();
    assert_eq!(log.matches("the kernel grants").count(), tiny, "{log}");
    let load = service.load(|plan| (plan.connections, plan.depth) = (links, 3));
    for instance in 0..links {
        service.wait_metric(&format!("echo.{instance}"), "messages", scaled(200, times).into());
    }
    let outcome = load.end_unnoticed();
    let smallest = capacities.into_iter().min().unwrap();
    let checked = service.end(&outcome.connections);
    (outcome.echoed(), smallest, tiny, counts(&checked.verdict), checked.control)
}

/// A link that is larger than an ordinary user is allowed to have.
fn one_large(limits: &Limits, times: f64) -> (u64, String) {
    let asked = limits.asked();
    let link = format!("capacity = \"{asked}B\"");
    let service = Service::start_after(&as_user(64_997), &Wanted { link: &link, ..Wanted::default() });
    let granted = service.daemon.link("echo", "logger").capacity_bytes;
    assert_eq!(granted, limits.of_pipe, "the most that an ordinary user may have");
    service.daemon.wait_log(&format!("the kernel grants {granted} of {asked} bytes"));
    let load = service.load(|_| ());
    service.wait_metric("echo", "messages", scaled(2000, times).into());
    let outcome = load.end_unnoticed();
    (granted, counts(&service.end(&outcome.connections).verdict))
}

/// A user with the capability is granted all of it.
fn as_root(links: u32) -> String {
    let child = format!("instances = {links}");
    let mut service = Service::start(&Wanted { child: &child, ..Wanted::default() });
    let smallest = service.daemon.status().links.iter().map(|link| link.capacity_bytes).min().unwrap();
    assert!(smallest == USUAL && !service.daemon.log().contains("the kernel grants"));
    service.daemon.stop();
    format!("{smallest} bytes each")
}
