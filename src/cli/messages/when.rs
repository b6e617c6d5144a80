//! A time as a person types it.

use jiff::civil::{Date, Time};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp, Zoned};
use std::str::FromStr;

/// The time that a text means, in microseconds since 1970. What names no zone is local time;
/// what names no day is today.
///
/// # Errors
/// It means none: what would.
pub(super) fn when(text: &str, now: &Zoned) -> Result<i64, String> {
    let text = text.trim();
    let at = before(text, now.timestamp()).or_else(|| written(text, now));
    at.map(Timestamp::as_microsecond).ok_or_else(|| {
        format!("{text:?} is no time; write 2026-11-22T15:04:05Z, \"2026-11-22 15:04\", 15:04, 10m or \"10min ago\"")
    })
}

/// `2026-11-22T15:04:05Z`, `2026-11-22 15:04`, `2026-11-22`, `15:04`. The library's own parsers
/// would be 30 KB of the executable, for forms that nobody types.
fn written(text: &str, now: &Zoned) -> Option<Timestamp> {
    let (day, rest) = match text.get(4..5) {
        Some("-") => (Some(day(text.get(..10)?)?), &text[10..]),
        _ => (None, text),
    };
    let (time, offset) = match rest.strip_prefix(['T', 't', ' ']).or(day.is_none().then_some(rest)) {
        Some(rest) => {
            let (rest, offset) = zone(rest)?;
            (time(rest)?, offset)
        }
        None if rest.is_empty() => (Time::midnight(), None),
        None => return None,
    };
    match (day, offset) {
        (Some(day), Some(offset)) => offset.to_timestamp(day.to_datetime(time)).ok(),
        // Today is another day elsewhere.
        (None, Some(_)) => None,
        (day, None) => {
            let local = day.unwrap_or(now.date()).to_datetime(time);
            Some(local.to_zoned(now.time_zone().clone()).ok()?.timestamp())
        }
    }
}

fn day(text: &str) -> Option<Date> {
    let mut parts = text.split('-');
    let day = Date::new(number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?).ok()?;
    parts.next().is_none().then_some(day)
}

/// `15:04`, `15:04:05`, `15:04:05.123456`.
fn time(text: &str) -> Option<Time> {
    let (text, nanos) = match text.split_once('.') {
        Some((text, part)) => (text, format!("{:0<9}", number::<u32>(part, part.len()).map(|_| part)?)),
        None => (text, "0".to_owned()),
    };
    let mut parts = text.split(':');
    let (hour, minute) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let second = parts.next().map(|part| number(part, 2));
    let has_nanos = nanos.len() > 1;
    if parts.next().is_some() || second == Some(None) || second.is_none() && has_nanos {
        return None;
    }
    Time::new(hour, minute, second.flatten().unwrap_or(0), nanos.parse().ok()?).ok()
}

/// What is before a zone, and its offset: `Z`, `+01:00`, `-0500`.
fn zone(text: &str) -> Option<(&str, Option<Offset>)> {
    if let Some(rest) = text.strip_suffix(['Z', 'z']) {
        return Some((rest, Some(Offset::UTC)));
    }
    let Some(at) = text.rfind(['+', '-']) else { return Some((text, None)) };
    let digits = text[at + 1..].replacen(':', "", 1);
    let [hours, minutes] = [number::<i32>(digits.get(..2)?, 2)?, number::<i32>(digits.get(2..)?, 2)?];
    let seconds = hours * 3600 + minutes * 60;
    let offset = Offset::from_seconds(if text[at..].starts_with('-') { -seconds } else { seconds }).ok()?;
    (minutes < 60).then_some((&text[..at], Some(offset)))
}

/// A number of so many digits.
fn number<T: FromStr>(text: &str, digits: usize) -> Option<T> {
    let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
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
            ("2026-11-22t15:04:05.000001-0530", "2026-11-22T20:34:05.000001Z"),
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
            "2026-1-01",
            "2026-11-22x15:04",
            "2026-11-22 15",
            "2026-11-22-",
            "2026-11-22-05:00",
            "2026-11-22T15:04+01:60",
            "2026-11-22T15:04+1",
            "2026-11-22T15:04é",
            "2026-11-2é",
            "é",
            "-",
            "+",
            "15:04Z",
            "15:04+01:00",
            "15:4",
            "15:04.5",
            "15:04:05.",
            "15:04:05.1234567890",
            "15:04:05:06",
            "99999999999999999999m",
            "9999999999999h",
        ];
        for text in wrong {
            assert_eq!(meant(text), None, "{text}");
        }
    }
}
