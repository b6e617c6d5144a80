//! Kills while a reload or a stop is under way.

use super::control;
use super::doctor::any;
use super::random::{settings, with_each};
use super::service::{Service, Setting};
use crate::daemon::{alive, wait_for};
use crate::trial::{Tried, scaled};
use nix::libc::{SIGKILL, SIGTERM};
use plumbd::control::Request;
use plumbd::control::status::DaemonState;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// Settings with a service manager, so that clients stay while one supervisor follows the other.
fn managed() -> Vec<Setting> {
    settings(|echo_after, load| Setting { echo_after, load, managed: true, pipes_are_lost: false, rotate: false })
}

/// During a reload, which restarts the echo, the logger or both.
pub(crate) fn reload(times: f64) -> Tried {
    let count = with_each(managed(), |service| {
        let config = service.daemon.read_text("plumbd.toml");
        let echo = ("[children.echo.settings]", "max_connections = 9999");
        let logger = ("[children.logger.settings]", "mode = \"0600\"");
        for round in 0..scaled(15, times) {
            service.wait_any_instant();
            let changes = match any(4) {
                0 => vec![echo],
                1 => vec![logger],
                2 => vec![echo, logger],
                _ => Vec::new(),
            };
            let changed = changes
                .iter()
                .fold(config.clone(), |config, (place, more)| config.replace(place, &format!("{place}\n{more}")));
            // The configuration is different each time.
            service.daemon.configure(&format!("{changed}\n# {round}"));
            let reload = service.daemon.ask_meanwhile(Request::Reload);
            let killed = kill_some(service, 10_000, |_| !reload.is_finished());
            let cut_short = is_cut_short(reload.join().unwrap());
            service.count.in_time += u64::from(killed && cut_short);
            go_on(service, killed);
        }
    });
    count.tried(&control::a_sink_without_a_ledger_in_a_reload())
}

/// During a stop: of children, or of the daemon.
pub(crate) fn stop(times: f64) -> Tried {
    let count = with_each(managed(), |service| {
        for _ in 0..scaled(15, times) {
            service.wait_any_instant();
            let echo: Vec<&str> = service.sources().to_vec();
            let names: Vec<String> = match any(4) {
                0 => vec!["logger"],
                1 => echo,
                2 => [echo, vec!["logger"]].concat(),
                _ => Vec::new(),
            }
            .into_iter()
            .map(str::to_owned)
            .collect();
            if names.is_empty() {
                service.daemon.signal(SIGTERM);
                let killed = kill_some(service, 10_000, |service| alive(service.daemon.pid()));
                let cut_short = service.wait_dead().signal() == Some(SIGKILL);
                service.count.in_time += u64::from(killed && cut_short);
                service.start_again();
                continue;
            }
            let stop = service.daemon.ask_meanwhile(Request::Stop { children: names.clone() });
            let killed = kill_some(service, 10_000, |_| !stop.is_finished());
            let cut_short = is_cut_short(stop.join().unwrap());
            service.count.in_time += u64::from(killed && cut_short);
            if killed {
                service.start_again();
            } else {
                // A child that was killed meanwhile may not be up at once.
                let start = Request::Start { children: names };
                wait_for("all are started", || (service.daemon.ask(&start).0 == 0).then_some(()));
            }
        }
    });
    count.tried(&control::a_sink_without_a_ledger_in_a_stop())
}

/// Kills some of them at an instant within this many microseconds. Returns whether the supervisor
/// was one of them.
///
/// Children were killed in time if the operation is still under way afterwards. A supervisor was
/// killed in time if that shows afterwards: an operator got no answer, or by its exit status.
fn kill_some(service: &mut Service, within: u64, under_way: impl Fn(&Service) -> bool) -> bool {
    service.was_told_to_end = true;
    std::thread::sleep(Duration::from_micros(any(within)));
    let is_one_dead = match any(5) {
        0 => service.kill_children(&["logger"]),
        1 => service.kill_children(service.sources()),
        2 => service.kill_children(&[&["logger"], service.sources()].concat()),
        all => {
            service.kill_supervisor(all == 4);
            return true;
        }
    };
    service.count.in_time += u64::from(is_one_dead && under_way(service));
    false
}

/// Whether an operator that was connected got no answer.
fn is_cut_short(answer: Result<(u8, String, String), String>) -> bool {
    answer.is_err_and(|why| !why.starts_with("cannot reach the daemon"))
}

fn go_on(service: &mut Service, killed: bool) {
    if killed {
        service.start_again();
    } else {
        service.daemon.wait_state(DaemonState::Running);
    }
}
