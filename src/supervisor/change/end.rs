//! The first start, and the end.

use super::Own;
use super::drain::Bounds;
use super::steps::{Next, Stop};
use crate::control::event::{About, What};
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::child::Event;
use crate::supervisor::family::outcome;
use crate::supervisor::poll::Id;
use crate::sys::notify;
use crate::sys::{aside, process};
use std::time::{Duration, Instant};

/// How long strays may take to die when they are killed at the end.
const LAST_STRAYS: Duration = Duration::from_secs(1);
/// How long it may take at the end to remove all names of Unix sockets, because their
/// folders may be on file systems that do not answer.
const NAMES: Duration = Duration::from_secs(1);
/// How long children may take to die that were killed because the time for the end is up.
const LAST_KILL: Duration = Duration::from_secs(1);

impl Supervisor {
    /// The first start is over once each child is up, or is known not to be.
    pub(super) fn started(&mut self) {
        if self.startup.has_started {
            return;
        }
        let Some(mut bad) = outcome::outcome_of(&self.children, self.children.names()) else { return };
        bad.sort();
        self.startup.has_started = true;
        if bad.is_empty() {
            log::info!("ready");
            // After --daemon, the service manager knows only the process that forked this one.
            let main =
                if self.startup.must_start { format!("MAINPID={}\n", std::process::id()) } else { String::new() };
            self.manager.tell(&format!("{main}READY=1\nSTATUS=all children are ready"));
            self.startup.ready.ready();
            return;
        }
        let why = bad.join("; ");
        log::error!("not all children are up: {why}");
        if self.startup.must_start {
            // The caller is told once everything is stopped again.
            self.startup.failed_start = Some(why);
            self.begin_end();
        } else {
            // What can serve does, and the status says what can't: that is better
            // than one child taking all others down.
            self.manager.tell(&format!("READY=1\nSTATUS={why}"));
        }
    }

    /// Handles SIGTERM and SIGINT: the first one drains, the second one ends at once.
    pub(crate) fn asked_to_end(&mut self) {
        if self.changes.is_ending() { self.end_at_once() } else { self.begin_end() }
    }

    /// Begins the end: drains, then ends.
    pub(crate) fn begin_end(&mut self) {
        for reload in std::mem::take(&mut self.changes.reloads) {
            self.operators.refuse(reload.waiter, &reload.cut_short());
        }
        self.give_up_looks();
        // A reload may have ended inputs that now have sources again.
        self.resume_inputs();
        log::info!("stopping");
        self.manager.tell("STOPPING=1");
        self.events.happened(What::Stopping, About::default());
        if self.startup.failed_start.is_none() {
            self.startup.ready.failed("it was told to stop before all children were ready");
        }
        let all = self.children.names().cloned().collect();
        self.changes.end = Some(Stop::new(all, self.kept.links.ending(None), self.bounds_from_now()));
        self.operators.refuse_starts();
    }

    /// The bounds of a drain that begins now.
    pub(super) fn bounds_from_now(&self) -> Bounds {
        Bounds::new(Instant::now(), self.model().daemon.stop_timeout, self.children.longest_stop())
    }

    pub(super) fn step_end(&mut self) {
        let Some(stop) = &mut self.changes.end else { return };
        let now = Instant::now();
        let Next { to_do, look_after, then: done } =
            stop.step(&Own { children: &self.children, links: &self.kept.links }, now);
        let until = stop.until();
        self.carry_out(to_do, look_after);
        // After a second request to end, or when the time is up, processes that the kernel
        // can't end are not waited for.
        if let Some(time) = (done && now < until).then(|| self.hooks.have_time(now)).flatten() {
            self.agenda.look_after(time);
        } else if done || now >= until + LAST_KILL {
            self.end_now();
        } else if now >= until {
            self.agenda.look_after(LAST_KILL);
        }
    }

    /// Kills every child and ends, even if bytes wait in the links.
    pub(crate) fn end_at_once(&mut self) {
        log::warn!("ending at once");
        if !self.changes.is_ending() {
            self.begin_end();
        }
        if let Some(stop) = &mut self.changes.end {
            stop.cut_short(Instant::now());
        }
        let ids: Vec<Id> = self.children.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.step(id, Event::Kill);
        }
    }

    /// Ends now that all children are down or can't be killed: kills everything else that
    /// plumbd started, and reports what nobody took.
    fn end_now(&mut self) {
        self.hooks.cut_short();
        let unkillable = outcome::unkillable(&self.children, self.children.names());
        let deadline = Instant::now() + if unkillable.is_none() { LAST_STRAYS } else { Duration::ZERO };
        // Orphans become children of this process as their parents die.
        while self.strays.kill_all() {
            if Instant::now() >= deadline {
                log::error!("cannot kill everything that children have left behind");
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            while let Ok(Some(pid)) = process::next_dead() {
                if process::reap(pid).is_ok() {
                    self.strays.reaped(pid);
                }
            }
        }
        let mut lost: Vec<String> = self
            .kept
            .links
            .iter()
            .map(|held| (held, self.kept.links.queued(held)))
            .filter(|&(_, queued)| queued > 0)
            .map(|(held, queued)| (held.config.title(), queued))
            .map(|(link, queued)| format!("{queued} bytes in the link {link}"))
            .collect();
        for link in self.kept.store.waiting() {
            let (bytes, what) =
                (link.bytes, format!("in the link {}, which is not in the configuration", link.title()));
            if notify::is_heard() {
                log::warn!("{bytes} bytes stay with the service manager {what}");
            } else {
                lost.push(format!("{bytes} bytes {what}"));
            }
        }
        let lost = (!lost.is_empty()).then(|| format!("nobody took {}", lost.join(", ")));
        let bad: Vec<String> = lost.into_iter().chain(unkillable).collect();
        let bad = (!bad.is_empty()).then(|| format!("stopped, but {}", bad.join("; ")));
        let end = match (self.startup.failed_start.take(), bad) {
            (None, None) => {
                log::info!("stopped");
                Ok(())
            }
            (Some(failed), Some(bad)) => Err(format!("{failed}; {bad}")),
            (Some(why), None) | (None, Some(why)) => Err(why),
        };
        // If the service manager starts the next daemon, clients can wait for it, and it
        // finds what nobody took. Otherwise the service manager drops all of it by itself.
        self.kept.keep_at_the_end(&mut self.manager);
        // First, because an operator who gets the answer may start the next daemon at once.
        let removing: Vec<_> = self.kept.sockets.close().into_iter().chain(self.operators.server.close()).collect();
        aside::wait(removing, NAMES);
        let at_once = self.changes.end.as_ref().is_some_and(|stop| Instant::now() >= stop.until());
        self.operators.end_readers(&self.events, at_once);
        self.operators.answer_shutdown(&end);
        self.agenda.end = Some(end);
    }
}
