//! The shape of what `plumbd events` reads. Keys that do not apply are left out.

use super::status::rfc3339;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that happened to a child, or to the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Rises by one from each event to the next.
    pub seq: u64,
    /// When it happened.
    #[serde(with = "rfc3339")]
    pub at: Timestamp,
    /// What happened.
    pub event: What,
    /// The rest.
    #[serde(flatten)]
    pub about: About,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A child has a process that is not ready yet.
    Starting,
    /// A child says that it is ready (`ready` is `notify` or `fd`).
    Ready,
    /// A child serves.
    Up,
    /// A child's process ended.
    Exited,
    /// A child waits before its next start.
    Backoff,
    /// A child was given up: an operator or a reload may start it again.
    Failed,
    /// A child did what it was there for.
    Finished,
    /// Something is wrong with a child.
    Problem,
    /// It is wrong no more.
    Solved,
    /// Checks of a child failed, and it is asked to stop.
    Unhealthy,
    /// A child took none of the bytes that wait for it, and is asked to stop.
    Stalled,
    /// A child did not send WATCHDOG=1 in time, or sent WATCHDOG=trigger, and gets SIGABRT.
    Watchdog,
    /// A link has been full for a second: its source has to wait.
    LinkFull,
    /// A link that was full has room again.
    LinkMoves,
    /// A reload begins.
    ReloadBegun,
    /// The new configuration is in force, and everything that changed is up.
    ReloadDone,
    /// A reload was refused, and changed nothing.
    ReloadRefused,
    /// A reload failed and was undone.
    ReloadUndone,
    /// The daemon, or a child, is asked to end.
    Stopping,
    /// The reader was too slow: `count` events before this one are gone.
    Lost,
}

impl What {
    /// Its name, as in JSON.
    pub fn word(self) -> String {
        serde_json::to_value(self).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// What an event is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The child; of a link, its sink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<String>,
    /// The source of the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Why, in plain words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The exit status of its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// The signal that killed its process, as `SIGKILL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// How often it was started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u64>,
    /// How many events are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl About {
    /// About the daemon, for this reason.
    pub fn daemon(reason: impl Into<String>) -> About {
        About { reason: Some(reason.into()), ..About::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_that_a_hook_can_name_is_one() {
        for key in crate::config::keys::ON {
            let event: What = serde_json::from_value(key.name.into()).unwrap();
            assert_eq!(event.word(), key.name);
        }
    }

    #[test]
    fn events_look_as_documented() {
        let at = "2026-11-22T15:04:05.123Z".parse().unwrap();
        let about = About {
            child: Some("echo".to_owned()),
            pid: Some(7),
            reason: Some("exited with status 1".to_owned()),
            exit: Some(1),
            restarts: Some(2),
            ..About::default()
        };
        let event = Event { seq: 5, at, event: What::Exited, about };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(
            line,
            r#"{"seq":5,"at":"2026-11-22T15:04:05.123Z","event":"exited","child":"echo","pid":7,"reason":"exited with status 1","exit":1,"restarts":2}"#
        );
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        let lost = Event { seq: 9, at, event: What::ReloadBegun, about: About::default() };
        let line = serde_json::to_string(&lost).unwrap();
        assert_eq!(line, r#"{"seq":9,"at":"2026-11-22T15:04:05.123Z","event":"reload-begun"}"#);
    }
}
