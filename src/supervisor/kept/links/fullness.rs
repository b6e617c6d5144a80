//! Whether a queue is full, so that its sources have to wait. Pure: it takes what happened and
//! when, and returns what to do.
//!
//! A queue is full if its pipe has had no free page for [`FULL`]. A pipe that was full for a
//! moment is normal: that is how a sink slows its sources down.
//!
//! The kernel reports that bytes wait and that there is room (epoll(7)), but never that a pipe
//! has become full. If both were reported each time, every message would wake the supervisor.
//! So each is asked for only once, and only in the states that need it:
//!
//! | state | what ends it | next state |
//! |---|---|---|
//! | empty | the kernel reports bytes | holds some |
//! | holds some | [`PAUSE`] has passed | empty, holds some or just full, by what a look shows |
//! | just full | the kernel reports room, or a look shows some | holds some |
//! | | [`FULL`] has passed, and something has moved | holds some |
//! | | [`FULL`] has passed, and nothing has moved | full: a `link-full` event |
//! | full | the kernel reports room, or a look after [`AGAIN`] shows that something moves | holds some: a `link-moves` event |
//! | unknown | the queue is watched again | empty |
//!
//! A source that writes without pause fills a page that became free before the supervisor gets
//! to see it, so the kernel reports few of the pages that a slow sink frees one at a time. That
//! is why a look also shows the [`Progress`] of both sides.
//!
//! So an idle queue wakes nobody, a full one next to never, and a busy one at most about once a
//! second. A full one is noticed [`FULL`] to [`PAUSE`] + [`FULL`] after it has become full. A
//! queue is in the state unknown if its input has ended or the kernel refuses to watch it.

use std::time::{Duration, Instant};

/// How long after bytes were seen they are looked at.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a queue that is called full has had no room.
const FULL: Duration = Duration::from_secs(1);
/// How often a full queue is looked at.
const AGAIN: Duration = Duration::from_secs(30);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It is watched from now on.
    Begin,
    /// It can't be watched any more.
    Lost,
    /// The kernel reports that bytes wait.
    Bytes,
    /// The kernel reports that there is room.
    Room,
    /// A look, which was due, showed this.
    Looked(Fill),
}

/// What a look shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    Empty,
    Some,
    /// There is no free page.
    Full(Progress),
}

/// Numbers that change when something moves in a queue. `None`: that can't be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Changes when the sink takes something. A program's may change for other reasons too.
    pub(crate) sink: Option<u64>,
    /// Changes when the sources write, or try again to write. It may change for other reasons
    /// too. Not needed if the sink has an exact account.
    pub(crate) sources: Option<u64>,
}

impl Progress {
    /// Whether something has moved since `before`: nothing that is known speaks against it.
    fn has_moved(self, before: Progress) -> bool {
        let changed = |(now, before): (Option<u64>, Option<u64>)| now.is_none() || now != before;
        [(self.sink, before.sink), (self.sources, before.sources)].into_iter().all(changed)
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Have the kernel report, once, that bytes wait.
    AwaitBytes,
    /// Have the kernel report, once, that there is room.
    AwaitRoom,
    /// An event.
    Say(News),
}

/// What is to be known of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// It has been full for this long.
    Full(Duration),
    /// It has room again, after it was full for this long.
    Moves(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown { full: Option<(Instant, Progress)> },
    Empty,
    HoldsSome { look_at: Instant },
    JustFull { since: Instant, progress: Progress },
    Full { since: Instant, progress: Progress, look_at: Instant },
}

/// What is known of one queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fullness {
    state: State,
}

impl Fullness {
    /// Of a queue that is not watched yet.
    pub(super) fn new() -> Fullness {
        Fullness { state: State::Unknown { full: None } }
    }

    /// Whether it waits for [`Event::Begin`].
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self.state, State::Unknown { .. })
    }

    /// When a look is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::HoldsSome { look_at } | State::Full { look_at, .. } => Some(look_at),
            State::JustFull { since, .. } => Some(since + FULL),
            State::Unknown { .. } | State::Empty => None,
        }
    }

    /// Handles an event. Returns what to do next.
    pub(super) fn step(&mut self, event: Event, now: Instant) -> Option<Action> {
        let later = State::HoldsSome { look_at: now + PAUSE };
        let full = |since, progress| State::Full { since, progress, look_at: now + AGAIN };
        let moves = |since| Some(Action::Say(News::Moves(now.duration_since(since))));
        let (next, action) = match (self.state, event) {
            (State::Unknown { .. }, Event::Lost) => return None,
            (State::Full { since, progress, .. }, Event::Lost) => {
                (State::Unknown { full: Some((since, progress)) }, None)
            }
            (_, Event::Lost) => (State::Unknown { full: None }, None),
            (State::Unknown { full: Some((since, progress)) }, Event::Begin) => {
                (full(since, progress), Some(Action::AwaitRoom))
            }
            (State::Unknown { .. }, Event::Begin) => (State::Empty, Some(Action::AwaitBytes)),
            (State::Empty, Event::Bytes) | (State::JustFull { .. }, Event::Room) => (later, None),
            (State::Full { since, .. }, Event::Room) => (later, moves(since)),
            (State::HoldsSome { .. }, Event::Looked(Fill::Empty)) => (State::Empty, Some(Action::AwaitBytes)),
            (State::HoldsSome { .. }, Event::Looked(Fill::Full(progress))) => {
                (State::JustFull { since: now, progress }, Some(Action::AwaitRoom))
            }
            (State::JustFull { since, progress: before }, Event::Looked(Fill::Full(progress)))
                if !progress.has_moved(before) =>
            {
                (full(since, progress), Some(Action::Say(News::Full(now.duration_since(since)))))
            }
            (State::Full { since, progress: before, .. }, Event::Looked(Fill::Full(progress)))
                if !progress.has_moved(before) =>
            {
                (full(since, before), None)
            }
            (State::Full { since, .. }, Event::Looked(_)) => (later, moves(since)),
            (State::HoldsSome { .. } | State::JustFull { .. }, Event::Looked(_)) => (later, None),
            // A report that was asked for in an earlier state.
            (_, Event::Begin | Event::Bytes | Event::Room | Event::Looked(_)) => return None,
        };
        self.state = next;
        action
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::dice::Dice;

    const SECOND: Duration = Duration::from_secs(1);
    const FULL_NOW: Fill = Fill::Full(Progress { sink: Some(0), sources: Some(0) });

    /// A queue and its watch. The kernel reports as epoll(7) does.
    struct World {
        now: Instant,
        fullness: Fullness,
        fill: Fill,
        awaits_bytes: bool,
        awaits_room: bool,
        wake_ups: u32,
        news: Vec<News>,
    }

    impl World {
        fn new() -> World {
            let mut world = World {
                now: Instant::now(),
                fullness: Fullness::new(),
                fill: Fill::Empty,
                awaits_bytes: false,
                awaits_room: false,
                wake_ups: 0,
                news: Vec::new(),
            };
            world.step(Event::Begin);
            world
        }

        fn step(&mut self, event: Event) {
            match self.fullness.step(event, self.now) {
                Some(Action::AwaitBytes) => self.awaits_bytes = true,
                Some(Action::AwaitRoom) => self.awaits_room = true,
                Some(Action::Say(news)) => self.news.push(news),
                None => {}
            }
            self.report();
        }

        fn report(&mut self) {
            if self.fill != Fill::Empty && std::mem::take(&mut self.awaits_bytes) {
                self.wake_ups += 1;
                self.step(Event::Bytes);
            }
            if !matches!(self.fill, Fill::Full(_)) && std::mem::take(&mut self.awaits_room) {
                self.wake_ups += 1;
                self.step(Event::Room);
            }
        }

        fn set(&mut self, fill: Fill) {
            self.fill = fill;
            self.report();
        }

        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            while let Some(at) = self.fullness.deadline().filter(|&at| at <= end) {
                self.now = at;
                self.wake_ups += 1;
                self.step(Event::Looked(self.fill));
            }
            self.now = end;
        }
    }

    #[test]
    fn a_queue_that_stays_full_is_reported_once_and_again_once_it_moves() {
        let mut world = World::new();
        world.pass(1000 * SECOND);
        assert_eq!(world.wake_ups, 0);
        world.set(FULL_NOW);
        world.pass(PAUSE + FULL);
        assert_eq!(world.news, [News::Full(FULL)]);
        let before = world.wake_ups;
        world.pass(1000 * SECOND);
        assert_eq!(world.wake_ups, before + 33);
        world.set(Fill::Some);
        assert_eq!(world.news[1..], [News::Moves(FULL + 1000 * SECOND)]);
        world.set(Fill::Empty);
        world.pass(PAUSE);
        let before = world.wake_ups;
        world.pass(1000 * SECOND);
        assert_eq!((world.wake_ups, world.news.len()), (before, 2));
    }

    #[test]
    fn a_busy_queue_that_moves_is_never_called_full_and_wakes_nobody_twice_a_second() {
        let mut dice = Dice(1);
        for most in [10, 300, 900] {
            let mut world = World::new();
            let start = world.now;
            for _ in 0..20_000 {
                world.set(dice.of(&[Fill::Empty, Fill::Some, FULL_NOW]));
                world.pass(dice.up_to(Duration::from_millis(most)));
                // Whatever is full moves before it is called full.
                if world.fill == FULL_NOW {
                    world.set(Fill::Some);
                }
            }
            let seconds = world.now.duration_since(start).as_secs();
            assert!(world.news.is_empty() && u64::from(world.wake_ups) <= seconds + 1, "{} {seconds}", world.wake_ups);
        }
    }

    #[test]
    fn what_moves_unseen_counts_if_both_sides_show_it() {
        for (sink, sources, moves) in [
            (Some(1), Some(1), true),
            // The sink reads something else, or the source does something else.
            (Some(1), Some(0), false),
            (Some(0), Some(1), false),
            // One side can't be seen.
            (None, Some(1), true),
            (None, Some(0), false),
            (Some(1), None, true),
            (Some(0), None, false),
        ] {
            let mut world = World::new();
            let go_on = |time: Duration, world: &mut World| {
                for round in 0..time.as_millis() as u64 / 500 {
                    let count = |step: Option<u64>| step.map(|step| step * round);
                    // Its source fills it at once.
                    world.set(Fill::Full(Progress { sink: count(sink), sources: count(sources) }));
                    world.pass(Duration::from_millis(500));
                }
            };
            go_on(100 * SECOND, &mut world);
            assert_eq!(world.news.is_empty(), moves, "{sink:?} {sources:?}");
        }
    }

    #[test]
    fn a_full_queue_that_moves_unseen_is_noticed_after_a_while() {
        let mut world = World::new();
        world.set(FULL_NOW);
        world.pass(PAUSE + FULL);
        world.set(Fill::Full(Progress { sink: Some(1), sources: Some(1) }));
        world.pass(AGAIN);
        assert_eq!(world.news, [News::Full(FULL), News::Moves(FULL + AGAIN)]);
    }

    #[test]
    fn a_queue_is_full_and_moves_in_turns_whatever_happens() {
        let mut dice = Dice(7);
        let mut world = World::new();
        for _ in 0..100_000 {
            match dice.below(8) {
                0 => world.step(Event::Lost),
                1 => world.step(Event::Begin),
                2 => world.step(Event::Bytes),
                _ => world.set(dice.of(&[Fill::Empty, Fill::Some, FULL_NOW])),
            }
            world.pass(dice.up_to(2 * SECOND));
        }
        assert!(world.news.len() > 100, "{}", world.news.len());
        for (place, news) in world.news.iter().enumerate() {
            assert_eq!(matches!(news, News::Full(_)), place % 2 == 0, "{place}");
        }
    }

    #[test]
    fn a_queue_whose_input_ended_while_it_was_full_moves_once_it_is_open_again() {
        let mut world = World::new();
        world.set(FULL_NOW);
        world.pass(PAUSE + FULL);
        world.step(Event::Lost);
        world.set(Fill::Empty);
        world.pass(10 * SECOND);
        assert_eq!((world.news.len(), world.fullness.is_unknown()), (1, true));
        // What was asked for before is forgotten, as the descriptor is another one.
        world.awaits_room = false;
        world.step(Event::Begin);
        assert!(matches!(world.news[..], [News::Full(_), News::Moves(_)]), "{:?}", world.news);
    }
}
