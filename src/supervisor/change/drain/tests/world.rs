//! A few children, the links between them, and what flows there.

use super::super::*;
use crate::config::model::{Backoff, Policy, Ready, Restart, StartLimit, StopTo, Success};
use crate::supervisor::dice::Dice;
use crate::supervisor::family::child::{Action, Event, Machine};
use crate::sys::process::Exit;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::{BTreeSet, VecDeque};
use std::fmt;

/// The rules that the world follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// The real ones.
    Whole,
    /// A child without a process is done, even if something waits for it.
    DeadIsDone,
    /// No child is started for what waits for it.
    NobodyIsStarted,
    /// All children are asked at once.
    NoOrder,
}

#[derive(Debug, Default)]
pub struct Seen {
    pub events: u64,
    pub saved: u64,
    pub killed: u64,
    pub stopped: u64,
    /// Drains of all children, and of some.
    pub drains: u64,
    pub partial: u64,
    /// Drains of some children that would have lost something.
    pub turned_back: u64,
    /// Drains of some children that the end cut short.
    pub cut_short: u64,
    /// Starts by a drain for what waited.
    pub started: u64,
    /// Messages that waited at the end for a good reason.
    pub waiting: u64,
    pub lost_in_hand: u64,
    /// Drains that took longer than the time for an order.
    pub late: u64,
}

/// The number of a message: the output that it came from, and its number there. The outputs of
/// child N have the numbers 2N and 2N + 1.
type Message = (usize, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Source,
    Filter,
    /// A sink that saves before it consumes.
    Saver,
    /// An ordinary sink.
    Sink,
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    asked: bool,
    forced: bool,
    deaf: bool,
    in_hand: Option<Message>,
}

#[derive(Debug)]
struct Node {
    role: Role,
    machine: Machine,
    progress: Progress,
    process: Option<Process>,
    into: Option<usize>,
    /// The queues of its standard output and of its standard error.
    outs: [Option<usize>; 2],
    needs: Vec<usize>,
    written: [u64; 2],
    spawned: i32,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    room: usize,
    /// Whether the supervisor holds its write end.
    open: bool,
}

pub struct World {
    law: Law,
    now: Instant,
    begin: Instant,
    nodes: Vec<Node>,
    queues: Vec<Queue>,
    file: Vec<Message>,
    lost_in_hand: Vec<Message>,
    /// The drain under way: which children stop, which queues are removed, and its bounds.
    drain: Option<(Vec<usize>, BTreeSet<usize>, Bounds)>,
    /// Whether it is the end.
    ending: bool,
    drained_from: Instant,
    events: u64,
}

fn policy(dice: &mut Dice, role: Role) -> Policy {
    let ms = Duration::from_millis;
    Policy {
        restart: match role {
            Role::Saver => Restart::Always,
            _ => dice.of(&[Restart::Always, Restart::Always, Restart::OnFailure, Restart::Never]),
        },
        backoff: Backoff { first: dice.of(&[ms(0), ms(200)]), factor: 2.0, max: ms(2000), reset_after: ms(1000) },
        start_limit: StartLimit { burst: dice.of(&[3, 1000]), within: ms(10_000) },
        ready: Ready::Exec,
        ready_timeout: ms(5000),
        stop_signal: Signal::SIGTERM,
        stop_to: StopTo::Group,
        success: Success { codes: vec![0], signals: Vec::new() },
        stop_timeout: dice.of(&[ms(300), ms(3000)]),
    }
}

/// A child that is to start once the children it needs are up.
fn waiting(policy: Policy) -> Machine {
    let mut machine = Machine::new(policy);
    machine.step(Event::Await, Instant::now());
    machine
}

impl World {
    /// Chains with zero to three filters, their children in any order, and one sink or
    /// several; sometimes two sources into one sink. Some sources and filters write errors too,
    /// which go anywhere.
    pub fn new(law: Law, dice: &mut Dice) -> World {
        let mut roles = Vec::new();
        let mut links = Vec::new();
        for _ in 0..=dice.below(3) {
            let sink = roles.len();
            roles.push(dice.of(&[Role::Saver, Role::Saver, Role::Sink]));
            for _ in 0..=dice.below(2) {
                let mut to = sink;
                for _ in 0..dice.below(4) {
                    roles.push(Role::Filter);
                    links.push((roles.len() - 1, to));
                    to = roles.len() - 1;
                }
                roles.push(Role::Source);
                links.push((roles.len() - 1, to));
            }
        }
        let mut places: Vec<usize> = (0..roles.len()).collect();
        dice.shuffle(&mut places);
        let mut nodes: Vec<Node> = places
            .iter()
            .map(|&role| Node {
                role: roles[role],
                machine: waiting(policy(dice, roles[role])),
                progress: Progress::default(),
                process: None,
                into: None,
                outs: [None; 2],
                needs: Vec::new(),
                written: [0; 2],
                spawned: 0,
            })
            .collect();
        let at = |role: usize| places.iter().position(|&place| place == role).unwrap();
        let mut queues: Vec<Queue> = Vec::new();
        for (from, to) in links {
            let (from, to) = (at(from), at(to));
            let queue = *nodes[to].into.get_or_insert_with(|| {
                queues.push(Queue { room: dice.of(&[1, 4, 50]), open: true, ..Queue::default() });
                queues.len() - 1
            });
            nodes[from].outs[0] = Some(queue);
            nodes[from].needs.push(to);
        }
        for from in 0..nodes.len() {
            let to = dice.below(nodes.len());
            let queue = nodes[to].into.filter(|_| dice.percent(30) && !reaches(&nodes, to, from));
            if nodes[from].outs[0].is_some() && queue.is_some() {
                nodes[from].outs[1] = queue;
                nodes[from].needs.push(to);
            }
        }
        // One child must be up before another without a link between them.
        let (one, other) = (dice.below(nodes.len()), dice.below(nodes.len()));
        if one != other && !reaches(&nodes, other, one) {
            nodes[one].needs.push(other);
        }
        let now = Instant::now();
        let (file, lost_in_hand) = (Vec::new(), Vec::new());
        World {
            law,
            now,
            begin: now,
            nodes,
            queues,
            file,
            lost_in_hand,
            drain: None,
            ending: false,
            drained_from: now,
            events: 0,
        }
    }

    /// Lives through some events, then the end.
    pub fn live(&mut self, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        for _ in 0..dice.below(400) {
            if self.drain.is_none() && dice.percent(1) {
                self.begin_partial(dice);
            }
            self.event(dice, seen, true)?;
        }
        // The end may come in the middle of a reload, whose ended inputs are reopened then.
        let through = dice.percent(50);
        while self.drain.is_some() && through {
            self.event(dice, seen, true)?;
        }
        seen.cut_short += u64::from(self.drain.is_some());
        self.queues.iter_mut().for_each(|queue| queue.open = true);
        self.drain = Some(((0..self.nodes.len()).collect(), (0..self.queues.len()).collect(), self.bounds(dice)));
        self.ending = true;
        self.begin_drain();
        // Operators do nothing any more, but kills go on for a while.
        let until = self.events + dice.below(300) as u64;
        while self.drain.is_some() {
            let kills = self.events < until;
            self.event(dice, seen, kills)?;
        }
        seen.drains += 1;
        self.account(seen)
    }

    fn bounds(&self, dice: &mut Dice) -> Bounds {
        let longest = self.nodes.iter().map(|node| node.machine.policy.stop_timeout).max().unwrap();
        Bounds::new(self.now, dice.of(&[Duration::from_millis(200), Duration::from_secs(10)]), longest)
    }

    /// Begins a reload: either a child changes with its links and the children at their
    /// other ends, or it changes alone and its links stay.
    fn begin_partial(&mut self, dice: &mut Dice) {
        let one = dice.below(self.nodes.len());
        let links: BTreeSet<usize> = self.nodes[one].links().collect();
        let goes = if dice.percent(70) { links } else { BTreeSet::new() };
        let touched = |node: &Node| node.links().any(|queue| goes.contains(&queue));
        let going = (0..self.nodes.len()).filter(|&at| at == one || touched(&self.nodes[at])).collect();
        self.drain = Some((going, goes, self.bounds(dice)));
        self.begin_drain();
    }

    fn begin_drain(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.progress = Progress::default());
        self.drained_from = self.now;
    }

    fn event(&mut self, dice: &mut Dice, seen: &mut Seen, kills: bool) -> Result<(), String> {
        self.events += 1;
        seen.events += 1;
        self.now += dice.up_to(Duration::from_millis(20));
        let at = dice.below(self.nodes.len());
        match dice.roll() % 100 {
            0 if kills => self.kill(at, seen)?,
            1 if self.drain.is_none() => self.operator(at, dice, seen)?,
            _ => self.process(at, dice, seen)?,
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].process.as_ref().is_some_and(|process| process.forced) {
                self.end(at, Exit::Signal(9))?;
            }
            if self.nodes[at].machine.deadline().is_some_and(|deadline| deadline <= self.now) {
                self.tell(at, Event::Tick)?;
            }
            let ready = |&other: &usize| self.nodes[other].machine.is_up();
            if self.nodes[at].machine.state == State::Waiting && self.nodes[at].needs.iter().all(ready) {
                self.tell(at, Event::Start)?;
            }
        }
        self.advance(seen)
    }

    fn operator(&mut self, at: usize, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        seen.stopped += 1;
        if self.nodes[at].machine.want.is_held() && dice.percent(50) {
            return self.tell(at, Event::Await);
        }
        self.tell(at, Event::Hold)?;
        self.tell(at, Event::Stop)
    }

    fn kill(&mut self, at: usize, seen: &mut Seen) -> Result<(), String> {
        seen.killed += u64::from(self.nodes[at].process.is_some());
        self.end(at, Exit::Signal(9))
    }

    /// Lets a process do the next thing that it has to do.
    fn process(&mut self, at: usize, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        if self.nodes[at].process.is_none() {
            return Ok(());
        }
        // A program may begin its work before the supervisor has seen that it was executed.
        if matches!(self.nodes[at].machine.state, State::Starting { .. }) && dice.percent(50) {
            return self.tell(at, Event::Executed);
        }
        let ended = self.nodes[at].into.is_some_and(|queue| self.has_ended(queue));
        let node = &mut self.nodes[at];
        let process = node.process.as_mut().unwrap();
        if process.asked && !process.deaf && dice.percent(50) {
            let exit = match node.role {
                Role::Saver => Exit::Code(0),
                _ => dice.of(&[Exit::Code(0), Exit::Signal(15)]),
            };
            return self.end(at, exit);
        }
        match node.role {
            Role::Source | Role::Filter if node.role == Role::Source || dice.percent(10) => {
                let output = if node.role == Role::Filter { 1 } else { dice.below(2) };
                let Some(queue) = node.outs[output].map(|queue| &mut self.queues[queue]) else { return Ok(()) };
                if queue.messages.len() < queue.room {
                    node.written[output] += 1;
                    queue.messages.push_back((2 * at + output, node.written[output]));
                }
            }
            Role::Source | Role::Filter => {
                let out = &mut self.queues[node.outs[0].unwrap()];
                match process.in_hand {
                    Some(message) if out.messages.len() < out.room => {
                        out.messages.push_back(message);
                        process.in_hand = None;
                    }
                    Some(_) => {}
                    None => process.in_hand = self.queues[node.into.unwrap()].messages.pop_front(),
                }
                if process.in_hand.is_none() && ended {
                    return self.end(at, Exit::Code(0));
                }
            }
            Role::Saver | Role::Sink => {
                let into = &mut self.queues[node.into.unwrap()];
                seen.saved += into.messages.len() as u64;
                self.file.extend(into.messages.drain(..));
                if ended {
                    return self.end(at, Exit::Code(0));
                }
            }
        }
        Ok(())
    }

    /// Whether a reader of that queue sees the end of the file.
    fn has_ended(&self, queue: usize) -> bool {
        let held = self.nodes.iter().any(|node| node.outs.contains(&Some(queue)) && node.process.is_some());
        !self.queues[queue].open && !held && self.queues[queue].messages.is_empty()
    }

    fn end(&mut self, at: usize, exit: Exit) -> Result<(), String> {
        let Some(process) = self.nodes[at].process.take() else { return Ok(()) };
        self.lost_in_hand.extend(process.in_hand);
        self.tell(at, Event::Exited(exit))
    }

    fn tell(&mut self, at: usize, event: Event) -> Result<(), String> {
        for action in self.nodes[at].machine.step(event, self.now) {
            let node = &mut self.nodes[at];
            match action {
                Action::Spawn => {
                    if node.outs.iter().flatten().any(|&queue| !self.queues[queue].open) {
                        return Err(format!("child {at} is started though its output has ended"));
                    }
                    node.spawned += 1;
                    let pid = Pid::from_raw(node.spawned);
                    // One in eight ignores all signals but SIGKILL.
                    let deaf = (at as i32 + node.spawned) % 8 == 0;
                    node.process = Some(Process { pid, asked: false, forced: false, deaf, in_hand: None });
                    self.tell(at, Event::Spawned(pid))?;
                }
                Action::Ask(pid, _) => {
                    self.process_of(at, pid)?.asked = true;
                    self.may_ask(at)?;
                }
                Action::Force(pid) => self.process_of(at, pid)?.forced = true,
                Action::Say(..) => {}
            }
        }
        Ok(())
    }

    /// Whether a drain may ask that child: not while it has time to finish what it took
    /// before its input ended.
    fn may_ask(&self, at: usize) -> Result<(), String> {
        let Some((_, _, bounds)) = &self.drain else { return Ok(()) };
        let Node { process, into, .. } = &self.nodes[at];
        let has_message = process.as_ref().is_some_and(|process| process.in_hand.is_some());
        let input_ended = into.is_some_and(|queue| !self.queues[queue].open);
        if has_message && input_ended && self.now < bounds.order {
            return Err(format!("child {at} is asked to stop while it holds a message"));
        }
        Ok(())
    }

    fn process_of(&mut self, at: usize, pid: Pid) -> Result<&mut Process, String> {
        let process = self.nodes[at].process.as_mut().filter(|process| process.pid == pid);
        process.ok_or_else(|| format!("child {at}: a signal for a process that is gone"))
    }

    fn members(&self, going: &[usize]) -> Vec<Member> {
        let before = |at: usize| {
            let users = going.iter().enumerate().filter(|&(_, &user)| self.nodes[user].needs.contains(&at));
            users.map(|(place, _)| place).collect()
        };
        let member = |&at: &usize| {
            let node = &self.nodes[at];
            let lies = self.law == Law::DeadIsDone && node.role != Role::Saver;
            Member {
                state: node.machine.state,
                want: node.machine.want,
                ended_well: node.machine.last_exit.is_some_and(Exit::success),
                saves: node.role == Role::Saver,
                over: is_over(node) || lies || self.law == Law::NobodyIsStarted,
                has_output: node.outs.iter().flatten().all(|&queue| self.queues[queue].open),
                progress: node.progress,
                before: if self.law == Law::NoOrder { Vec::new() } else { before(at) },
            }
        };
        going.iter().map(member).collect()
    }

    fn flows(&self, going: &[usize], goes: &BTreeSet<usize>) -> Vec<(Flow, usize)> {
        let place = |at: usize| going.iter().position(|&other| other == at);
        let mut flows = Vec::new();
        let outs = |(from, node): (usize, &Node)| node.outs.into_iter().flatten().map(move |queue| (from, queue));
        for (from, queue) in self.nodes.iter().enumerate().flat_map(outs) {
            let to = self.nodes.iter().position(|sink| sink.into == Some(queue)).and_then(place);
            if let Some(to) = to {
                flows.push((Flow { from: place(from), to, queue, goes: goes.contains(&queue) }, queue));
            }
        }
        flows
    }

    /// Takes the possible steps, as the supervisor does after each event.
    fn advance(&mut self, seen: &mut Seen) -> Result<(), String> {
        let Some((going, goes, bounds)) = self.drain.clone() else { return Ok(()) };
        let members = self.members(&going);
        let (flows, queues): (Vec<Flow>, Vec<usize>) = self.flows(&going, &goes).into_iter().unzip();
        let waiting = |link: usize| self.queues[queues[link]].messages.len();
        let decision = Drain::new(&members, &flows, &waiting, bounds, self.now).decide();
        for step in decision.steps {
            match step {
                Step::EndInput(queue) => self.queues[queue].open = false,
                Step::Stop(at) => self.tell(going[at], Event::Stop)?,
                Step::Kill(at) => self.tell(going[at], Event::Kill)?,
                Step::Start(at) => {
                    seen.started += 1;
                    self.nodes[going[at]].progress.starts += 1;
                    self.tell(going[at], Event::Start)?;
                }
                Step::Drain(at, until) => {
                    self.nodes[going[at]].progress.told = true;
                    self.tell(going[at], Event::Drain(until))?;
                }
            }
        }
        if decision.done {
            return self.end_of_drain(&going, &goes, bounds, seen);
        }
        if self.now > bounds.all + Duration::from_millis(50) {
            return Err("the drain goes on after its bound".to_owned());
        }
        Ok(())
    }

    fn end_of_drain(
        &mut self,
        going: &[usize],
        goes: &BTreeSet<usize>,
        bounds: Bounds,
        seen: &mut Seen,
    ) -> Result<(), String> {
        self.drain = None;
        seen.late += u64::from(self.now >= bounds.order);
        for &at in going {
            let node = &self.nodes[at];
            let is_down = node.machine.state == State::Down && (!node.machine.want.is_up() || node.machine.is_over());
            if node.process.is_some() || !is_down {
                return Err(format!("child {at} is not down at the end of a drain"));
            }
            let Some(queue) = node.into.filter(|queue| goes.contains(queue)) else { continue };
            let waits = self.queues[queue].messages.len();
            let Progress { starts, told } = node.progress;
            let ended_well = node.machine.last_exit.is_some_and(Exit::success);
            let over = node.role != Role::Saver && (is_over(node) || told && ended_well);
            let late = self.now >= bounds.order;
            if waits > 0 && starts < STARTS && !over && !late {
                return Err(format!("{waits} messages wait for child {at}, which could have taken them"));
            }
        }
        if !self.ending {
            // If a link that is to be removed still holds something, that is a reason to go back.
            seen.partial += 1;
            seen.turned_back += u64::from(goes.iter().any(|&queue| !self.queues[queue].messages.is_empty()));
            goes.iter().for_each(|&queue| self.queues[queue].open = true);
            for &at in going {
                if !self.nodes[at].machine.want.is_held() {
                    self.tell(at, Event::Await)?;
                }
            }
        }
        Ok(())
    }

    /// Checks that each message is somewhere exactly once, and in the file in its source's order.
    fn account(&self, seen: &mut Seen) -> Result<(), String> {
        let waiting: Vec<Message> = self.queues.iter().flat_map(|queue| queue.messages.iter().copied()).collect();
        seen.waiting += waiting.len() as u64;
        seen.lost_in_hand += self.lost_in_hand.len() as u64;
        let mut all: Vec<Message> = self.file.iter().chain(&waiting).chain(&self.lost_in_hand).copied().collect();
        all.sort_unstable();
        let counts = self.nodes.iter().flat_map(|node| node.written).enumerate();
        let expected: Vec<Message> =
            counts.flat_map(|(output, written)| (1..=written).map(move |number| (output, number))).collect();
        if all != expected {
            return Err(format!("{} messages were written, and {} are somewhere", expected.len(), all.len()));
        }
        for output in 0..2 * self.nodes.len() {
            let numbers = self.file.iter().filter(|message| message.0 == output).map(|message| message.1);
            if !numbers.is_sorted() {
                return Err(format!("what child {} wrote is not in order", output / 2));
            }
        }
        Ok(())
    }
}

impl Node {
    /// The queues of its links.
    fn links(&self) -> impl Iterator<Item = usize> {
        self.into.into_iter().chain(self.outs.into_iter().flatten())
    }
}

/// Whether that child is over, as the supervisor computes it for a drain.
fn is_over(node: &Node) -> bool {
    node.machine.is_over() || node.progress.told && node.machine.would_be_over()
}

/// Whether the first needs the second, directly or indirectly.
fn reaches(nodes: &[Node], from: usize, to: usize) -> bool {
    from == to || nodes[from].needs.iter().any(|&other| reaches(nodes, other, to))
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = |at: Instant| at.saturating_duration_since(self.begin);
        writeln!(
            f,
            "after {:?}, {} events, draining since {:?}",
            since(self.now),
            self.events,
            since(self.drained_from)
        )?;
        for (at, node) in self.nodes.iter().enumerate() {
            let Machine { state, want, last_exit, .. } = &node.machine;
            writeln!(
                f,
                "{at}: {:?} {want:?} {state:?} {last_exit:?} {:?} {:?} -> {:?} needs {:?} {:?}",
                node.role, node.progress, node.into, node.outs, node.needs, node.process
            )?;
        }
        for (at, queue) in self.queues.iter().enumerate() {
            writeln!(f, "queue {at}: {} of {}, open {}", queue.messages.len(), queue.room, queue.open)?;
        }
        Ok(())
    }
}
