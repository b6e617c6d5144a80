//! Kills at any instant: each choice of victims, in each `echo_after`, with
//! each load.

use super::control;
use super::count::Count;
use super::doctor::any;
use super::service::{Load, Service, Setting};
use crate::trial::{Tried, scaled};
use std::panic::resume_unwind;
use std::sync::Mutex;

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

/// Runs each on a thread of its own, all at once. Returns the sum of the counts.
pub(crate) fn side_by_side<T: Sync>(each: &[T], attempt: impl Fn(&T) -> Count + Sync) -> Count {
    std::thread::scope(|scope| {
        let workers: Vec<_> = each.iter().map(|one| scope.spawn(|| attempt(one))).collect();
        let counts = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        counts.fold(Count::default(), |a, b| a.and(&b))
    })
}

/// Every `echo_after` with every load.
pub(crate) fn settings(of: impl Fn(&'static str, Load) -> Setting) -> Vec<Setting> {
    let loads = |echo_after| [Load::Small, Load::Large, Load::Parts, Load::Many].map(|load| of(echo_after, load));
    ["queued", "saved", "synced"].into_iter().flat_map(loads).collect()
}

fn by_hand(echo_after: &'static str, load: Load) -> Setting {
    Setting { echo_after, load, managed: false, pipes_are_lost: false, rotate: false }
}

/// The logger.
pub(crate) fn logger(times: f64) -> Tried {
    let count = with_each(settings(by_hand), |service| {
        for _ in 0..scaled(34, times) {
            service.wait_any_instant();
            service.kill_and_see_replaced(&["logger"]);
        }
    });
    count.tried(&control::a_sink_without_a_ledger())
}

/// One source.
pub(crate) fn sources(times: f64) -> Tried {
    let count = with_each(settings(by_hand), |service| {
        for _ in 0..scaled(34, times) {
            service.wait_any_instant();
            let sources = service.sources();
            let one = usize::try_from(any(sources.len() as u64)).unwrap();
            service.kill_and_see_replaced(&sources[one..=one]);
        }
    });
    count.tried(&control::a_source_that_buffers())
}

/// All children.
pub(crate) fn children(times: f64) -> Tried {
    let count = with_each(settings(by_hand), |service| {
        for _ in 0..scaled(30, times) {
            service.wait_any_instant();
            service.kill_and_see_replaced(&[&["logger"], service.sources()].concat());
        }
    });
    count.tried(&control::a_sink_without_a_ledger_and_its_source())
}

/// The supervisor.
pub(crate) fn supervisor(times: f64) -> Tried {
    let setting = |echo_after, load| Setting { managed: echo_after == "queued", ..by_hand(echo_after, load) };
    let count = with_each(settings(setting), |service| {
        for _ in 0..scaled(19, times) {
            service.wait_any_instant();
            service.kill_supervisor(false);
            service.start_again();
        }
    });
    count.tried(&control::a_sink_that_does_not_outlive_its_supervisor())
}

/// All at once.
pub(crate) fn all(times: f64) -> Tried {
    let setting = |echo_after, load| {
        let managed = echo_after == "queued";
        Setting { managed, pipes_are_lost: !managed, ..by_hand(echo_after, load) }
    };
    let count = with_each(settings(setting), |service| {
        for _ in 0..scaled(19, times) {
            service.wait_any_instant();
            service.kill_supervisor(true);
            service.start_again();
        }
    });
    count.tried(&control::nobody_keeps_the_pipes())
}
