//! The two ends of the log in the loop: what children write to their log pipes,
//! and the log's output, which may be full.

use crate::journal::{self, LineSplitter, Piece, Waiting};
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::children::Children;
use crate::supervisor::family::supervised::Supervised;
use crate::supervisor::poll::{Id, Poll, Token};
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// How much is read from one child's log pipe per round, so that a child that writes
/// without end keeps nothing else waiting.
pub(crate) const LOG_ROUND: usize = 16 * 1024;
/// A full pipe: the most that a child that has ended can have left there.
pub(crate) const LOG_REST: usize = 64 * 1024;
/// A child that exceeds its rate limit is read again after this long. So its flood costs
/// little, and it makes progress, if slowly, whatever the log's output does.
const PAUSE: Duration = Duration::from_millis(50);
/// An incomplete line is logged when nothing more has arrived for this long: it may be a
/// prompt that waits for an answer.
const PROMPT: Duration = Duration::from_secs(1);
/// If the output can't be watched (ENOMEM), that is tried again after this long.
const UNWATCHED: Duration = Duration::from_secs(1);

/// The log pipes of all children, and the log's own output.
#[derive(Debug, Default)]
pub(crate) struct LogPipes {
    /// Children that wrote more than is logged; they are not read until `quiet_until`.
    quiet: Vec<Id>,
    quiet_until: Option<Instant>,
    /// When the next incomplete line is due to be logged.
    prompts_at: Option<Instant>,
    /// The log's output, while it is full.
    journal_watched: Option<BorrowedFd<'static>>,
}

impl LogPipes {
    /// When [`LogPipes::on_time`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.quiet_until.into_iter().chain(self.prompts_at).min()
    }

    /// Reads and logs up to `most` bytes of what that child wrote.
    fn read(&mut self, id: Id, child: &mut Supervised, most: usize) {
        let mut bytes = [0u8; LOG_ROUND];
        let mut left = most;
        let (mut all_logged, mut heard) = (true, false);
        while left > 0 {
            let want = left.min(bytes.len());
            match nix::unistd::read(&child.holdings.log.read, &mut bytes[..want]) {
                Ok(n) if n > 0 => {
                    all_logged &= child.log(|lines, each| lines.feed(&bytes[..n], each));
                    heard = true;
                    left -= n;
                }
                Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => break,
            }
        }
        if heard {
            child.prompt_at = child.lines.holds().then(|| Instant::now() + PROMPT);
            self.prompts_at = self.prompts_at.into_iter().chain(child.prompt_at).min();
        }
        if !all_logged && !self.quiet.contains(&id) {
            child.listen_to_log(false);
            self.quiet.push(id);
            self.quiet_until.get_or_insert(Instant::now() + PAUSE);
        }
    }

    /// Reads children again that wrote too much, and logs incomplete lines that are due.
    pub(crate) fn on_time(&mut self, children: &mut Children, now: Instant) {
        if self.quiet_until.is_some_and(|at| at <= now) {
            self.quiet_until = None;
            let quiet = std::mem::take(&mut self.quiet);
            quiet.into_iter().filter_map(|id| children.get(id)).for_each(|child| child.listen_to_log(true));
        }
        self.show_prompts(children, now);
    }

    fn show_prompts(&mut self, children: &mut Children, now: Instant) {
        if self.prompts_at.is_none_or(|at| now < at) {
            return;
        }
        self.prompts_at = None;
        for (id, child) in children.iter_mut() {
            let Some(at) = child.prompt_at else { continue };
            // A child that is not being read may be writing all the time.
            let at = if self.quiet.contains(&id) { at.max(now + PAUSE) } else { at };
            if at <= now {
                child.prompt_at = None;
                child.log(|lines, each| lines.pause(each));
            } else {
                self.prompts_at = self.prompts_at.into_iter().chain([at]).min();
            }
        }
    }

    /// Writes as much as the log's output takes. If the output can't be watched, returns how
    /// long to wait before trying again.
    pub(crate) fn flush(&mut self, poll: &Poll) -> Option<Duration> {
        match (journal::flush(), self.journal_watched) {
            (Waiting::Writable(fd), None) => {
                if poll.add(fd, EpollFlags::EPOLLOUT, Token::Journal).is_err() {
                    return Some(UNWATCHED);
                }
                self.journal_watched = Some(fd);
            }
            (Waiting::Nothing | Waiting::Until(_), Some(fd)) => {
                poll.remove(fd);
                self.journal_watched = None;
            }
            (Waiting::Writable(_), Some(_)) | (Waiting::Nothing | Waiting::Until(_), None) => {}
        }
        None
    }
}

impl Supervisor {
    /// Reads and logs up to `most` bytes of what a child wrote.
    pub(crate) fn read_log(&mut self, id: Id, most: usize) {
        if let Some(child) = self.children.get_mut(id) {
            self.log_pipes.read(id, child, most);
        }
    }
}

impl Supervised {
    /// Has the loop report what it writes to its log pipe, or not.
    fn listen_to_log(&self, on: bool) {
        let flags = if on { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        if let Err(error) = self.holdings.log.watch_for(flags) {
            log::error!(target: &self.config.name, "cannot watch its log pipe: {error}");
        }
    }

    /// Logs the lines that its splitter returns. Returns whether all of them were logged.
    pub(crate) fn log(&mut self, cut: impl FnOnce(&mut LineSplitter, &mut dyn FnMut(Piece<'_>))) -> bool {
        let mut all_logged = true;
        cut(&mut self.lines, &mut |piece| {
            all_logged &= journal::child_line(&self.config.name, self.config.log_limit, piece);
        });
        all_logged
    }
}
