//! Kills at any instant: each choice of victims, in each `echo_after`, with
//! each load.

use super::count::Count;
use super::doctor::any;
use super::service::{Load, Service, Setting};
use crate::daemon::{DEADLINE, Daemon, children_of, free_port, kill, wait_for};
use crate::load::checker::{self, Format, Verdict};
use crate::load::generator::{self, Plan};
use crate::trial::{Tried, scaled};
use nix::libc::SIGKILL;
use std::panic::resume_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Daemons at a time; each has a share of the machine.
const AT_A_TIME: usize = 2;

/// Tries each setting, some at a time.
pub(crate) fn with_each(settings: Vec<Setting>, attempt: impl Fn(&mut Service) + Sync) -> Count {
    let left = Mutex::new(settings);
    side_by_side(&[(); AT_A_TIME], |()| {
        let mut count = Count::default();
        loop {
            let Some(setting) = left.lock().unwrap().pop() else { return count };
            let mut service = Service::start(setting);
            attempt(&mut service);
            count = count.and(&service.finish());
        }
    })
}

/// Each on a thread of its own, all at once; what came of them together.
pub(crate) fn side_by_side<T: Sync>(each: &[T], attempt: impl Fn(&T) -> Count + Sync) -> Count {
    std::thread::scope(|scope| {
        let workers: Vec<_> = each.iter().map(|one| scope.spawn(|| attempt(one))).collect();
        let counts = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        counts.fold(Count::default(), |a, b| a.and(&b))
    })
}

/// Every `echo_after` with every load.
pub(crate) fn settings(of: impl Fn(&'static str, Load) -> Setting) -> Vec<Setting> {
    let loads = |echo_after| [Load::Small, Load::Large, Load::Many].map(|load| of(echo_after, load));
    ["queued", "saved", "synced"].into_iter().flat_map(loads).collect()
}

fn by_hand(echo_after: &'static str, load: Load) -> Setting {
    Setting { echo_after, load, managed: false, pipes_are_lost: false }
}

/// The logger.
pub(crate) fn logger(times: f64) -> Tried {
    let count = with_each(settings(by_hand), |service| {
        for _ in 0..scaled(45, times) {
            service.wait_any_instant();
            service.kill_and_see_replaced(&["logger"]);
        }
    });
    count.tried(&a_sink_without_a_ledger())
}

/// One source.
pub(crate) fn sources(times: f64) -> Tried {
    let count = with_each(settings(by_hand), |service| {
        for _ in 0..scaled(45, times) {
            service.wait_any_instant();
            let sources = service.sources();
            let one = usize::try_from(any(sources.len() as u64)).unwrap();
            service.kill_and_see_replaced(&sources[one..=one]);
        }
    });
    count.tried("")
}

/// All children.
pub(crate) fn children(times: f64) -> Tried {
    let count = with_each(settings(by_hand), |service| {
        for _ in 0..scaled(40, times) {
            service.wait_any_instant();
            service.kill_and_see_replaced(&[&["logger"], service.sources()].concat());
        }
    });
    count.tried("")
}

/// The supervisor.
pub(crate) fn supervisor(times: f64) -> Tried {
    let setting = |echo_after, load| Setting { managed: echo_after == "queued", ..by_hand(echo_after, load) };
    let count = with_each(settings(setting), |service| {
        for _ in 0..scaled(25, times) {
            service.wait_any_instant();
            service.kill_supervisor(false);
            service.start_again();
        }
    });
    count.tried("")
}

/// All at once.
pub(crate) fn all(times: f64) -> Tried {
    let setting = |echo_after, load| {
        let managed = echo_after == "queued";
        Setting { managed, pipes_are_lost: !managed, ..by_hand(echo_after, load) }
    };
    let count = with_each(settings(setting), |service| {
        for _ in 0..scaled(25, times) {
            service.wait_any_instant();
            service.kill_supervisor(true);
            service.start_again();
        }
    });
    count.tried(&nobody_keeps_the_pipes())
}

/// Kills it until the checker finds something; how long that took.
fn until_found(mut kill_once: impl FnMut() -> Verdict) -> String {
    for kills in 1..=200 {
        let verdict = kill_once();
        if !verdict.is_clean() {
            let Verdict { lost, doubled, torn, forged, .. } = verdict;
            return format!("found out after {kills} kills: {lost} lost, {doubled} doubled, {} torn", torn + forged);
        }
    }
    panic!("200 kills were not found out");
}

fn clients(port: u16, first: u32) -> Plan {
    Plan {
        address: ([127, 0, 0, 1], port).into(),
        connections: 12,
        depth: 3,
        length: 128,
        first,
        reconnect: false,
        lasts: Duration::from_secs(86_400),
        drain: DEADLINE,
    }
}

/// The control: a sink that reads, then writes, and keeps no account.
fn a_sink_without_a_ledger() -> String {
    let found = until_found(|| {
        let port = free_port();
        let mut daemon = Daemon::start(&format!(
            "[children.echo]\nplugin = \"echo\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
             [children.echo.settings]\necho_after = \"queued\"\n\
             [children.sink]\ncommand = [\"/bin/sh\", \"-c\", \"exec tee -a messages.log >/dev/null\"]\n\
             [[links]]\nfrom = \"echo\"\nto = \"sink\"\n"
        ));
        let stop = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            let clients = scope.spawn(|| generator::run(&clients(port, 0), &stop).unwrap());
            for _ in 0..5 {
                let size = || std::fs::metadata(daemon.path("messages.log")).map_or(0, |file| file.len());
                let before = size();
                wait_for("messages are saved", || (size() > before).then_some(()));
                let pid = daemon.child_pid_when_up("sink");
                kill(pid, SIGKILL);
                daemon.wait_replaced("sink", pid);
            }
            stop.store(true, Ordering::Relaxed);
            clients.join().unwrap()
        });
        daemon.stop();
        checker::check(&*daemon.read("messages.log"), Format::Raw, &outcome.connections).unwrap()
    });
    format!("`tee -a` as the sink, 5 kills at a time: {found}")
}

/// The control: the same kills without a service manager.
fn nobody_keeps_the_pipes() -> String {
    let port = free_port();
    let mut daemon = Daemon::start(&format!(
        "[children.echo]\nplugin = \"echo\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [children.echo.settings]\necho_after = \"queued\"\n\
         [children.logger]\nplugin = \"logger\"\n[children.logger.settings]\nfile = \"messages.log\"\n\
         [[links]]\nfrom = \"echo\"\nto = \"logger\"\n"
    ));
    let mut connections = Vec::new();
    let mut first = 0;
    let found = until_found(|| {
        let (stop, plan) = (AtomicBool::new(false), clients(port, first));
        first += 1000;
        std::thread::scope(|scope| {
            let clients = scope.spawn(|| generator::run(&plan, &stop).unwrap());
            let size = || std::fs::metadata(daemon.path("messages.log")).map_or(0, |file| file.len());
            let before = size();
            wait_for("messages are saved", || (size() > before).then_some(()));
            let children = children_of(daemon.pid());
            kill(daemon.pid(), SIGKILL);
            children.iter().for_each(|&pid| kill(pid, SIGKILL));
            connections.extend(clients.join().unwrap().connections);
        });
        daemon.wait_killed();
        daemon.start_again();
        checker::check(&*daemon.read("messages.log"), Format::Text, &connections).unwrap()
    });
    daemon.stop();
    format!("`queued`, and nobody keeps the pipes: {found}")
}
