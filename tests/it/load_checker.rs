//! The checker finds each kind of fault in a message file, and none in a right one.

use crate::load::checker::{Format, Verdict, check};
use crate::load::generator::Connection;
use crate::load::message;
use base64::Engine;

const LENGTH: usize = 64;

/// Two connections. The second broke in the middle of its fourth message, after the echo of
/// its second.
fn connections() -> Vec<Connection> {
    vec![
        Connection {
            number: 7,
            peer: "127.0.0.1:4001".into(),
            length: LENGTH,
            sent: 5,
            part: 0,
            echoed: 5,
            echoed_part: 0,
        },
        Connection {
            number: 8,
            peer: "[::1]:4002".into(),
            length: LENGTH,
            sent: 3,
            part: 30,
            echoed: 2,
            echoed_part: 0,
        },
    ]
}

fn message(connection: usize, sequence: u32) -> Vec<u8> {
    let mut out = Vec::new();
    message::append(connections()[connection].number, sequence, LENGTH, &mut out);
    out.pop();
    out
}

fn line(format: Format, peer: &str, message: &[u8]) -> Vec<u8> {
    let time = "2026-11-22T15:04:05.123456Z";
    let mut out = match format {
        Format::Raw => Vec::new(),
        Format::Text => format!("{time} {peer} ").into_bytes(),
        Format::Json => {
            let text = match std::str::from_utf8(message) {
                Ok(text) => serde_json::json!({"time": time, "child": "echo", "peer": peer, "message": text}),
                Err(_) => {
                    let encoded = base64::engine::general_purpose::STANDARD.encode(message);
                    serde_json::json!({"time": time, "child": "echo", "peer": peer, "message_base64": encoded})
                }
            };
            return format!("{text}\n").into_bytes();
        }
    };
    out.extend_from_slice(message);
    out.push(b'\n');
    out
}

/// The lines of a right file: all that was echoed, interleaved.
fn right(format: Format) -> Vec<Vec<u8>> {
    [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (0, 3), (0, 4)].map(|(c, n)| sent(format, c, n)).to_vec()
}

fn sent(format: Format, connection: usize, sequence: u32) -> Vec<u8> {
    line(format, &connections()[connection].peer, &message(connection, sequence))
}

fn verdict(format: Format, lines: &[Vec<u8>]) -> Verdict {
    check(&*lines.concat(), format, &connections()).expect("memory can be read")
}

/// Runs a test for every format, because lines of each are parsed differently.
fn in_each_format(test: impl Fn(Format)) {
    for name in ["text", "raw", "json"] {
        test(Format::named(name).expect("a format of that name"));
    }
}

#[test]
fn a_right_file_is_clean() {
    in_each_format(|format| {
        let verdict = verdict(format, &right(format));
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!((verdict.lines, verdict.echoed, verdict.unechoed, verdict.parts), (7, 7, 0, 0));
    });
}

#[test]
fn what_was_sent_and_not_echoed_may_be_there() {
    in_each_format(|format| {
        let mut lines = right(format);
        lines.push(sent(format, 1, 2));
        lines.push(line(format, "[::1]:4002", &message(1, 3)[..29]));
        let verdict = verdict(format, &lines);
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!((verdict.echoed, verdict.unechoed, verdict.parts), (7, 1, 1));
    });
}

#[test]
fn a_lost_line_is_found() {
    in_each_format(|format| {
        for missing in 0..7 {
            let mut lines = right(format);
            lines.remove(missing);
            let verdict = verdict(format, &lines);
            assert_eq!((verdict.lost, verdict.is_clean()), (1, false), "{verdict}");
        }
    });
}

#[test]
fn a_doubled_line_is_found() {
    in_each_format(|format| {
        for (at, doubled) in right(format).into_iter().enumerate() {
            for place in at..=7 {
                let mut lines = right(format);
                lines.insert(place, doubled.clone());
                let verdict = verdict(format, &lines);
                assert_eq!((verdict.doubled, verdict.lost, verdict.is_clean()), (1, 0, false), "{verdict}");
            }
        }
    });
}

#[test]
fn swapped_lines_of_one_connection_are_found() {
    in_each_format(|format| {
        let mut lines = right(format);
        lines.swap(2, 3);
        let verdict = verdict(format, &lines);
        assert_eq!((verdict.disordered, verdict.lost, verdict.doubled), (1, 0, 0), "{verdict}");
        assert!(!verdict.is_clean());
    });
}

#[test]
fn swapped_lines_of_two_connections_are_right() {
    in_each_format(|format| {
        let mut lines = right(format);
        lines.swap(0, 1);
        assert!(verdict(format, &lines).is_clean());
    });
}

#[test]
fn a_line_torn_anywhere_is_found() {
    in_each_format(|format| {
        let whole = sent(format, 0, 2);
        for cut in 1..whole.len() {
            let mut lines = right(format);
            lines[3].truncate(cut);
            let verdict = verdict(format, &lines);
            assert!(verdict.torn + verdict.forged > 0, "cut at {cut}: {verdict}");
            assert_eq!(verdict.lost, 2, "cut at {cut}, the next line hangs on it: {verdict}");
        }
    });
}

#[test]
fn a_line_broken_in_two_is_found() {
    for cut in 1..LENGTH - 1 {
        let mut lines = right(Format::Raw);
        lines[3].insert(cut, b'\n');
        let verdict = verdict(Format::Raw, &lines);
        // The first digit alone might be all that connection 8 had sent of its last message.
        let wrong = verdict.torn + verdict.forged;
        assert_eq!((wrong + verdict.parts, wrong >= 1, verdict.lost), (2, true, 1), "cut at {cut}: {verdict}");
    }
}

#[test]
fn a_part_is_the_last_of_its_connection() {
    for after in [sent(Format::Raw, 1, 2), line(Format::Raw, "", &message(1, 3)[..29])] {
        let mut lines = right(Format::Raw);
        lines.push(line(Format::Raw, "", &message(1, 3)[..29]));
        lines.push(after);
        let verdict = verdict(Format::Raw, &lines);
        assert_eq!((verdict.parts, verdict.disordered + verdict.forged), (1, 1), "{verdict}");
    }
}

#[test]
fn a_changed_byte_is_found() {
    in_each_format(|format| {
        for at in 0..LENGTH - 1 {
            let mut changed = message(0, 2);
            changed[at] = b'~';
            let mut lines = right(format);
            lines[3] = line(format, "127.0.0.1:4001", &changed);
            let verdict = verdict(format, &lines);
            assert_eq!((verdict.torn + verdict.forged, verdict.lost), (1, 1), "byte {at}: {verdict}");
        }
    });
}

#[test]
fn a_missing_last_newline_is_found() {
    in_each_format(|format| {
        let mut lines = right(format);
        lines[6].pop();
        let verdict = verdict(format, &lines);
        assert_eq!((verdict.torn, verdict.lost), (1, 1), "{verdict}");
    });
}

#[test]
fn a_forged_line_is_found() {
    in_each_format(|format| {
        let mut stranger = Vec::new();
        message::append(9, 0, LENGTH, &mut stranger);
        stranger.pop();
        let never_sent = message(0, 5);
        let too_long_a_part = &message(1, 3)[..31];
        for forged in [b"hello".as_slice(), b"", &stranger, &never_sent, too_long_a_part, b"\xff\x00"] {
            let mut lines = right(format);
            lines.insert(4, line(format, "127.0.0.1:4001", forged));
            let verdict = verdict(format, &lines);
            assert_eq!((verdict.forged + verdict.torn, verdict.lost), (1, 0), "{verdict}");
            assert!(!verdict.is_clean());
        }
    });
}

#[test]
fn a_line_under_a_wrong_name_is_found() {
    for format in [Format::Text, Format::Json] {
        let mut lines = right(format);
        lines[0] = line(format, "127.0.0.1:4009", &message(0, 0));
        let verdict = verdict(format, &lines);
        assert_eq!((verdict.forged, verdict.lost), (1, 1), "{verdict}");
    }
}

#[test]
fn an_escaped_line_is_read_back() {
    let mut escaped = message(0, 0);
    let last = escaped.pop().expect("a message has bytes");
    escaped.extend_from_slice(format!("\\x{last:02x}").as_bytes());
    let mut lines = right(Format::Text);
    lines[0] = line(Format::Text, "127.0.0.1:4001", &escaped);
    assert!(verdict(Format::Text, &lines).is_clean());
    for wrong in [b"\\".as_slice(), b"\\y", b"\\x4", b"\\xzz", b"\t", b"\x7f", b"\\\\"] {
        let mut lines = right(Format::Text);
        lines[0] = line(Format::Text, "127.0.0.1:4001", &[&escaped, wrong].concat());
        assert!(!verdict(Format::Text, &lines).is_clean(), "{wrong:?}");
    }
}

#[test]
fn more_problems_are_counted_than_are_printed() {
    let lines = vec![b"hello\n".to_vec(); 1000];
    let verdict = verdict(Format::Raw, &lines);
    assert_eq!((verdict.forged, verdict.lost, verdict.problems.len()), (1000, 7, 10));
    assert!(verdict.to_string().contains("line 1: \"hello\\n\": nobody sent this"), "{verdict}");
}

/// Bytes of a message that is saved in four parts, and how the parts end.
const LONG: usize = 200_000;
const PARTS: [(usize, usize); 4] = [(0, 65_536), (65_536, 131_072), (131_072, 196_608), (196_608, LONG - 1)];

/// Two connections with long messages. The second broke in the middle of its second message,
/// after this many bytes of its echo.
fn long_connections(part: usize, echoed_part: usize) -> Vec<Connection> {
    let one = |number: u32, sent, part, echoed, echoed_part| {
        let peer = format!("127.0.0.1:400{number}");
        Connection { number, peer, length: LONG, sent, part, echoed, echoed_part }
    };
    vec![one(1, 2, 0, 2, 0), one(2, 1, part, 1, echoed_part)]
}

/// One part of a message.
fn part(format: Format, connection: u32, sequence: u32, (from, to): (usize, usize), more: bool) -> Vec<u8> {
    let mut message = Vec::new();
    message::append(connection, sequence, LONG, &mut message);
    let mut line = line(format, &format!("127.0.0.1:400{connection}"), &message[from..to]);
    if more && format == Format::Json {
        line.truncate(line.len() - 2);
        line.extend_from_slice(b",\"more\":true}\n");
    }
    line
}

/// The parts of all messages, taken from the two connections in turn.
fn long_lines(format: Format) -> Vec<Vec<u8>> {
    let parts = |c, n| PARTS.map(|ends| part(format, c, n, ends, ends.1 < LONG - 1));
    let (first, second) = (parts(1, 0), parts(2, 0));
    let by_turns = first.into_iter().zip(second).flat_map(|(a, b)| [a, b]);
    by_turns.chain(parts(1, 1)).collect()
}

fn long_verdict(format: Format, lines: &[Vec<u8>], part: usize, echoed_part: usize) -> Verdict {
    check(&*lines.concat(), format, &long_connections(part, echoed_part)).expect("memory can be read")
}

#[test]
fn the_parts_of_long_messages_are_joined() {
    in_each_format(|format| {
        let verdict = long_verdict(format, &long_lines(format), 0, 0);
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!((verdict.lines, verdict.echoed, verdict.joined, verdict.parts), (12, 3, 3, 0));
    });
}

/// A change to the lines, at one of them.
type Change = fn(&mut Vec<Vec<u8>>, usize);

#[test]
fn a_part_that_is_lost_doubled_or_elsewhere_is_found() {
    in_each_format(|format| {
        for at in 0..12 {
            let changes: [Change; 4] = [
                |lines, at| drop(lines.remove(at)),
                |lines, at| lines.insert(at, lines[at].clone()),
                |lines, at| lines.push(lines[at].clone()),
                |lines, at| lines.swap(at, (at + 2) % 12),
            ];
            for (which, change) in changes.into_iter().enumerate() {
                let mut lines = long_lines(format);
                change(&mut lines, at);
                let verdict = long_verdict(format, &lines, 0, 0);
                assert!(!verdict.is_clean(), "change {which} of line {at}: {verdict}");
            }
        }
    });
}

#[test]
fn a_part_that_has_another_length_or_mark_is_found() {
    in_each_format(|format| {
        let mut lines = long_lines(format);
        lines.splice(8..10, [part(format, 1, 1, (0, 65_000), true), part(format, 1, 1, (65_000, 131_072), true)]);
        assert!(!long_verdict(format, &lines, 0, 0).is_clean());
        let mut lines = long_lines(format);
        lines[9] = part(format, 1, 1, PARTS[1], false);
        assert_eq!(long_verdict(format, &lines, 0, 0).is_clean(), format != Format::Json);
    });
}

#[test]
fn a_long_message_that_was_cut_off_must_be_there_as_far_as_it_was_echoed() {
    in_each_format(|format| {
        let mut lines = long_lines(format);
        let whole = [part(format, 2, 1, PARTS[0], true), part(format, 2, 1, PARTS[1], true)];
        lines.extend(whole);
        let all = |lines: &[Vec<u8>], echoed| long_verdict(format, lines, 150_000, echoed);
        assert_eq!((all(&lines, 131_072).is_clean(), all(&lines, 0).parts), (true, 2));
        lines.push(part(format, 2, 1, (131_072, 150_000), false));
        assert_eq!((all(&lines, 150_000).is_clean(), all(&lines, 0).parts), (true, 3));
        lines.pop();
        assert_eq!(all(&lines, 131_073).lost, 1, "a byte was echoed that is not there");
        lines.push(part(format, 2, 1, (131_072, 150_001), false));
        assert!(!all(&lines, 0).is_clean(), "more than was sent");
        lines.truncate(13);
        lines.push(part(format, 2, 1, PARTS[2], true));
        assert!(!all(&lines, 0).is_clean(), "the second part is not there");
    });
}

#[test]
fn a_message_that_ends_after_its_first_parts_is_right_only_if_it_was_not_echoed() {
    in_each_format(|format| {
        let mut lines = long_lines(format);
        lines.pop();
        let mut connections = long_connections(0, 0);
        assert_eq!(long_verdict(format, &lines, 0, 0).lost, 1);
        connections[0].echoed = 1;
        let verdict = check(&*lines.concat(), format, &connections).expect("memory can be read");
        assert!(verdict.is_clean() && verdict.parts == 1, "{verdict}");
        connections[0].echoed_part = 196_608;
        assert!(check(&*lines.concat(), format, &connections).expect("memory can be read").is_clean());
        connections[0].echoed_part = 196_609;
        assert_eq!(check(&*lines.concat(), format, &connections).expect("memory can be read").lost, 1);
    });
}

#[test]
fn a_cut_message_that_was_sent_whole_is_distinguished() {
    in_each_format(|format| {
        let cut = |sequence, to: usize| line(format, "[::1]:4002", &message(1, sequence)[..to]);
        for to in [3, 20, LENGTH - 2] {
            let mut lines = right(format);
            lines.push(cut(2, to));
            let found = verdict(format, &lines);
            assert_eq!((found.cut, found.parts, found.torn + found.forged), (1, 0, 0), "{found}");
            assert!(!found.is_clean());
            lines.push(sent(format, 1, 2));
            let found = verdict(format, &lines);
            assert!(found.doubled + found.disordered > 0, "something behind it: {found}");
            let mut lines = right(format);
            lines[4] = cut(1, to);
            let found = verdict(format, &lines);
            assert_eq!((found.cut, found.torn + found.forged, found.lost), (0, 1, 1), "it was echoed: {found}");
        }
    });
}
