//! How much flows and waits, for the status: what links, listening sockets and message files
//! show about themselves. None of it waits for anything; whatever might, such as a file
//! system, is for the command that shows the status to look at.

use crate::control::status::{Link, Listener, MessageFile, rounded};
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::supervised::Supervised;
use crate::supervisor::kept::links::Held;
use crate::sys::rate::{self, Rates};
use std::collections::{BTreeMap, BTreeSet};

/// What a link counts.
const MESSAGES: &str = "messages";
const BYTES: &str = "bytes";

/// Rates as they are sent: over a second, and over a minute.
pub(super) fn sent(rates: BTreeMap<&'static str, Rates>) -> [BTreeMap<String, f64>; 2] {
    let each =
        |of: fn(&Rates) -> f64| rates.iter().map(|(name, rate)| ((*name).to_owned(), rounded(of(rate)))).collect();
    [each(|rate| rate.second), each(|rate| rate.minute)]
}

impl Supervisor {
    /// Logs where the children listen now and which files they write, unless it was logged before.
    pub(in crate::supervisor) fn log_places(&mut self) {
        let listeners = self.listeners().into_iter().map(|at| (at.child, format!("listens on {}", at.address)));
        let files = self.files().into_iter().map(|file| (file.child, format!("writes messages to {}", file.path)));
        let places: Vec<(String, String)> = listeners.chain(files).collect();
        for (child, place) in places.iter().filter(|place| !self.figures.places.contains(place)) {
            log::info!(target: child, "{place}");
        }
        self.figures.places = places.into_iter().collect();
    }

    /// Fills in how much has flowed through a link: what its sink has noted, or what its
    /// source counts.
    pub(super) fn fill_in_flow(&self, held: &Held, link: &mut Link) {
        let amounts = held.flow(rate::now()).or_else(|| self.counted_by(&held.config.from));
        let Some((messages, bytes, rates)) = amounts else { return };
        let [second, minute] = sent(rates);
        (link.messages, link.bytes) = (Some(messages), Some(bytes));
        (link.rates, link.rates_1m) = (Some(second), Some(minute));
    }

    /// What a child counts, if it is a plugin that counts messages.
    fn counted_by(&self, source: &str) -> Option<(u64, u64, BTreeMap<&'static str, Rates>)> {
        let source = self.children.named(source)?;
        let metrics = source.metrics();
        let (messages, bytes) = (*metrics.get(MESSAGES)?, *metrics.get(BYTES)?);
        Some((
            messages,
            bytes,
            source.rates().into_iter().filter(|(name, _)| [MESSAGES, BYTES].contains(name)).collect(),
        ))
    }

    /// Every listening socket.
    pub(super) fn listeners(&self) -> Vec<Listener> {
        let mut seen = BTreeSet::new();
        let each = self.model().children.iter().flat_map(|child| child.listen.iter().map(move |at| (child, at)));
        // Instances share their sockets.
        let each = each.filter(|(_, address)| seen.insert(*address) && self.kept.sockets.has(address));
        each.map(|(child, address)| {
            let waiting = self.kept.sockets.waiting(address);
            Listener {
                address: address.to_string(),
                child: child.name.clone(),
                backlog: waiting.clients.map(|clients| clients.now),
                backlog_max: waiting.clients.map(|clients| clients.most),
                queued_bytes: waiting.bytes.map(|bytes| bytes.now),
                queued_bytes_max: waiting.bytes.map(|bytes| bytes.most),
            }
        })
        .collect()
    }

    /// Every message file.
    pub(super) fn files(&self) -> Vec<MessageFile> {
        let children = self.model().children.iter().filter_map(|config| self.children.named(&config.name));
        children.filter_map(message_file).collect()
    }
}

/// The message file of a child, if it writes one.
fn message_file(child: &Supervised) -> Option<MessageFile> {
    let writes = child.plugin()?.writes?;
    let path = child.config.settings.get(writes.setting)?.as_str()?;
    let rates = child.rates().get(writes.metric).copied().unwrap_or_default();
    Some(MessageFile {
        path: path.to_owned(),
        child: child.config.name.clone(),
        rate: rounded(rates.second),
        rate_1m: rounded(rates.minute),
        size: None,
        free: None,
        full_in_s: None,
    })
}
