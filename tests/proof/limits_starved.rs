//! The supervisor can't get what it needs to start a child, while children die.

use crate::clients_service::{Service, Wanted, counts};
use crate::daemon::{kill, wait_for};
use crate::disk_site::forgetful;
use crate::limits::as_user;
use crate::load::checker::Verdict;
use crate::strace::Strace;
use crate::trial::{Tried, add, scaled};
use nix::libc::{SIGHUP, SIGKILL};
use plumbd::control::Request;
use plumbd::control::status::ChildState;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output};

/// No descriptor for a new process, a configuration or an operator.
pub(crate) fn emfile_supervisor(times: f64) -> Tried {
    let starved = starved(times, "", "Too many open files", |service| {
        // The lowest descriptor that is free, so that none is left below it.
        let open = |number: &u64| std::fs::read_link(format!("/proc/{}/fd/{number}", service.daemon.pid())).is_ok();
        Limit::set(service, "nofile", (0..).find(|number| !open(number)).unwrap())
    });
    starved.tried("no descriptor in the supervisor")
}

/// fork fails because there is no memory.
pub(crate) fn enomem_spawn(times: f64) -> Tried {
    let starved = starved(times, "", "Cannot allocate memory", |service| {
        Strace::inject(service.daemon.pid(), "?clone,?clone3,?fork,?vfork", "error=ENOMEM")
    });
    starved.tried("no memory for a process")
}

/// fork is refused because the user has too many processes.
pub(crate) fn nproc(times: f64) -> Tried {
    // No other process has this user, so only these processes count.
    let starved =
        starved(times, &as_user(64_999), "Resource temporarily unavailable", |service| Limit::set(service, "nproc", 1));
    starved.tried("no process for the user")
}

/// What happened to children that died when nothing could be started.
struct Starved {
    cause: &'static str,
    rounds: u32,
    killed: usize,
    /// How many lines of the log report a refused start.
    told: usize,
    came_again: usize,
    reloads: usize,
    descriptors_left: usize,
    clients_refused: u32,
    total: Verdict,
    controls: Vec<String>,
}

/// Kills children while `take_away` is in effect. They must be restarted once it is
/// dropped. Each round has a new daemon, because a log reports repeated lines only as a count.
fn starved<T>(times: f64, first: &str, cause: &'static str, take_away: impl Fn(&Service) -> T) -> Starved {
    let mut starved = Starved {
        cause,
        rounds: scaled(9, times),
        killed: 0,
        told: 0,
        came_again: 0,
        reloads: 0,
        descriptors_left: 0,
        clients_refused: 0,
        total: Verdict::default(),
        controls: vec![not_tried_again(first, cause, &take_away), forgetful()],
    };
    for round in 0..starved.rounds {
        let names = [&["logger"][..], &["echo"], &["logger", "echo"]][round as usize % 3];
        starved.round(Service::start_after(first, &Wanted::default()), names, &take_away);
    }
    starved
}

impl Starved {
    fn round<T>(&mut self, service: Service, names: &[&str], take_away: impl Fn(&Service) -> T) {
        let descriptors = service.daemon.descriptors();
        let load = service.load(|plan| plan.reconnect = true);
        service.wait_progress();
        let pids: Vec<i32> = names.iter().map(|name| service.daemon.child_pid_when_up(name)).collect();
        let held = take_away(&service);
        pids.iter().for_each(|pid| kill(*pid, SIGKILL));
        self.killed += pids.len();
        for name in names {
            wait_for("the log says so", || is_told(&service.daemon.log(), name, self.cause).then_some(()));
        }
        if self.cause == "Too many open files" {
            // A reload needs a descriptor too, and no operator could be answered.
            service.daemon.signal(SIGHUP);
            service.daemon.wait_log(&format!("cannot start a process that looks at the system: {}", self.cause));
        } else {
            let problem = || service.daemon.child(names[0]).problem.filter(|problem| problem.contains(self.cause));
            wait_for("the status says so", problem);
        }
        drop(held);
        for (name, pid) in names.iter().zip(pids) {
            service.daemon.wait_replaced(name, pid);
            assert_eq!(service.daemon.child(name).problem, None);
            self.came_again += 1;
        }
        self.told += names.iter().filter(|name| is_told(&service.daemon.log(), name, self.cause)).count();
        service.daemon.done(&Request::Reload);
        self.reloads += 1;
        service.wait_progress();
        let outcome = load.end();
        assert_eq!(outcome.refused, 0, "a client was refused");
        self.clients_refused += outcome.refused;
        wait_for("no descriptor is left over", || (service.daemon.descriptors() <= descriptors).then_some(()));
        self.descriptors_left += service.daemon.descriptors().saturating_sub(descriptors);
        let checked = service.end(&outcome.connections);
        add(&mut self.total, &checked.verdict);
        self.controls.truncate(2);
        self.controls.push(checked.control);
    }

    fn tried(&self, what: &str) -> Tried {
        let Starved { rounds, killed, told, came_again, reloads, descriptors_left, clients_refused, .. } = self;
        Tried {
            count: format!("{rounds} times {what}, {killed} children killed meanwhile, {told} refused starts reported"),
            outcome: format!(
                "{came_again} restarted, {reloads} reloads worked afterwards, {clients_refused} clients refused, \
                 {descriptors_left} descriptors left over; {}",
                counts(&self.total)
            ),
            control: self.controls.join("; "),
        }
    }
}

/// Whether the log has a refused start of that child for that cause, with or without the limit
/// that was reached.
fn is_told(log: &str, name: &str, cause: &str) -> bool {
    let refused = format!("{name}: cannot start: ");
    log.lines().any(|line| {
        line.contains(&refused) && line.split(" (the limit is ").next().is_some_and(|line| line.ends_with(cause))
    })
}

/// The control: with `restart = "never"` there is no second try. The trial would notice that:
/// no start is reported, and the child is still down when it could be started.
fn not_tried_again<T>(first: &str, cause: &str, take_away: impl Fn(&Service) -> T) -> String {
    let sink = "plugin = \"logger\"\nrestart = \"never\"\nsettings = { file = \"messages.log\" }";
    let service = Service::start_after(first, &Wanted { sink, ..Wanted::default() });
    let load = service.load(|_| ());
    service.wait_progress();
    let logger = service.daemon.child_pid_when_up("logger");
    let held = take_away(&service);
    kill(logger, SIGKILL);
    service.daemon.wait_log("logger: was killed by SIGKILL, and restart = \"never\"");
    drop(held);
    let child = service.daemon.child("logger");
    assert_eq!((child.pid, child.state), (None, ChildState::Down));
    assert!(!is_told(&service.daemon.log(), "logger", cause));
    service.daemon.done(&Request::Start { children: vec!["logger".into()] });
    service.end(&load.end_unnoticed().connections);
    "with restart = \"never\" nothing is told and the child stays down".to_owned()
}

/// A limit of the supervisor that is lowered until this is dropped.
struct Limit {
    pid: i32,
    /// The supervisor's user, who may set the limit even if root lacks CAP_SYS_RESOURCE.
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
