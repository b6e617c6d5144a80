//! Stopping children so that nothing that waits is lost: which child goes on, which is
//! asked to stop, and which is started once more. Pure: it takes the current states and
//! returns what to do.
//!
//! A child is **done** when those before it are done, it has no process, and it
//! is not needed any more. It is **needed** while something waits for it, or may
//! still come, that only it can take. So a filter that dies while it drains is
//! started again before its sink's input ends, and a sink that an operator
//! stopped is started again to take what its sources have left.
//!
//! | its process | those before it | what is done |
//! |---|---|---|
//! | none | any | it is started if it is needed; its sinks first |
//! | starting, up | not done | nothing: it serves them |
//! | starting, up | done | its input is ended, and it finishes by itself; if it has no input, it is asked |
//! | starting, up, draining | any, after [`Bounds::order`] | it is asked, unless it saves |
//! | any | any, after [`Bounds::all`] | it is killed |

use crate::supervisor::family::child::{Ladder, State, Want};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// How often a drain starts a child for what waits for it.
pub const STARTS: u32 = 5;
/// A sink that saves has at least this long after nothing more can come.
pub const LAST_SAVE: Duration = Duration::from_secs(2);

/// How long the children that are to stop are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Until then sources stop before their sinks, and sinks finish by themselves.
    /// After that all children are asked at once, except those that save.
    pub order: Instant,
    /// After that all that are left are killed.
    pub all: Instant,
}

impl Bounds {
    /// The bounds of a drain that begins now: `drain` is how long it may take, `longest`
    /// the longest time that a child may take to stop when it is asked.
    pub fn new(now: Instant, drain: Duration, longest: Duration) -> Bounds {
        let order = now + drain;
        Bounds { order, all: order + longest + LAST_SAVE }
    }

    /// Bounds that have passed: nothing is waited for.
    pub fn over(now: Instant) -> Bounds {
        Bounds { order: now, all: now }
    }

    /// The next instant at which something changes by itself.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        [self.order, self.all].into_iter().find(|&at| at > now)
    }
}

/// What a drain has done with a child so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// How often it was started for what waits for it.
    pub starts: u32,
    /// Whether its input has ended and it was told to finish.
    pub told: bool,
}

/// A child that is to stop.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its state.
    pub state: State,
    /// What is wanted of it.
    pub want: Want,
    /// Whether its last exit was a success.
    pub ended_well: bool,
    /// Whether it saves what it takes before it consumes it, so that its sources may
    /// wait for that.
    pub saves: bool,
    /// Whether it is over by its own policy, so that a drain does not start it.
    pub over: bool,
    /// Whether it can be given its outbound link.
    pub has_output: bool,
    /// What the drain has done with it so far.
    pub progress: Progress,
    /// The members that need it, and so must be done before it is asked.
    pub before: Vec<usize>,
}

impl Member {
    fn has_process(&self) -> bool {
        match self.state {
            State::Starting { .. } | State::Up { .. } => true,
            // It is as good as gone: nothing that we do makes a difference.
            State::Stopping { ladder, .. } => ladder != Ladder::Unkillable,
            State::Down | State::Waiting | State::Backoff { .. } | State::Failed => false,
        }
    }

    /// Whether it has no process, and none will start by itself.
    fn is_gone(&self) -> bool {
        !self.has_process() && (self.state == State::Down || !self.want.is_up())
    }

    /// Whether a start may still help.
    fn can_start(&self) -> bool {
        let Progress { starts, told } = self.progress;
        // A child in backoff is started by its own machine.
        let may = starts < STARTS || matches!(self.state, State::Backoff { .. });
        // An ordinary program that ended well at the end of its input needs no more of it.
        let satisfied = !self.saves && (self.over || told && self.ended_well);
        may && !satisfied && self.has_output
    }
}

/// A link into a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Its source, if that is to stop too.
    pub from: Option<usize>,
    /// Its sink.
    pub to: usize,
    /// Its queue; several links into one ordinary sink share one.
    pub queue: usize,
    /// Whether the queue is removed. If it stays, its bytes wait there.
    pub goes: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Start that child for what waits for it.
    Start(usize),
    /// Ask it to stop, or make sure that it does not start again.
    Stop(usize),
    /// Let it finish by itself until then.
    Drain(usize, Instant),
    /// Kill it.
    Kill(usize),
    /// End the input that this queue provides.
    EndInput(usize),
}

/// The result of one look at everything.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision {
    /// The steps to take, in this order.
    pub steps: Vec<Step>,
    /// Whether to look again soon, because no event reports when bytes arrive or leave.
    pub look: bool,
    /// Whether all are done, except those that SIGKILL does not end.
    pub done: bool,
}

/// The children that are to stop, and the links into them.
pub struct Drain<'a> {
    members: &'a [Member],
    flows: &'a [Flow],
    /// Returns how many bytes wait in the link of that number.
    waiting: &'a dyn Fn(usize) -> usize,
    bounds: Bounds,
    now: Instant,
    /// The links into each member.
    into: Vec<Vec<usize>>,
    /// The links that share each queue.
    sharing: BTreeMap<usize, Vec<usize>>,
    /// Results for each member, once they are known.
    done: RefCell<Vec<Option<bool>>>,
    work: RefCell<Vec<Option<bool>>>,
}

impl<'a> Drain<'a> {
    /// The relation `before` must have no cycle.
    pub fn new(
        members: &'a [Member],
        flows: &'a [Flow],
        waiting: &'a dyn Fn(usize) -> usize,
        bounds: Bounds,
        now: Instant,
    ) -> Drain<'a> {
        let unknown = || RefCell::new(vec![None; members.len()]);
        let mut into = vec![Vec::new(); members.len()];
        let mut sharing: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (link, flow) in flows.iter().enumerate() {
            into[flow.to].push(link);
            sharing.entry(flow.queue).or_default().push(link);
        }
        Drain { members, flows, waiting, bounds, now, into, sharing, done: unknown(), work: unknown() }
    }

    /// Decides what to do now.
    pub fn decide(&self) -> Decision {
        let mut decision = Decision { steps: Vec::new(), look: false, done: true };
        for at in 0..self.members.len() {
            self.decide_one(at, &mut decision);
            decision.done &= self.is_done(at);
        }
        decision
    }

    fn decide_one(&self, at: usize, decision: &mut Decision) {
        let member = &self.members[at];
        match member.state {
            State::Down | State::Waiting | State::Failed | State::Backoff { .. } => self.without_process(at, decision),
            State::Stopping { ladder: Ladder::Killed { .. } | Ladder::Unkillable, .. } if !member.want.is_up() => {}
            _ if self.now >= self.bounds.all => decision.steps.push(Step::Kill(at)),
            State::Stopping { ladder, .. } => {
                if matches!(ladder, Ladder::Draining { .. }) && self.before_are_done(at) {
                    // Another drain may have told it to finish, and then its input was reopened.
                    let ended: BTreeSet<usize> = self.ended(at).collect();
                    decision.steps.extend(ended.iter().copied().map(Step::EndInput));
                    if !member.progress.told && self.is_whole(at, &ended) && self.now < self.until(at) {
                        decision.steps.push(Step::Drain(at, self.until(at)));
                    }
                }
                // It may be stopping only to be restarted, or have been told to drain when
                // there was more time.
                let late = matches!(ladder, Ladder::Draining { .. }) && self.is_late(at);
                if member.want.is_up() || late {
                    decision.steps.push(Step::Stop(at));
                }
            }
            State::Starting { .. } | State::Up { .. } => self.with_process(at, decision),
        }
    }

    fn without_process(&self, at: usize, decision: &mut Decision) {
        let member = &self.members[at];
        if self.is_needed(at) {
            // After the first start its own backoff decides when it is started again.
            let comes = matches!(member.state, State::Backoff { .. }) && member.progress.starts > 0;
            if !comes && self.sinks_of(at).all(|sink| self.is_ready_for_sources(sink)) {
                decision.steps.push(Step::Start(at));
            }
            return;
        }
        // A source that still runs may write to it, and no event reports that.
        decision.look |= self.now < self.limit(at) && member.can_start() && self.may_come(at);
        if member.state != State::Down {
            decision.steps.push(Step::Stop(at));
        }
    }

    fn with_process(&self, at: usize, decision: &mut Decision) {
        let member = &self.members[at];
        if !self.before_are_done(at) {
            if self.is_late(at) {
                decision.steps.push(Step::Stop(at));
            }
            return;
        }
        let ended: BTreeSet<usize> = self.ended(at).collect();
        decision.steps.extend(ended.iter().copied().map(Step::EndInput));
        let waits = self.into(at).any(|(link, flow)| ended.contains(&flow.queue) && (self.waiting)(link) > 0);
        // A sink that saves holds nothing when nothing waits, so it need not finish starting.
        // Any other program may already have taken what waited, which we can't see.
        let idle = !waits && member.saves && matches!(member.state, State::Starting { .. });
        let until = self.until(at);
        if self.is_whole(at, &ended) && !idle && self.now < until {
            decision.steps.push(Step::Drain(at, until));
        } else if waits && self.now < self.limit(at) {
            decision.look = true;
        } else {
            decision.steps.push(Step::Stop(at));
        }
    }

    fn before_are_done(&self, at: usize) -> bool {
        self.members[at].before.iter().all(|&user| self.is_done(user))
    }

    /// The queues into it that are removed and to which nobody writes any more.
    fn ended(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        self.into(at).map(|(_, flow)| flow).filter(|flow| flow.goes && self.all_gone(flow.queue)).map(|flow| flow.queue)
    }

    /// Whether it has inputs and all of them are among these, so that it can finish by itself.
    fn is_whole(&self, at: usize, ended: &BTreeSet<usize>) -> bool {
        !ended.is_empty() && self.into(at).all(|(_, flow)| ended.contains(&flow.queue))
    }

    /// How long it may take to finish by itself if its input ends now.
    fn until(&self, at: usize) -> Instant {
        if self.members[at].saves { self.bounds.order.max(self.now + LAST_SAVE) } else { self.bounds.order }
    }

    /// Whether it is asked now, without regard to the order.
    fn is_late(&self, at: usize) -> bool {
        self.now >= self.bounds.order && !self.members[at].saves
    }

    /// How long it may be started or waited for.
    fn limit(&self, at: usize) -> Instant {
        if self.members[at].saves { self.bounds.all - LAST_SAVE / 2 } else { self.bounds.order }
    }

    /// Whether it has no process and needs none.
    fn is_done(&self, at: usize) -> bool {
        if let Some(known) = self.done.borrow()[at] {
            return known;
        }
        let member = &self.members[at];
        let unkillable = matches!(member.state, State::Stopping { ladder: Ladder::Unkillable, .. });
        let done = !member.has_process() && self.before_are_done(at) && (unkillable || !self.is_needed(at));
        self.done.borrow_mut()[at] = Some(done);
        done
    }

    /// Whether something waits, or may come, that only it can take.
    fn is_needed(&self, at: usize) -> bool {
        let member = &self.members[at];
        member.can_start() && self.now < self.limit(at) && (self.has_work(at) || member.saves && self.may_come(at))
    }

    /// Whether something waits for it, or for one of its sources.
    fn has_work(&self, at: usize) -> bool {
        if let Some(known) = self.work.borrow()[at] {
            return known;
        }
        let work = self.ordered(at).any(|(link, flow, source)| {
            flow.goes && ((self.waiting)(link) > 0 || !self.is_done(source) && self.has_work(source))
        });
        self.work.borrow_mut()[at] = Some(work);
        work
    }

    /// Whether one of its sources may still write.
    fn may_come(&self, at: usize) -> bool {
        self.ordered(at).any(|(_, flow, source)| flow.goes && !self.is_done(source))
    }

    /// Whether its sources may be started: it is up, or it will not be started.
    fn is_ready_for_sources(&self, at: usize) -> bool {
        match self.members[at].state {
            // A child that drains goes on reading until its input ends.
            State::Up { .. } | State::Stopping { ladder: Ladder::Draining { .. }, .. } => true,
            State::Starting { .. } | State::Stopping { .. } => false,
            State::Down | State::Waiting | State::Backoff { .. } | State::Failed => !self.is_needed(at),
        }
    }

    /// The members that must be up before it starts.
    fn sinks_of(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let needs = move |&other: &usize| self.members[other].before.contains(&at);
        (0..self.members.len()).filter(needs)
    }

    fn into(&self, at: usize) -> impl Iterator<Item = (usize, &Flow)> + '_ {
        self.into[at].iter().map(|&link| (link, &self.flows[link]))
    }

    /// The links into it from sources that stop before it. If two children are linked both
    /// ways, one of them stops first and does not see the end of its input.
    fn ordered(&self, at: usize) -> impl Iterator<Item = (usize, &Flow, usize)> + '_ {
        let before = &self.members[at].before;
        self.into(at).filter_map(move |(link, flow)| {
            flow.from.filter(|source| before.contains(source)).map(|source| (link, flow, source))
        })
    }

    /// Whether nobody writes to that queue any more.
    fn all_gone(&self, queue: usize) -> bool {
        let mut sharing = self.sharing.get(&queue).into_iter().flatten().map(|&link| &self.flows[link]);
        sharing.all(|flow| {
            flow.from.is_some_and(|source| match self.members[flow.to].before.contains(&source) {
                true => self.is_done(source),
                false => self.members[source].is_gone(),
            })
        })
    }
}
