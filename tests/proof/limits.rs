//! There are no more descriptors, processes, memory or pipes: plumbd reports that,
//! and goes on when there are some again.

use crate::clients_service::{Service, Wanted, counts};
use crate::daemon::wait_for;
use crate::limits_pipes;
use crate::limits_starved;
use crate::load::generator::Connection;
use crate::load::message;
use crate::strace::Strace;
use crate::trial::{Trial, Tried, needs_command, needs_root, scaled};
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial {
            name: "limits/emfile-echo",
            fault: "echo has descriptors for a few clients (RLIMIT_NOFILE), and two hundred come",
            promise: "those that are in are served, the others wait; status and log say so; served when there are some",
            missing: || needs_command("strace"),
            attempt: emfile_echo,
        },
        Trial {
            name: "limits/emfile-supervisor",
            fault: "the supervisor has no descriptor left (prlimit) when children die and it is asked to reload",
            promise: "the log says so; children are restarted and a reload works when there are some again; nothing echoed is lost",
            missing: || needs_root().or_else(|| ["prlimit", "setpriv", "strace"].into_iter().find_map(needs_command)),
            attempt: limits_starved::emfile_supervisor,
        },
        Trial {
            name: "limits/enomem-spawn",
            fault: "fork fails with ENOMEM (strace inject) when children die",
            promise: "log and status say so; children are restarted when there is memory again; nothing echoed is lost",
            missing: || needs_root().or_else(|| needs_command("strace")),
            attempt: limits_starved::enomem_spawn,
        },
        Trial {
            name: "limits/nproc",
            fault: "fork is refused (RLIMIT_NPROC, as an ordinary user) when children die",
            promise: "log and status say so; children are restarted when fork is allowed again; nothing echoed is lost",
            missing: || needs_root().or_else(|| ["prlimit", "setpriv", "strace"].into_iter().find_map(needs_command)),
            attempt: limits_starved::nproc,
        },
        Trial {
            name: "limits/pipe-size",
            fault: "more links of an ordinary user than pipe-user-pages-soft has pages for; and a link above pipe-max-size",
            promise: "log and status say what was granted; every link works, down to one page; nothing echoed is lost",
            missing: || needs_root().or_else(|| needs_command("setpriv")).or_else(limits_pipes::missing),
            attempt: limits_pipes::pipe_size,
        },
    ]
}

const COMERS: u32 = 200;

/// More clients than the echo has descriptors for.
fn emfile_echo(times: f64) -> Tried {
    let told = "cannot accept clients for now: Too many open files";
    let service = Service::start(&Wanted { child: "limits = { nofile = 64 }", ..Wanted::default() });
    let load = service.load(|_| ());
    service.wait_metric("echo", "connections", 20);
    let rounds = scaled(5, times);
    let (mut connections, mut least, mut told_of) = (Vec::new(), COMERS, 0);
    for round in 0..rounds {
        let comers = come(&service, 1000 + round * COMERS);
        wait_for("status says so", || service.daemon.child("echo").problem.filter(|p| p.starts_with(told)));
        told_of += 1;
        let inside = u32::try_from(service.metric("echo", "connections")).unwrap();
        assert!(inside < 64, "{inside} clients with 64 descriptors");
        least = least.min(20 + COMERS - inside);
        // Those that were accepted are served meanwhile.
        service.wait_progress();
        service.wait_progress();
        // When one leaves, the next can be accepted.
        connections.extend(comers.into_iter().map(answered));
        wait_for("the status no longer says so", || service.daemon.child("echo").problem.is_none().then_some(()));
    }
    let served = connections.len();
    let log = service.daemon.log();
    let says = (log.matches(told).count(), log.matches("accepts clients again").count());
    assert!(says.0 >= 1 && says.1 >= 1, "{log}");
    let refused = service.metric("echo", "refused");
    assert_eq!(refused, 0, "clients that echo refused");
    let outcome = load.end_unnoticed();
    let meanwhile = outcome.echoed();
    connections.extend(outcome.connections);
    let checked = service.end(&connections);
    Tried {
        count: format!(
            "{rounds} times {COMERS} clients more than echo has descriptors for, 20 others with {meanwhile} messages meanwhile"
        ),
        outcome: format!(
            "at least {least} waited at a time, {refused} refused, {served} served; status said so {told_of} times; {}",
            counts(&checked.verdict)
        ),
        control: format!("{}; without the limit {}; {}", nobody_is_let_in(told), nobody_waits(told), checked.control),
    }
}

/// The control: an echo whose accept4(2) goes on failing even if clients leave.
fn nobody_is_let_in(told: &str) -> String {
    let service = Service::start(&Wanted::default());
    let deaf = Strace::inject(service.daemon.child_pid("echo"), "accept4", "error=EMFILE");
    let comers = come(&service, 0);
    wait_for("status says so", || service.daemon.child("echo").problem.filter(|p| p.starts_with(told)));
    let mut first = &comers[0].0;
    first.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let error = first.read(&mut [0]).expect_err("it was served");
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    let inside = service.metric("echo", "connections");
    drop(deaf);
    first.set_read_timeout(None).unwrap();
    let connections: Vec<Connection> = comers.into_iter().map(answered).collect();
    service.end(&connections);
    format!("where accept4 goes on failing (strace), {inside} of {COMERS} are served")
}

/// The second control: an echo that has enough descriptors.
fn nobody_waits(told: &str) -> &'static str {
    let service = Service::start(&Wanted::default());
    let comers = come(&service, 0);
    service.wait_metric("echo", "connections", COMERS.into());
    assert!(service.daemon.child("echo").problem.is_none() && !service.daemon.log().contains(told));
    let connections: Vec<Connection> = comers.into_iter().map(answered).collect();
    service.end(&connections);
    "nobody waits and nothing is said"
}

/// Clients that have each sent a message, without waiting to be accepted.
fn come(service: &Service, first: u32) -> Vec<(std::net::TcpStream, Connection)> {
    let one = |number| {
        let mut stream = service.connect();
        stream.write_all(&line(number)).unwrap();
        let peer = stream.local_addr().unwrap().to_string();
        (stream, Connection { number, peer, length: 128, sent: 1, part: 0, echoed: 1, echoed_part: 0 })
    };
    (first..first + COMERS).map(one).collect()
}

/// Lets a client read its echo and leave.
fn answered((mut stream, connection): (std::net::TcpStream, Connection)) -> Connection {
    let mut echo = [0; 128];
    stream.read_exact(&mut echo).unwrap();
    assert!(echo[..] == line(connection.number)[..]);
    connection
}

fn line(number: u32) -> Vec<u8> {
    let mut line = Vec::new();
    message::append(number, 0, 128, &mut line);
    line
}

/// A shell script that runs the daemon as this user, in a folder of that user. The executable is
/// copied there, because the user may not be able to reach the place where it was built.
pub(crate) fn as_user(id: u32) -> String {
    format!(
        "cp \"$0\" plumbd && chown {id}:{id} . && \
         exec setpriv --reuid={id} --regid={id} --clear-groups -- ./plumbd run -c plumbd.toml"
    )
}
