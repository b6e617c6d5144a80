//! Children for which the system lacks something: an account, a program, a folder, an
//! address. At a start only such a child is held back, and all others run. It is tried
//! again after a second, then after twice as long each time, and whenever an operator
//! starts it. A process aside looks for what is missing, so the loop never waits for that.

use crate::config::model::Address;
use crate::config::{Loaded, Source, Which, looked};
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::child::{Event, State};
use crate::supervisor::family::supervised::Prepared;
use crate::supervisor::kept::holder;
use crate::supervisor::kept::names::{Making, Names};
use crate::supervisor::looks::Purpose;
use crate::supervisor::poll::Id;
use crate::sys::aside::Keeps;
use crate::sys::cause::cause;
use crate::sys::look::{ALL, Answers, Look};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The first retry comes after this long.
const FIRST: Duration = Duration::from_secs(1);
/// The longest time between two retries.
const LONGEST: Duration = Duration::from_secs(30);
/// If a look's result were ever lost, the child would be held back this much longer at most.
const LOST: Duration = Duration::from_secs(5);

/// How long to wait for a reload that is making names of sockets: it is over soon, or hangs.
const RELOAD: Duration = Duration::from_secs(1);

/// How a child is held back.
#[derive(Debug, Default)]
pub(crate) struct HeldBack {
    /// Whether what it lacks is not known yet: a process aside is looking, or is about to.
    pub(crate) is_open: bool,
    tries: u32,
}

impl HeldBack {
    fn next_wait(&mut self) -> Duration {
        let wait = FIRST.saturating_mul(1 << self.tries.min(5)).min(LONGEST);
        self.tries += 1;
        wait
    }
}

/// A look for what a child lacks.
pub(crate) struct Lacking {
    id: Id,
    source: Rc<Source>,
    /// Addresses that could not be bound, and why.
    addresses: BTreeMap<Address, io::Error>,
    making: Making,
}

impl Lacking {
    /// The child that is held back.
    pub(crate) fn id(&self) -> Id {
        self.id
    }

    /// The names that are being made for it.
    pub(crate) fn making(&self) -> &Making {
        &self.making
    }
}

impl Supervisor {
    /// If that child lacks anything, begins to look for it. The child must not be started
    /// yet then; the returned event says so.
    pub(crate) fn hold_back(&mut self, id: Id) -> Option<Event> {
        let addresses = self.bind_missing(id);
        let child = self.children.get_mut(id)?;
        if child.config.lacks.is_empty() && addresses.is_empty() {
            child.held_back = HeldBack::default();
            return None;
        }
        child.held_back.is_open = true;
        if self.looks.look_for(id) {
            return Some(Event::HeldBack(None, Instant::now() + ALL + LOST));
        }
        // A reload may be binding the same address: each would find it taken by the other.
        if !addresses.is_empty() && self.is_taking_addresses() {
            return Some(Event::HeldBack(None, Instant::now() + RELOAD));
        }
        if let Err(error) = self.look_for(id, addresses) {
            return Some(self.held_back(id, error));
        }
        Some(Event::HeldBack(None, Instant::now() + ALL + LOST))
    }

    /// Binds the addresses of that child that are not bound yet. Returns those that can't be
    /// bound, and why.
    fn bind_missing(&mut self, id: Id) -> BTreeMap<Address, io::Error> {
        let Some(child) = self.children.get(id) else { return BTreeMap::new() };
        let listen = child.config.listen.clone();
        let missing = listen.iter().any(|address| !self.kept.sockets.has(address));
        let failed = |address: Address| {
            let error = self.kept.sockets.bind(&address, &self.kept.store).err()?;
            Some((address, error))
        };
        let failed: BTreeMap<Address, io::Error> = listen.into_iter().filter_map(failed).collect();
        self.kept.keep_renewed(&mut self.manager);
        if missing {
            self.log_places();
        }
        failed
    }

    fn look_for(&mut self, id: Id, addresses: BTreeMap<Address, io::Error>) -> Result<(), String> {
        let wanted = self.kept.sockets.wanted(addresses.keys(), &self.kept.store);
        let making = wanted.prepare()?;
        let source = self.loaded.source.clone();
        let lacks = self.children.get(id).is_some_and(|child| !child.config.lacks.is_empty());
        let look = Look::begin(Keeps::Only(&making.sockets()), |scribe| {
            making.make(scribe);
            for (address, error) in &addresses {
                if error.kind() == io::ErrorKind::AddrInUse || matches!(address, Address::Unix(_)) {
                    scribe
                        .ask(&holder_of(address), &format!("finding who listens on {address}"), || holder::of(address));
                }
            }
            if lacks {
                looked::look_again(&source, scribe);
            }
        });
        let look =
            look.map_err(|error| format!("cannot start a process that looks at the system: {}", cause(&error)))?;
        self.follow(look, Purpose::Lacking(Box::new(Lacking { id, source, addresses, making })));
        Ok(())
    }

    pub(crate) fn looked_for_lacking(&mut self, lacking: Lacking, answers: Result<Answers, String>) {
        let Lacking { id, source, addresses, making } = lacking;
        let Some(child) = self.children.get_mut(id) else { return };
        child.held_back.is_open = false;
        // An operator has stopped it meanwhile, or a reload has replaced it.
        if !matches!(child.machine.state, State::Backoff { .. }) {
            drop(answers.map(|answers| making.made(&answers)));
            return;
        }
        let answers = match answers {
            Ok(answers) => answers,
            Err(why) => {
                let event = self.held_back(id, why);
                return self.step(id, event);
            }
        };
        let mut names = making.made(&answers);
        // Another configuration has come into force meanwhile, so look again.
        if !Rc::ptr_eq(&source, &self.loaded.source) {
            return self.step(id, Event::Found);
        }
        self.take_over(id, &source, &answers);
        let mut why: Vec<String> = self.children.get(id).map(|child| child.config.lacks.clone()).unwrap_or_default();
        why.extend(self.still_missing(id, &addresses, &mut names, &answers));
        let event = if why.is_empty() { Event::Found } else { self.held_back(id, why.join("; ")) };
        self.log_places();
        self.step(id, event);
    }

    /// Takes over what is known now about that child.
    fn take_over(&mut self, id: Id, source: &Rc<Source>, answers: &Answers) {
        let Some(child) = self.children.get_mut(id).filter(|child| !child.config.lacks.is_empty()) else { return };
        let Ok(Loaded { model, at_hand, .. }) = looked::loaded_again(source, answers, Which::OfTheFile) else { return };
        let Some(config) = model.child(&child.config.name).cloned() else { return };
        self.loaded.at_hand.extend(at_hand);
        let at_hand = self.loaded.is_at_hand(&config);
        if config.lacks.is_empty() {
            match Prepared::new(config.clone(), at_hand, id, &self.system.poll, &mut self.kept.memory) {
                Ok(prepared) => child.change(prepared),
                Err(error) => return log::error!(target: &child.config.name, "{error}"),
            }
        } else {
            child.config = config.clone();
        }
        let place = self.loaded.model.children.iter().position(|other| other.name == config.name);
        if let Some(other) = place.and_then(|place| self.loaded.model.children.get_mut(place)) {
            *other = config;
        }
        self.kept.links.set_users(&self.loaded.model);
    }

    /// Why that child can't listen, with a reason for each address.
    fn still_missing(
        &mut self,
        id: Id,
        before: &BTreeMap<Address, io::Error>,
        names: &mut Names,
        answers: &Answers,
    ) -> Vec<String> {
        let made = before.keys().filter(|address| matches!(address, Address::Unix(_)));
        let holder = |address: &Address| answers.get::<Option<String>>(&holder_of(address)).flatten();
        let mut why = Vec::new();
        for address in made {
            match self.kept.sockets.bind_new([address], &self.kept.store, names) {
                Ok(bound) => self.kept.sockets.keep(bound),
                Err(error) => {
                    let by = holder(address).map(|by| format!(" by {by}; stop it, or take another name"));
                    why.push(error + by.as_deref().unwrap_or_default());
                }
            }
        }
        let others = self.bind_missing(id).into_iter().filter(|(address, _)| !matches!(address, Address::Unix(_)));
        why.extend(others.map(|(address, error)| holder::refusal(&address, &error, holder(&address))));
        let line =
            self.children.get(id).map_or(0, |child| child.config.lines.of("listen").unwrap_or(child.config.line));
        let place = self.loaded.place(line);
        why.into_iter().map(|why| format!("{place}: {why}")).collect()
    }

    /// Holds that child back until its next retry.
    fn held_back(&mut self, id: Id, why: String) -> Event {
        let Some(child) = self.children.get_mut(id) else { return Event::HeldBack(Some(why), Instant::now()) };
        child.held_back.is_open = false;
        let wait = child.held_back.next_wait();
        Event::HeldBack(Some(why), Instant::now() + wait)
    }

    /// The look for what that child lacks was abandoned, because the daemon ends.
    pub(crate) fn not_looked_for(&mut self, lacking: &Lacking) {
        if let Some(child) = self.children.get_mut(lacking.id()) {
            child.held_back.is_open = false;
        }
    }
}

fn holder_of(address: &Address) -> String {
    format!("holder of {address}")
}
