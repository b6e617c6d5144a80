//! A time as a person types it.

use jiff::civil::{DateTime, Time};
use jiff::{SignedDuration, Timestamp, Zoned};

/// The time that a text means, in microseconds since 1970. What names no zone is local time;
/// what names no day is today.
///
/// # Errors
/// It means none: what would.
pub(super) fn when(text: &str, now: &Zoned) -> Result<i64, String> {
    let text = text.trim();
    let local = |civil: DateTime| civil.to_zoned(now.time_zone().clone()).ok().map(|zoned| zoned.timestamp());
    let at = before(text, now.timestamp())
        .or_else(|| text.parse::<Timestamp>().ok())
        .or_else(|| text.parse::<DateTime>().ok().filter(|_| !has_zone(text)).and_then(local))
        // A time alone: the library takes one with a day for that too.
        .or_else(|| {
            text.parse::<Time>().ok().filter(|_| is_time(text)).and_then(|time| local(now.date().to_datetime(time)))
        });
    at.map(Timestamp::as_microsecond).ok_or_else(|| {
        format!("{text:?} is no time; write 2026-11-22T15:04:05Z, \"2026-11-22 15:04\", 15:04, 10m or \"10min ago\"")
    })
}

/// Whether it ends with a zone that would be passed over.
fn has_zone(text: &str) -> bool {
    text.ends_with(['z', 'Z', ']']) || text.contains('+')
}

/// Whether there is no day in it, and no zone that would be passed over.
fn is_time(text: &str) -> bool {
    text.contains(':') && text.chars().all(|c| c.is_ascii_digit() || matches!(c, ':' | '.'))
}

/// `10m`, `2 hours ago`, `now`.
fn before(text: &str, now: Timestamp) -> Option<Timestamp> {
    if text == "now" {
        return Some(now);
    }
    let text = text.strip_suffix("ago").map_or(text, str::trim_end);
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: i64 = text[..digits].parse().ok()?;
    let seconds = match text[digits..].trim_start() {
        "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 604_800,
        _ => return None,
    };
    now.checked_sub(SignedDuration::from_secs(number.checked_mul(seconds)?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(text: &str) -> Option<String> {
        let now: Zoned = "2026-11-22T15:04:05.5+01:00[+01:00]".parse().unwrap();
        when(text, &now).ok().map(|at| Timestamp::from_microsecond(at).unwrap().to_string())
    }

    #[test]
    fn a_time_is_local_unless_it_says_a_zone_and_today_unless_it_says_a_day() {
        for (text, time) in [
            ("2026-11-22T15:04:05.123456Z", "2026-11-22T15:04:05.123456Z"),
            ("2026-11-22T15:04:05+02:00", "2026-11-22T13:04:05Z"),
            ("2026-11-22 15:04Z", "2026-11-22T15:04:00Z"),
            ("2026-11-22 15:04", "2026-11-22T14:04:00Z"),
            ("2026-11-22T15:04:06", "2026-11-22T14:04:06Z"),
            ("2026-11-21 15:04", "2026-11-21T14:04:00Z"),
            ("2026-11-22", "2026-11-21T23:00:00Z"),
            ("15:04", "2026-11-22T14:04:00Z"),
            ("00:00", "2026-11-21T23:00:00Z"),
            ("15:04:07.25", "2026-11-22T14:04:07.25Z"),
            ("10m", "2026-11-22T13:54:05.5Z"),
            ("10min ago", "2026-11-22T13:54:05.5Z"),
            ("10 minutes ago", "2026-11-22T13:54:05.5Z"),
            ("2h", "2026-11-22T12:04:05.5Z"),
            ("1d", "2026-11-21T14:04:05.5Z"),
            (" now ", "2026-11-22T14:04:05.5Z"),
        ] {
            assert_eq!(meant(text).as_deref(), Some(time), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let wrong = [
            "",
            "x",
            "25:00",
            "10",
            "10x",
            "m",
            "ago",
            "2026-13-01",
            "15:04Z",
            "99999999999999999999m",
            "9999999999999h",
        ];
        for text in wrong {
            assert_eq!(meant(text), None, "{text}");
        }
    }
}
