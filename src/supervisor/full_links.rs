//! What the loop does when bytes wait in a link, and when a link is full or moves again. What
//! is full is decided in [`fullness`](crate::supervisor::kept::links).

use crate::config::model::Link;
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::kept::links::{LinkNews, Links, Progress};
use crate::sys::delay;
use nix::sys::epoll::EpollFlags;
use std::time::Instant;

impl Supervisor {
    /// Bytes wait in the queue of that number, or it has room.
    pub(crate) fn on_link(&mut self, queue: u32, flags: EpollFlags) {
        if let Some(id) = self.kept.links.sink_of(queue).and_then(|sink| self.children.id_of(sink)) {
            self.on_waits(id);
        }
        let news = self.kept.links.reported(queue, flags, &self.system.poll, Instant::now());
        self.note_links(&news);
    }

    /// Looks at the links in which bytes were seen a while ago.
    pub(crate) fn look_at_links(&mut self, now: Instant) {
        let children = &self.children;
        let progress = |links: &Links, of: &[&Link]| {
            let sink = of.first().and_then(|link| children.named(&link.to));
            let (sink, is_exact) = sink.map_or((Some(0), false), |sink| sink.taking(links));
            let sources = of.iter().filter_map(|link| children.named(&link.from)?.machine.pid());
            let sources = || sources.map(delay::tries).try_fold(0_u64, |all, tries| Some(all.wrapping_add(tries?)));
            Progress { sink, sources: if is_exact { None } else { sources() } }
        };
        let news = self.kept.links.on_time(&self.system.poll, now, progress);
        self.note_links(&news);
    }

    fn note_links(&mut self, news: &[LinkNews]) {
        news.iter().for_each(|(link, news)| self.events.link(link, *news));
    }
}
