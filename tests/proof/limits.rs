//! Descriptors, processes, memory and pipes that are refused: plumbd says so,
//! and goes on when there are some again.

use crate::clients_service::{Service, Wanted, counts};
use crate::daemon::{DEADLINE, kill, wait_for};
use crate::load::generator::Connection;
use crate::load::message;
use crate::trial::{Trial, Tried, needs_root, scaled};
use nix::libc::{SIGHUP, SIGKILL};
use plumbd::control::Request;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Output, Stdio};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial {
            name: "limits/emfile-echo",
            fault: "echo has descriptors for a few clients (RLIMIT_NOFILE), and two hundred come",
            promise: "those that are in are served, the others wait; status and log say so; served when there are some",
            missing: || None,
            attempt: emfile_echo,
        },
        Trial {
            name: "limits/emfile-supervisor",
            fault: "the supervisor has no descriptor left (prlimit) when children die and it is told to reload",
            promise: "the log says so; children and a reload come when there are some again; nothing echoed is lost",
            missing: || needs_root().or_else(|| needs_command("prlimit")).or_else(|| needs_command("setpriv")),
            attempt: emfile_supervisor,
        },
        Trial {
            name: "limits/enomem-spawn",
            fault: "fork fails with ENOMEM (strace inject) when children die",
            promise: "log and status say so; children come when there is memory again; nothing echoed is lost",
            missing: || needs_root().or_else(|| needs_command("strace")),
            attempt: enomem_spawn,
        },
        Trial {
            name: "limits/nproc",
            fault: "fork is refused (RLIMIT_NPROC, as an ordinary user) when children die",
            promise: "log and status say so; children come when there may be some again; nothing echoed is lost",
            missing: || needs_root().or_else(|| needs_command("prlimit")).or_else(|| needs_command("setpriv")),
            attempt: nproc,
        },
        Trial {
            name: "limits/pipe-size",
            fault: "40 links as an ordinary user, past pipe-user-pages-soft; and a link above pipe-max-size",
            promise: "log and status say what was granted; every link works, down to one page; nothing echoed is lost",
            missing: || needs_root().or_else(|| needs_command("setpriv")),
            attempt: crate::limits_pipes::pipe_size,
        },
    ]
}

fn needs_command(name: &str) -> Option<String> {
    let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).stdout(Stdio::null()).status().unwrap();
    (!found.success()).then(|| format!("needs {name}"))
}

const COMERS: u32 = 200;

/// More clients than the echo has descriptors for.
fn emfile_echo(times: f64) -> Tried {
    let told = "cannot accept clients for now: Too many open files";
    let service = Service::start(&Wanted { child: "limits = { nofile = 64 }", ..Wanted::default() });
    let load = service.load(|_| ());
    service.wait_metric("echo", "connections", 20);
    let rounds = scaled(5, times);
    let (mut connections, mut least) = (Vec::new(), COMERS);
    for round in 0..rounds {
        let comers = come(&service, 1000 + round * COMERS);
        wait_for("status says so", || service.daemon.child("echo").problem.filter(|p| p.starts_with(told)));
        let inside = u32::try_from(service.metric("echo", "connections")).unwrap();
        assert!(inside < 64, "{inside} clients with 64 descriptors");
        least = least.min(20 + COMERS - inside);
        // Those that are in are served meanwhile.
        service.wait_progress();
        service.wait_progress();
        // Each that leaves lets the next one in.
        connections.extend(comers.into_iter().map(answered));
        wait_for("the status says it no more", || service.daemon.child("echo").problem.is_none().then_some(()));
    }
    let log = service.daemon.log();
    let says = (log.matches(told).count(), log.matches("accepts clients again").count());
    assert!(says.0 >= 1 && says.1 >= 1, "{log}");
    let outcome = load.end_unnoticed();
    let meanwhile = outcome.echoed();
    connections.extend(outcome.connections);
    let checked = service.end(&connections);
    Tried {
        count: format!(
            "{rounds} times {COMERS} clients more than echo has descriptors for, 20 others with {meanwhile} messages meanwhile"
        ),
        outcome: format!(
            "at least {least} waited at a time, 0 refused, all served; status said so each time; {}",
            counts(&checked.verdict)
        ),
        control: format!("without the limit {}; {}", nobody_waits(told), checked.control),
    }
}

/// The same where there are enough.
fn nobody_waits(told: &str) -> &'static str {
    let service = Service::start(&Wanted::default());
    let comers = come(&service, 0);
    service.wait_metric("echo", "connections", COMERS.into());
    assert!(service.daemon.child("echo").problem.is_none() && !service.daemon.log().contains(told));
    let connections: Vec<Connection> = comers.into_iter().map(answered).collect();
    service.end(&connections);
    "nobody waits and nothing is said"
}

/// Clients that are not waited for to be let in, each with a message sent.
fn come(service: &Service, first: u32) -> Vec<(std::net::TcpStream, Connection)> {
    let one = |number| {
        let mut stream = service.connect();
        stream.write_all(&line(number)).unwrap();
        let peer = stream.local_addr().unwrap().to_string();
        (stream, Connection { number, peer, length: 128, sent: 1, part: 0, echoed: 1, echoed_part: 0 })
    };
    (first..first + COMERS).map(one).collect()
}

/// Reads its echo and leaves.
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

/// No descriptor for a new process, a configuration or an operator.
fn emfile_supervisor(times: f64) -> Tried {
    let starved = starved(times, "", "Too many open files", |service| {
        // The lowest number that is free, so that none is left below it.
        let open = |number: &u64| std::fs::read_link(format!("/proc/{}/fd/{number}", service.daemon.pid())).is_ok();
        Limit::set(service, "nofile", (0..).find(|number| !open(number)).unwrap())
    });
    starved.tried("no descriptor in the supervisor")
}

/// fork fails for want of memory.
fn enomem_spawn(times: f64) -> Tried {
    let starved = starved(times, "", "Cannot allocate memory", |service| {
        let calls = "?clone,?clone3,?fork,?vfork";
        Tracer::attach(service, &["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:error=ENOMEM")])
    });
    starved.tried("no memory for a process")
}

/// fork is refused: the user has processes enough.
fn nproc(times: f64) -> Tried {
    // Nobody else's, so that only these processes count.
    let starved =
        starved(times, &as_user(64_999), "Resource temporarily unavailable", |service| Limit::set(service, "nproc", 1));
    starved.tried("no process for the user")
}

/// For a shell: this user's daemon, in this user's folder.
pub(crate) fn as_user(id: u32) -> String {
    format!("chown {id}:{id} . && exec setpriv --reuid={id} --regid={id} --clear-groups -- \"$0\" run -c plumbd.toml")
}

/// What came of children that died when nothing could be started.
struct Starved {
    rounds: u32,
    echoed: u64,
    control: String,
}

/// Kills children while `take_away` holds; they must come again once it is
/// dropped. Each time a new daemon: the log tells a line once, then counts it.
fn starved<T>(times: f64, first: &str, cause: &str, take_away: impl Fn(&Service) -> T) -> Starved {
    let mut starved = Starved { rounds: scaled(9, times), echoed: 0, control: String::new() };
    for round in 0..starved.rounds {
        let service = Service::start_after(first, &Wanted::default());
        let descriptors = service.daemon.descriptors();
        let load = service.load(|plan| plan.reconnect = true);
        let names = [&["logger"][..], &["echo"], &["logger", "echo"]][round as usize % 3];
        service.wait_progress();
        let pids: Vec<i32> = names.iter().map(|name| service.daemon.child_pid_when_up(name)).collect();
        let held = take_away(&service);
        pids.iter().for_each(|pid| kill(*pid, SIGKILL));
        for name in names {
            service.daemon.wait_log(&format!("{name}: cannot start: {cause}"));
        }
        if cause == "Too many open files" {
            // A reload needs one too; no operator can be told.
            service.daemon.signal(SIGHUP);
            service.daemon.wait_log(&format!("cannot read the file: {cause}"));
        } else {
            let problem = || service.daemon.child(names[0]).problem.filter(|problem| problem.contains(cause));
            wait_for("the status says so", problem);
        }
        drop(held);
        for (name, pid) in names.iter().zip(pids) {
            service.daemon.wait_replaced(name, pid);
            assert_eq!(service.daemon.child(name).problem, None);
        }
        service.daemon.done(&Request::Reload);
        service.wait_progress();
        let outcome = load.end();
        assert_eq!(outcome.refused, 0, "a client was refused");
        wait_for("no descriptor is left over", || (service.daemon.descriptors() == descriptors).then_some(()));
        starved.echoed += outcome.echoed();
        starved.control = service.end(&outcome.connections).control;
    }
    starved
}

impl Starved {
    fn tried(self, what: &str) -> Tried {
        let Starved { rounds, echoed, control } = self;
        Tried {
            count: format!("{rounds} times {what} while logger, echo or both die, {echoed} messages"),
            outcome: format!(
                "the log said so {rounds} times, all came again, {rounds} reloads worked afterwards, 0 clients refused, \
                 0 descriptors left over; {echoed} echoed: 0 lost, 0 doubled, 0 out of order, 0 torn, 0 forged"
            ),
            control: format!("the log told of the fault each time, so it was made; {control}"),
        }
    }
}

/// A limit of the supervisor's that is lower for now.
struct Limit {
    pid: i32,
    /// Whose it is: he may, where root has not the capability (CAP_SYS_RESOURCE).
    user: u32,
    resource: &'static str,
    before: String,
}

impl Limit {
    fn set(service: &Service, resource: &'static str, soft: u64) -> Limit {
        let pid = service.daemon.pid();
        let user = std::fs::metadata(format!("/proc/{pid}")).unwrap().uid();
        let mut limit = Limit { pid, user, resource, before: String::new() };
        let [old, hard] = ["SOFT", "HARD"].map(|column| {
            let asked = limit.prlimit(&[&format!("--{resource}"), "--raw", "--noheadings", "-o", column]);
            String::from_utf8(asked.stdout).unwrap().trim().to_owned()
        });
        limit.before = format!("{old}:{hard}");
        limit.prlimit(&[&format!("--{resource}={soft}:{hard}")]);
        limit
    }

    fn prlimit(&self, options: &[&str]) -> Output {
        let id = self.user.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "prlimit", &format!("--pid={}", self.pid)]);
        let done = command.args(options).output().unwrap();
        assert!(done.status.success(), "prlimit {options:?}: {}", String::from_utf8_lossy(&done.stderr));
        done
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.prlimit(&[&format!("--{}={}", self.resource, self.before)]);
        }
    }
}

/// strace(1) on the supervisor.
struct Tracer(Child);

impl Tracer {
    fn attach(service: &Service, options: &[&str]) -> Tracer {
        let pid = service.daemon.pid();
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-o", "/dev/null", "-p", &pid.to_string()]).args(options);
        let tracer = Tracer(strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let traced = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            (!status.contains("TracerPid:\t0\n")).then_some(())
        };
        wait_for(&format!("strace is attached within {DEADLINE:?}"), traced);
        tracer
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It lets go of what it traces when it is asked to end.
        kill(i32::try_from(self.0.id()).unwrap(), nix::libc::SIGTERM);
        let _reaped = self.0.wait();
    }
}
