use super::output::tests::{over, syslog_at};
use super::*;
use crate::sys::pipe::Pipe;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;

fn journal(output: Output) -> &'static Journal {
    Box::leak(Box::new(Journal::new(output)))
}

fn say(journal: &Journal, text: &str) {
    journal.add(&Entry { priority: Priority::WARNING, child: "echo", text });
}

#[test]
fn a_full_pipe_never_blocks_and_what_was_dropped_is_told() {
    const LINES: usize = 10_000;
    let Pipe { read, write } = Pipe::new(4096).unwrap();
    let journal = journal(over(write));
    for n in 0..LINES {
        say(journal, &format!("{n} {}", "x".repeat(100)));
    }
    assert!(matches!(journal.waiting(), Waiting::Writable(_)));

    let mut lines = BufReader::new(std::fs::File::from(read)).lines();
    let (mut seen, mut dropped) = (0, 0);
    while seen + dropped < LINES {
        journal.flush(Instant::now());
        let line = lines.next().unwrap().unwrap();
        let text = line.split_once(": ").unwrap().1;
        match text.strip_suffix(" log entries were dropped") {
            Some(count) => dropped += count.parse::<usize>().unwrap(),
            None => {
                assert!(text.starts_with(&format!("{} ", seen + dropped)), "{line}");
                seen += 1;
            }
        }
    }
    assert!(dropped > 0);
    assert!(matches!(journal.flush(Instant::now()), Waiting::Nothing));
}

#[test]
fn entries_wait_for_a_syslog_daemon_that_starts_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let journal = journal(syslog_at(&path));
    say(journal, "early");
    let Waiting::Until(then) = journal.waiting() else { panic!("it waits for nothing") };
    let daemon = UnixDatagram::bind(&path).unwrap();
    assert!(matches!(journal.flush(then), Waiting::Nothing));
    let mut got = [0; 100];
    let n = daemon.recv(&mut got).unwrap();
    assert!(got[..n].ends_with(b": echo: early"));
}

#[test]
fn where_nobody_reads_any_more_nothing_waits_for_ever() {
    let Pipe { read, write } = Pipe::new(4096).unwrap();
    let journal = journal(over(write));
    drop(read);
    say(journal, "one");
    say(journal, "two");
    assert!(matches!(journal.flush(Instant::now()), Waiting::Nothing));
}

#[test]
fn the_end_waits_no_longer_than_it_may() {
    let Pipe { read: _read, write } = Pipe::new(4096).unwrap();
    let journal = journal(over(write));
    for _ in 0..100 {
        say(journal, &"x".repeat(1000));
    }
    let start = Instant::now();
    journal.finish(start + Duration::from_millis(50));
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert!(matches!(journal.waiting(), Waiting::Writable(_)));
}

#[test]
fn a_message_of_several_lines_is_several_entries() {
    let Pipe { read, write } = Pipe::new(4096).unwrap();
    let journal = Journal::new(over(write));
    log::set_max_level(LevelFilter::Info);
    journal.log(&Record::builder().level(log::Level::Info).target("logger").args(format_args!("a\nb")).build());
    drop(journal);
    let lines: Vec<String> = BufReader::new(std::fs::File::from(read)).lines().map(Result::unwrap).collect();
    assert!(lines[0].ends_with(" INFO logger: a"), "{lines:?}");
    assert!(lines[1].ends_with(" INFO logger: b"), "{lines:?}");
}
