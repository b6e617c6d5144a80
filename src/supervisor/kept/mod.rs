//! What outlives a child's process. Much of it outlives the supervisor's process, too.
//!
//! | file | what is there |
//! |---|---|
//! | `links` | every pipe between children, with both its ends |
//! | `sockets`, `names`, `unix_name` | listening sockets, and the names of Unix sockets in the file system |
//! | `holder` | why an address can't be bound, and which process has it |
//! | `shared_memory` | the memory that the instances of one child share |
//! | `access` | which users may open the pipes that children are given |
//! | `store` | what the service manager keeps for the next supervisor |

pub(crate) mod access;
pub(crate) mod holder;
pub(crate) mod links;
pub(crate) mod names;
pub(crate) mod shared_memory;
pub(crate) mod sockets;
pub(crate) mod store;
pub(crate) mod unix_name;

use crate::config::model::Model;
use crate::supervisor::manager::Manager;
use links::{Held, Links, QueueId};
use shared_memory::SharedMemory;
use sockets::Sockets;
use std::collections::BTreeSet;
use std::io;
use store::Store;

/// What outlives a child's process.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) links: Links,
    pub(crate) sockets: Sockets,
    /// The memory that the instances of one child share.
    pub(crate) memory: SharedMemory,
    /// What the service manager keeps of it for the next supervisor.
    pub(crate) store: Store,
}

impl Kept {
    /// Makes the links of these children, or takes them up as an earlier supervisor left them,
    /// and binds the sockets that can be bound. The caller keeps these once nothing can fail
    /// any more.
    ///
    /// # Errors
    /// A link can't be made, or the system is short of something.
    pub(crate) fn open(model: &Model, store: Store) -> Result<(Kept, Sockets), String> {
        let listens = || model.children.iter().flat_map(|child| &child.listen);
        let mut names = Sockets::default().wanted(listens(), &store).make()?;
        let mut bound = Sockets::default();
        for address in listens().collect::<BTreeSet<_>>() {
            if let Err(error) = bound.bind_first(address, &store, &mut names) {
                // Its child will be held back, which is logged as a warning.
                log::debug!("cannot listen on {address} yet: {error}");
            }
        }
        for address in store.idle(|address| listens().any(|used| used == address)) {
            log::warn!("the service manager listens on {address} for this daemon, but no child does");
        }
        let mut links = Links::default();
        let made = links.make_new(model, &store)?;
        links.keep(made, model);
        Ok((Kept { links, sockets: Sockets::default(), memory: SharedMemory::default(), store }, bound))
    }

    /// Has the service manager keep sockets and links for the next supervisor, in case this one
    /// is killed.
    pub(crate) fn keep_in_store(&mut self, manager: &mut Manager) {
        let wanted = self.sockets.stored().chain(self.links.stored(|_| true)).collect();
        self.store.keep(&wanted, manager);
    }

    /// Calls [`keep_in_store`](Kept::keep_in_store) if a socket was renewed since the last time.
    pub(crate) fn keep_renewed(&mut self, manager: &mut Manager) {
        if self.sockets.take_renewed() {
            self.keep_in_store(manager);
        }
    }

    /// Has the service manager keep, at the end, sockets that a restart takes over and links
    /// with bytes in them.
    pub(crate) fn keep_at_the_end(&mut self, manager: &mut Manager) {
        self.sockets.revive_all();
        let unsaved = self.links.stored(|held| self.links.queued(held) > 0);
        self.store.keep(&self.sockets.stored_at_the_end().chain(unsaved).collect(), manager);
    }

    /// Holds the bytes in links that a change removes, until a configuration has these links
    /// again.
    pub(crate) fn leave_ending(&mut self, ends: impl Fn(&QueueId) -> bool) {
        let waits = |held: &Held| ends(&held.queue) && self.links.queued(held) > 0;
        let parts = self.links.stored(waits).map(|(name, fd)| Ok((name, fd.try_clone_to_owned()?)));
        match parts.collect::<io::Result<Vec<_>>>() {
            Ok(parts) => parts.into_iter().for_each(|(name, fd)| self.store.leave(name, fd)),
            Err(error) => log::error!("reload: cannot hold what waits in links that are removed: {error}: it is lost"),
        }
    }
}
