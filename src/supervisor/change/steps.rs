//! The decisions of a change, made without touching anything: which children stop and which
//! start, in which order, and when the new configuration takes effect.
//!
//! | step | until | then |
//! |---|---|---|
//! | stop | all children that change or are removed are down, sources first, by the rules of [`drain`](super::drain) | the new configuration takes effect: the point of no return |
//! | | that would lose something, or a process can't be ended | the same children start again, and the configuration stays |
//! | start | all changed and new children are up | settled |
//! | | one of them fails because of the new configuration | another change, back to the previous configuration |
//! | prepare | (only on the way back) what the previous configuration needs is made again | stop |
//!
//! A child that did not serve before is no reason to go back: half a fix is better than none.

use super::drain::{Bounds, Decision, Drain, Flow, Member, Progress, Step};
use crate::supervisor::clock::Moment;
use crate::supervisor::family::child::{Cause, Event, Machine, State};
use crate::supervisor::family::outcome::{self, Bad, Family, Seen, Start};
use crate::supervisor::kept::links::QueueId;
use crate::sys::stream::Stream;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// How often to check whether a link that is to be removed is empty: no event reports it.
const LOOK: Duration = Duration::from_millis(10);

/// A link, as a change sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkSeen<'a> {
    pub(crate) from: &'a str,
    pub(crate) stream: Stream,
    pub(crate) to: &'a str,
    /// Several links into one ordinary sink share a queue.
    pub(crate) queue: &'a QueueId,
    /// Whether its input has not ended.
    pub(crate) is_open: bool,
    /// Whether its sink saves what it takes before it consumes it.
    pub(crate) saves: bool,
}

/// What a change sees. The supervisor has one world, a simulation another.
pub(crate) trait World {
    /// The children.
    fn family(&self) -> &dyn Family;

    /// Every link.
    fn links(&self) -> Vec<LinkSeen<'_>>;

    /// How many bytes wait in the link of that number.
    fn waiting(&self, link: usize) -> usize;
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Do {
    /// Pass this event to that child.
    Tell(String, Event),
    /// End the input that this queue provides.
    EndInput(QueueId),
}

/// A stop of some children in which nothing that waits is lost, and how far it has got.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    going: BTreeSet<String>,
    /// The queues whose input ends. What waits in the others stays there.
    ends: BTreeSet<QueueId>,
    bounds: Bounds,
    progress: BTreeMap<String, Progress>,
}

/// The result of one look at a change.
#[derive(Debug)]
pub(crate) struct Next<T> {
    /// What to do, in this order.
    pub(crate) to_do: Vec<Do>,
    /// Look again after this long at the latest.
    pub(crate) look_after: Option<Duration>,
    /// What follows once that is done.
    pub(crate) then: T,
}

impl Stop {
    /// Stops these children, and ends the inputs `ends` on the way.
    pub(crate) fn new(going: BTreeSet<String>, ends: BTreeSet<QueueId>, bounds: Bounds) -> Stop {
        Stop { going, ends, bounds, progress: BTreeMap::new() }
    }

    /// Makes it wait for nothing any more and start no child again.
    pub(crate) fn cut_short(&mut self, now: Instant) {
        self.bounds = Bounds::over(now);
    }

    /// The time until which it waits for children.
    pub(crate) fn until(&self) -> Instant {
        self.bounds.all
    }

    /// Whether that input ends.
    pub(crate) fn ends(&self, queue: &QueueId) -> bool {
        self.ends.contains(queue)
    }

    /// What to do now, and whether all children are done, except those that SIGKILL does
    /// not end.
    pub(crate) fn step(&mut self, world: &dyn World, now: Instant) -> Next<bool> {
        let links = world.links();
        let family = world.family();
        let names: Vec<&String> = self.going.iter().filter(|name| family.child(name).is_some()).collect();
        let places: HashMap<&str, usize> = names.iter().map(|name| name.as_str()).zip(0..).collect();
        // A queue is numbered by the place of the first link that uses it.
        let mut queues: BTreeMap<&QueueId, usize> = BTreeMap::new();
        let (mut flows, mut places_of_flows) = (Vec::new(), Vec::new());
        for (place, link) in links.iter().enumerate() {
            let Some(&to) = places.get(link.to) else { continue };
            let queue = *queues.entry(link.queue).or_insert(place);
            flows.push(Flow { from: places.get(link.from).copied(), to, queue, goes: self.ends(link.queue) });
            places_of_flows.push(place);
        }
        let members = self.members(&names, &places, &links, family);
        let waiting = |flow: usize| world.waiting(places_of_flows[flow]);
        let Decision { steps, look, done } = Drain::new(&members, &flows, &waiting, self.bounds, now).decide();
        let mut to_do = Vec::new();
        for step in steps {
            to_do.push(match step {
                Step::EndInput(queue) => Do::EndInput(links[queue].queue.clone()),
                Step::Stop(at) => Do::Tell(names[at].clone(), Event::Stop),
                Step::Kill(at) => Do::Tell(names[at].clone(), Event::Kill),
                Step::Start(at) => {
                    self.progress.entry(names[at].clone()).or_default().starts += 1;
                    Do::Tell(names[at].clone(), Event::Start)
                }
                Step::Drain(at, until) => {
                    self.progress.entry(names[at].clone()).or_default().told = true;
                    Do::Tell(names[at].clone(), Event::Drain(until))
                }
            });
        }
        let bound = self.bounds.next(now).map(|at| at - now);
        Next { to_do, look_after: look.then_some(LOOK).into_iter().chain(bound).min(), then: done }
    }

    fn members(
        &self,
        names: &[&String],
        places: &HashMap<&str, usize>,
        links: &[LinkSeen<'_>],
        family: &dyn Family,
    ) -> Vec<Member> {
        let closed: HashSet<&str> = links.iter().filter(|link| !link.is_open).map(|link| link.from).collect();
        let saves: HashSet<&str> = links.iter().filter(|link| link.saves).map(|link| link.to).collect();
        let member = |name: &String| {
            let machine = family.child(name)?.machine;
            let progress = self.progress.get(name).copied().unwrap_or_default();
            Some(Member {
                state: machine.state,
                want: machine.want,
                ended_well: machine.ended_well,
                saves: saves.contains(name.as_str()),
                over: machine.is_over() || progress.told && machine.would_be_over(),
                has_output: !closed.contains(name.as_str()),
                progress,
                before: Vec::new(),
            })
        };
        let mut members: Vec<Member> = names.iter().filter_map(|name| member(name)).collect();
        for (user, needed) in family.needs() {
            let Some(&user) = places.get(user.as_str()) else { continue };
            for &other in needed.iter().filter_map(|other| places.get(other.as_str())) {
                members[other].before.push(user);
            }
        }
        members
    }

    /// What would be lost now and which children can't be ended, each as a sentence.
    fn losses(&self, world: &dyn World) -> Vec<String> {
        let links = world.links();
        let ending = links.iter().enumerate().filter(|(_, link)| self.ends(link.queue));
        let waiting = ending.map(|(place, link)| (link, world.waiting(place))).filter(|&(_, bytes)| bytes > 0);
        let lost = waiting.map(|(link, bytes)| {
            let from = link.stream.of(link.from);
            format!("nobody took {bytes} bytes in the link {from} -> {}, which is removed", link.to)
        });
        // If a process can't be killed, its replacement would find in use what it still holds.
        outcome::unkillable(world.family(), &self.going).into_iter().chain(lost).collect()
    }
}

/// A change of some children, from one configuration to another.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// The children that it stops, starts or changes.
    concerned: BTreeSet<String>,
    at: At,
    before: Before,
    /// Why it goes back to the previous configuration, if it does.
    why_back: Option<String>,
}

/// Where a change is.
#[derive(Debug, Clone)]
enum At {
    /// On the way back: what the previous configuration needs is made again.
    Prepare,
    /// Children that change or are removed are stopped.
    Stop(Stop),
    /// The new configuration is in force, and changed and new children are started. `coming`
    /// has those that have not been up yet.
    Start { coming: BTreeSet<String> },
}

/// How the children were before a change; a change back keeps that of the first change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Before {
    /// Those that did not serve.
    pub(crate) hopeless: BTreeSet<String>,
    /// Those that an operator stopped: they stay stopped.
    pub(crate) held: BTreeSet<String>,
    /// The machines of those that were over or given up, and when they had ended: going
    /// back is no reason to run them again.
    pub(crate) over: BTreeMap<String, (Machine, Option<Moment>)>,
}

impl Before {
    /// Notes how that child is.
    pub(crate) fn note(&mut self, name: &str, family: &dyn Family, ended: Option<Moment>) {
        let Some(Seen { machine, .. }) = family.child(name) else { return };
        if !family.served(name) {
            self.hopeless.insert(name.to_owned());
        }
        if machine.want.is_held() {
            self.held.insert(name.to_owned());
        }
        if machine.is_over() || machine.state == State::Failed {
            self.over.insert(name.to_owned(), (machine.clone(), ended));
        }
    }
}

/// What follows once the steps are taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing, until something happens.
    Wait,
    /// All children that had to stop are down: the new configuration takes effect, even if
    /// these things are lost.
    TakeEffect(Vec<String>),
    /// The current configuration stays, for these reasons, and the children that were stopped
    /// start again.
    TurnBack(Vec<String>),
    /// Back to the previous configuration, because these children do not serve.
    GoBack(Vec<(String, Bad)>),
    /// All are up, except these.
    Settle(Vec<(String, Bad)>),
}

impl Change {
    /// A change that begins by stopping children.
    pub(crate) fn new(concerned: BTreeSet<String>, stop: Stop, before: Before) -> Change {
        Change { concerned, at: At::Stop(stop), before, why_back: None }
    }

    /// This change back, now that it is prepared and known which children it stops.
    pub(crate) fn stopping(self, concerned: BTreeSet<String>, stop: Stop) -> Change {
        Change { concerned, at: At::Stop(stop), ..self }
    }

    /// Another change, back to the previous configuration.
    pub(crate) fn back(&self, why: String) -> Change {
        Change { at: At::Prepare, why_back: Some(why), ..self.clone() }
    }

    /// Another change, in which the children that this one has stopped start again.
    pub(crate) fn turned_back(&self, why: String) -> Change {
        Change { at: At::Start { coming: BTreeSet::new() }, ..self.back(why) }
    }

    /// Whether it stops, starts or changes that child.
    pub(crate) fn concerns(&self, name: &str) -> bool {
        self.concerned.contains(name)
    }

    /// Whether that child must not be started before the new configuration is in force.
    pub(crate) fn delays(&self, name: &str) -> bool {
        self.is_before_effect() && self.concerns(name)
    }

    /// Whether it stops that child, and may start it once more for what waits for it.
    pub(crate) fn stops(&self, name: &str) -> bool {
        self.stop().is_some_and(|stop| stop.going.contains(name))
    }

    /// The stop that is under way, if it is at that step.
    pub(crate) fn stop(&self) -> Option<&Stop> {
        match &self.at {
            At::Stop(stop) => Some(stop),
            At::Prepare | At::Start { .. } => None,
        }
    }

    /// Whether its configuration is not in force yet.
    pub(crate) fn is_before_effect(&self) -> bool {
        !matches!(self.at, At::Start { .. })
    }

    /// Why it goes back, if it does.
    pub(crate) fn why_back(&self) -> Option<&str> {
        self.why_back.as_deref()
    }

    /// How the children were before.
    pub(crate) fn before(&self) -> &Before {
        &self.before
    }

    /// What to do now.
    pub(crate) fn step(&mut self, world: &dyn World, now: Instant) -> Next<Then> {
        let is_back = self.why_back.is_some();
        let (to_do, look_after, then) = match &mut self.at {
            At::Prepare => (Vec::new(), None, Then::Wait),
            At::Stop(stop) => {
                let Next { to_do, look_after, then: done } = stop.step(world, now);
                let then = match done.then(|| stop.losses(world)) {
                    None => Then::Wait,
                    Some(losses) if losses.is_empty() || is_back => Then::TakeEffect(losses),
                    Some(losses) => Then::TurnBack(losses),
                };
                (to_do, look_after, then)
            }
            At::Start { .. } => (Vec::new(), None, self.see_who_comes(world.family())),
        };
        Next { to_do, look_after, then }
    }

    /// Checks which children have come up, and goes back if one can't.
    fn see_who_comes(&mut self, family: &dyn Family) -> Then {
        let At::Start { coming } = &mut self.at else { return Then::Wait };
        let is_held = |name: &str| family.child(name).is_some_and(|child| child.machine.want.is_held());
        // A child that was up once has come up; what happens to it later does not concern
        // this change. Neither does a child that an operator has stopped meanwhile.
        coming.retain(|name| family.start_of(name) != Start::Good && !is_held(name));
        let (mut bad, mut open, mut to_blame) = (Vec::new(), false, false);
        for name in &*coming {
            match family.start_of(name) {
                Start::Bad(why) => {
                    let cause = family.cause(name);
                    to_blame |= coming.contains(cause) && !self.before.hopeless.contains(cause);
                    bad.push((name.clone(), why));
                }
                Start::Open | Start::Good => open = true,
            }
        }
        match (to_blame && self.why_back.is_none(), open) {
            (true, _) => Then::GoBack(bad),
            (false, true) => Then::Wait,
            (false, false) => Then::Settle(bad),
        }
    }

    /// The new configuration takes effect. `held` are the children that operators have stopped
    /// by now; those that are removed are known only by their names from here on.
    pub(crate) fn take_effect<'a>(&mut self, held: impl Iterator<Item = &'a str>) {
        self.before.held.extend(held.map(str::to_owned));
        self.at = At::Start { coming: BTreeSet::new() };
    }

    /// The event for a child that is changed, new, or was stopped, now that its configuration
    /// is in force. On the way back, a child that was over before stays as it was.
    pub(crate) fn bring_back(
        &mut self,
        name: &str,
        machine: &mut Machine,
        ended: &mut Option<Moment>,
    ) -> Option<Event> {
        match self.before.over.get(name).filter(|_| self.why_back.is_some()) {
            Some((over, at)) => {
                let now = std::mem::replace(machine, over.clone());
                (machine.restarts, machine.restarts_by) = (now.restarts, now.restarts_by);
                *ended = *at;
                None
            }
            None => self.bring(name, machine),
        }
    }

    /// The event for a child that is to start, unless an operator stopped it.
    pub(crate) fn bring(&mut self, name: &str, machine: &mut Machine) -> Option<Event> {
        let At::Start { coming } = &mut self.at else { return None };
        if machine.want.is_held() {
            return None;
        }
        coming.insert(name.to_owned());
        machine.because = Some(Cause::Reload);
        Some(Event::Await)
    }
}
