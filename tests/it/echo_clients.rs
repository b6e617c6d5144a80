//! Clients that an echo has to cope with: those that send urgent data, take nothing,
//! leave or vanish, and very many at once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::daemon::{Daemon, free_port, kill};
use crate::echo::{by_connection, write_all_it_takes};
use crate::fake_sink::{Echo, Got, PATIENCE, Setup, connect, eventually, has_nothing, read_exact, read_to_end};
use crate::network::{ip, own_network};
use nix::libc::SIGKILL;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, send, setsockopt, socket, sockopt};
use plumbd::sys::socket::unread;
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Sends each part. Parts that begin with `!` are sent as urgent data, whose last byte is
/// the urgent one (tcp(7)).
fn send_parts(client: &mut TcpStream, parts: &[&str]) -> String {
    for part in parts {
        match part.strip_prefix('!') {
            Some(urgent) => {
                assert_eq!(send(client.as_raw_fd(), urgent.as_bytes(), MsgFlags::MSG_OOB), Ok(urgent.len()));
            }
            None => client.write_all(part.as_bytes()).unwrap(),
        }
    }
    parts.iter().map(|part| part.trim_start_matches('!')).collect()
}

#[test]
fn urgent_bytes_are_bytes_like_any_other() {
    let (room, more) = ("x".repeat(4095), "y".repeat(8192));
    let inputs: &[&[&str]] = &[
        &["abc", "!X", "def\n"],
        &["!X", "\n"],
        &["abc", "!\n", "def\n"],
        &["a", "!1", "!2", "!3", "b", "!4", "\n"],
        &["abc\n", "!X", "!YZ", "def\n"],
        &["line\nab", "!c", "!\n"],
        // The urgent bytes are where the first buffer ends, and the next one.
        &[&room, "!X", &more, "!Y", "\n"],
    ];
    for stopped in [false, true] {
        for parts in inputs {
            let mut echo = Setup::new(json!({ "echo_after": "queued" })).start();
            let auto = echo.acknowledge_all();
            let mut client = echo.client();
            if stopped {
                // Everything has arrived before it looks, and is reported once.
                echo.signal(Signal::SIGSTOP);
            }
            let sent = send_parts(&mut client, parts);
            echo.signal(Signal::SIGCONT);
            assert!(read_exact(&mut client, sent.len()) == sent.as_bytes(), "{parts:?} stopped: {stopped}");
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&mut client), b"");
            echo.signal(Signal::SIGTERM);
            let records = auto.end();
            let saved = records.iter().map(|record| record.payload.as_slice()).collect::<Vec<_>>().concat();
            let without_ends: String = sent.split('\n').collect();
            assert!(saved == without_ends.as_bytes(), "{parts:?} stopped: {stopped}");
        }
    }
}

#[test]
fn urgent_bytes_that_arrive_before_the_accept_are_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = connect(listener.local_addr().unwrap());
    let sent = send_parts(&mut client, &["abc", "!X", "def\n"]);
    let mut echo = Setup::new(json!({})).listener(listener).start();
    let record = echo.sink.records(1).remove(0);
    assert_eq!(record.payload, b"abcXdef");
    echo.sink.acknowledge(&record);
    assert_eq!(read_exact(&mut client, sent.len()), sent.as_bytes());
}

#[test]
fn asked_to_stop_it_takes_what_is_behind_an_urgent_byte_too() {
    for parts in [&["abc", "!X", "def\nend"][..], &["!X", "abc\n", "!Y", "def"], &["abc\n", "!\n", "d"]] {
        let mut echo = Setup::new(json!({ "echo_after": "queued" })).start();
        let mut client = echo.client();
        eventually("it is in", || echo.metric("connections") == 1);
        echo.signal(Signal::SIGSTOP);
        let sent = send_parts(&mut client, parts);
        echo.signal(Signal::SIGTERM);
        echo.signal(Signal::SIGCONT);
        assert_eq!(String::from_utf8(read_to_end(&mut client)).unwrap(), sent, "{parts:?}");
        assert_eq!(echo.wait().code(), Some(0), "{}", echo.log());
    }
}

/// A client with small buffers in the kernel.
fn small_client(address: SocketAddr) -> TcpStream {
    client_that_takes(16384, address)
}

/// A client with a receive buffer of about that many bytes.
fn client_that_takes(bytes: usize, address: SocketAddr) -> TcpStream {
    let kind = (AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC);
    let socket = socket(kind.0, kind.1, kind.2, None).unwrap();
    setsockopt(&socket, sockopt::RcvBuf, &bytes).unwrap();
    setsockopt(&socket, sockopt::SndBuf, &16384).unwrap();
    // With segments of the size that Ethernet has.
    setsockopt(&socket, sockopt::TcpMaxSeg, &1400).unwrap();
    nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, address.port())).unwrap();
    let client = TcpStream::from(socket);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Numbered lines of a hundred bytes.
fn lines(count: usize) -> Vec<u8> {
    (0..count).flat_map(|n| format!("line {n:94}\n").into_bytes()).collect()
}

/// Has each hog send until nothing more is taken while another client is served many times.
/// Returns how many bytes of the lines each has sent.
fn fill(echo: &Echo, hogs: &mut [TcpStream], lines: &[u8]) -> Vec<usize> {
    let (mut sent, mut in_vain) = (vec![0; hogs.len()], 0);
    let mut other = echo.client();
    while in_vain < 100 {
        let before = sent.clone();
        for (hog, sent) in hogs.iter_mut().zip(&mut sent) {
            *sent += write_all_it_takes(hog, &lines[*sent..]);
            assert!(*sent < lines.len(), "it never stops taking bytes");
        }
        in_vain = if before == sent { in_vain + 1 } else { 0 };
        other.write_all(b"quick\n").unwrap();
        assert_eq!(read_exact(&mut other, 6), b"quick\n");
    }
    sent
}

#[test]
fn a_client_that_never_reads_costs_kilobytes() {
    let mut echo = Setup::new(json!({})).start();
    let auto = echo.acknowledge_all();
    let lines = lines(100_000);
    let mut hogs = [small_client(echo.address), small_client(echo.address)];
    for sent in fill(&echo, &mut hogs, &lines) {
        // 128 KiB in echo, and as much again unsent and unread in the kernel, and what is in
        // the client's own buffers.
        assert!(sent < 700 << 10, "{sent} bytes");
    }
    auto.stop();
}

#[test]
fn a_client_that_takes_none_of_its_echoes_is_closed() {
    // As much as echo takes, or no more than fits in the kernel's buffers.
    for most in [usize::MAX, 100_000] {
        let mut echo = Setup::new(json!({ "send_timeout": 1000 })).start();
        let auto = echo.acknowledge_all();
        let lines = lines(100_000);
        let mut hog = small_client(echo.address);
        let began = Instant::now();
        let mut sent = 0;
        while echo.metric("send_timeouts") == 0 && sent < most.min(lines.len()) {
            let Ok(count) = hog.write(&lines[sent..lines.len().min(most).min(sent + 8192)]) else { break };
            sent += count;
        }
        eventually("it is closed", || (echo.metric("send_timeouts"), echo.metric("connections")) == (1, 0));
        assert!(began.elapsed() >= Duration::from_secs(1));
        eventually("this is logged", || echo.log().contains("closed: took no echoes"));
        let mut back = Vec::new();
        let error = hog.read_to_end(&mut back).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        // Others are served, and what arrived from it is saved.
        let mut other = echo.client();
        other.write_all(b"other\n").unwrap();
        assert_eq!(read_exact(&mut other, 6), b"other\n");
        let records = auto.stop();
        let saved: Vec<u8> =
            records.iter().filter(|r| r.connection == 1).flat_map(|r| [&r.payload[..], b"\n"].concat()).collect();
        assert!(saved.starts_with(&back), "{} bytes saved, {} back", saved.len(), back.len());
        assert!(lines.starts_with(saved.trim_ascii_end()), "{} bytes saved", saved.len());
    }
}

#[test]
fn a_client_that_takes_slowly_but_steadily_stays() {
    let mut echo = Setup::new(json!({ "send_timeout": 1500 })).start();
    let auto = echo.acknowledge_all();
    let (mut slow, lines) = (small_client(echo.address), lines(4000));
    let mut writer = slow.try_clone().unwrap();
    let sent = lines.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let (began, mut back) = (Instant::now(), Vec::new());
    // Three times as long as a client may take nothing.
    while began.elapsed() < Duration::from_millis(4500) && back.len() < 300_000 {
        back.extend(read_exact(&mut slow, 4000));
        std::thread::sleep(Duration::from_millis(60));
    }
    back.extend(read_to_end(&mut slow));
    writing.join().unwrap();
    assert!(back == lines, "{} of {} bytes", back.len(), lines.len());
    assert_eq!(echo.metric("send_timeouts"), 0);
    auto.stop();
}

/// A small limit for the memory of all connections. Long buffers may use a part of it.
const MEMORY: usize = 1 << 20;

#[test]
fn all_connections_together_hold_no_more_than_max_memory_and_nothing_is_lost() {
    let mut echo = Setup::new(json!({ "max_memory": MEMORY, "max_connections": 64 })).start();
    let auto = echo.acknowledge_all();
    let lines = lines(20_000);
    let mut hogs: Vec<TcpStream> = (0..50).map(|_| small_client(echo.address)).collect();
    // Others are served meanwhile.
    let sent = fill(&echo, &mut hogs, &lines);
    let memory = usize::try_from(echo.metric("memory")).unwrap();
    assert!((MEMORY / 4..=MEMORY).contains(&memory), "{memory} bytes");
    // So are clients whose messages need a longer buffer, one after the other.
    let long = [&[b'x'; 60_000][..], b"\n"].concat();
    for _ in 0..3 {
        let mut other = echo.client();
        other.write_all(&long).unwrap();
        assert!(read_exact(&mut other, long.len()) == long);
    }
    for (hog, sent) in hogs.iter_mut().zip(&sent) {
        hog.shutdown(Shutdown::Write).unwrap();
        assert!(read_to_end(hog) == lines[..*sent], "{sent} bytes");
    }
    eventually("all memory is released", || (echo.metric("connections"), echo.metric("memory")) == (0, 0));
    let saved = by_connection(&auto.stop());
    for (number, sent) in (1..).zip(&sent) {
        let mut wanted = lines[..*sent].to_vec();
        wanted.retain(|byte| *byte != b'\n');
        assert!(saved[&number] == wanted, "client {number}");
    }
}

#[test]
fn many_that_need_more_memory_than_there_is_get_it_one_after_the_other() {
    let mut echo = Setup::new(json!({ "max_memory": MEMORY, "max_connections": 64 })).start();
    let auto = echo.acknowledge_all();
    let mut clients: Vec<TcpStream> = (0..60).map(|_| echo.client()).collect();
    // Half a message from each, so that all have begun. There is memory for only some of them.
    for (n, client) in clients.iter_mut().enumerate() {
        client.write_all(&[b'a' + u8::try_from(n % 26).unwrap(); 30_000]).unwrap();
    }
    eventually("the memory is taken", || echo.metric("memory") > MEMORY as u64 / 2);
    for (n, client) in clients.iter_mut().enumerate() {
        client.write_all(&[b'a' + u8::try_from(n % 26).unwrap(); 30_000]).unwrap();
        client.write_all(b"\n").unwrap();
        assert!(echo.metric("memory") <= MEMORY as u64);
    }
    for client in &mut clients {
        assert_eq!(read_exact(client, 60_001).last(), Some(&b'\n'));
    }
    // None was cut into parts.
    assert_eq!(echo.metric("messages"), 60);
    drop(auto.stop());
}

#[test]
fn past_max_memory_no_new_client_is_read_until_there_is_room() {
    // Room for 64 first buffers, and for one buffer of the longest kind at a time.
    let changes = json!({ "max_memory": 64 * 4096 + 32 * 1024, "max_message": 1000, "echo_after": "queued" });
    let mut echo = Setup::new(changes).start();
    let half = |client: &mut TcpStream| client.write_all(b"half a ").unwrap();
    let mut clients: Vec<TcpStream> = (0..64).map(|_| echo.client()).collect();
    clients.iter_mut().for_each(half);
    eventually("all are read", || echo.metric("bytes") == 64 * 7);
    let mut late: Vec<TcpStream> = (0..40).map(|_| echo.client()).collect();
    late.iter_mut().for_each(half);
    let mut idle: Vec<TcpStream> = (0..10).map(|_| echo.client()).collect();
    eventually("all are in", || echo.metric("connections") == 64 + 40 + 10);
    assert_eq!((echo.metric("bytes"), echo.metric("memory")), (64 * 7, 64 * 4096));
    // A client that sends only its end needs no memory.
    idle.clear();
    eventually("they are gone", || echo.metric("connections") == 64 + 40);
    // The first waiting client is read when one releases its memory, the second when another does.
    for (n, client) in clients.iter_mut().take(40).enumerate() {
        client.write_all(b"line\n").unwrap();
        assert_eq!(read_exact(client, 12), b"half a line\n");
        let late = &mut late[n];
        late.write_all(b"line\n").unwrap();
        assert_eq!(read_exact(late, 12), b"half a line\n", "{n}");
    }
    assert_eq!(echo.sink.records(80).len(), 80);
}

/// An echo whose sink takes nothing, and which itself takes no more, with the clients that
/// have filled it.
fn hanging(changes: serde_json::Value) -> (Echo, Vec<TcpStream>) {
    let echo = Setup::new(changes).capacity(64 * 1024).start();
    let lines = lines(2000);
    let mut full: Vec<TcpStream> = (0..8).map(|_| echo.client()).collect();
    for client in &mut full {
        write_all_it_takes(client, &lines);
    }
    let (mut before, mut same) = (0, 0);
    while same < 50 {
        let bytes = echo.metric("bytes");
        same = if bytes == before && bytes > 200_000 { same + 1 } else { 0 };
        before = bytes;
        std::thread::sleep(Duration::from_millis(2));
    }
    (echo, full)
}

/// Makes the connection end with a reset.
fn reset(client: TcpStream) {
    setsockopt(&client, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    drop(client);
}

#[test]
fn while_the_sink_hangs_clients_that_leave_give_up_their_places() {
    let (mut echo, full) = hanging(json!({ "max_connections": 14 }));
    let come = |count: usize| (0..count).map(|_| echo.client()).collect::<Vec<_>>();
    let accepted = |count| eventually("they are in", || echo.metric("accepted") == count);
    let places = |count| eventually("their places are free", || echo.metric("connections") == count);
    // Clients from which there was nothing to read.
    let idle = come(6);
    accepted(14);
    drop(idle);
    places(8);
    // Clients that sent something that is not read yet, and reset the connection.
    let mut sent = come(4);
    accepted(18);
    for (n, client) in sent.iter_mut().enumerate() {
        writeln!(client, "from {n}").unwrap();
    }
    sent.into_iter().for_each(reset);
    places(8);
    // A client that sent something and may still take its echo keeps its place.
    let mut half = come(6);
    accepted(24);
    for client in &mut half {
        client.write_all(b"half closed\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    let mut waits = echo.client();
    waits.write_all(b"waits\n").unwrap();
    assert_eq!((echo.metric("accepted"), echo.metric("connections")), (24, 14));
    // And clients whose messages were taken, which reset the connection too.
    full.into_iter().for_each(reset);
    places(6 + 1);
    assert!(has_nothing(&waits));
    let auto = echo.acknowledge_all();
    for client in &mut half {
        assert_eq!(read_to_end(client), b"half closed\n");
    }
    assert_eq!(read_exact(&mut waits, 6), b"waits\n");
    eventually("all but one are gone", || echo.metric("connections") == 1);
    let saved: Vec<Vec<u8>> = auto.stop().into_iter().map(|record| record.payload).collect();
    for n in 0..4 {
        assert!(saved.contains(&format!("from {n}").into_bytes()), "{n} is not saved");
    }
    assert_eq!(saved.iter().filter(|payload| *payload == b"half closed").count(), 6);
}

#[test]
fn clients_that_are_gone_are_bounded_too() {
    let (mut echo, full) = hanging(json!({ "max_connections": 8 }));
    full.into_iter().for_each(reset);
    eventually("their places are free", || echo.metric("connections") == 0);
    // Each of them still takes a descriptor until the sink goes on.
    let mut waits = echo.client();
    waits.write_all(b"waits\n").unwrap();
    assert_eq!(echo.metric("accepted"), 8);
    let auto = echo.acknowledge_all();
    assert_eq!(read_exact(&mut waits, 6), b"waits\n");
    auto.stop();
}

#[test]
fn a_client_that_is_not_being_read_does_not_count_as_idle() {
    let (mut echo, _full) = hanging(json!({ "idle_timeout": 300 }));
    let (mut sends, mut idle) = (echo.client(), echo.client());
    sends.write_all(b"not idle\n").unwrap();
    eventually("both are in", || echo.metric("accepted") == 10);
    assert_eq!(read_to_end(&mut idle), b"");
    let mut idle = echo.client();
    assert_eq!(read_to_end(&mut idle), b"");
    let auto = echo.acknowledge_all();
    assert_eq!(read_exact(&mut sends, 9), b"not idle\n");
    auto.stop();
}

/// How many clients the lines with that text are about, and how many lines there are.
fn told(log: &str, text: &str) -> (u64, usize) {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(text)).collect();
    let count = |line: &&str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let many = words.iter().position(|word| *word == "clients,");
        many.map_or(1, |at| words[at - 1].rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap())
    };
    (lines.iter().map(count).sum(), lines.len())
}

#[test]
fn a_stop_with_many_that_never_read_is_short_and_is_logged_once() {
    let mut echo = Setup::new(json!({})).start();
    let auto = echo.acknowledge_all();
    let mut hogs: Vec<TcpStream> = (0..300).map(|_| small_client(echo.address)).collect();
    fill(&echo, &mut hogs, &lines(100_000));
    let began = Instant::now();
    echo.signal(Signal::SIGTERM);
    assert_eq!(echo.wait().code(), Some(0), "{}", echo.log());
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let (clients, lines) = told(&echo.log(), "given up at the stop: takes no echoes");
    assert!(clients == 300 && lines <= 4, "{clients} in {lines} lines: {}", echo.log());
    auto.end();
}

/// An echo that was asked to stop, with a client that has read nothing yet. A part of its echoes
/// is in the client's receive buffer and the rest in echo's send buffer, and two more of its
/// messages are at the sink.
fn stopping_with_a_client_that_is_behind(changes: serde_json::Value) -> (Echo, TcpStream, Vec<u8>, Vec<Got>) {
    let mut echo = Setup::new(changes).start();
    // The kernel announces new room each time that this much was read.
    let mut client = client_that_takes(4096, echo.address);
    let mut sent = lines(700);
    client.write_all(&sent).unwrap();
    let records = echo.sink.records(700);
    echo.sink.acknowledge(records.last().unwrap());
    eventually("echoes come", || unread(&client).unwrap() > 1000);
    let last = b"one more\nthe last\n";
    client.write_all(last).unwrap();
    sent.extend(last);
    let last = echo.sink.records(2);
    echo.signal(Signal::SIGTERM);
    eventually("it stops", || echo.log().contains("stops: 1 client gets"));
    (echo, client, sent, last)
}

#[test]
fn asked_to_stop_it_does_not_cut_off_a_client_that_takes_slowly() {
    for send_timeout_ms in [60_000, 0] {
        let changes = json!({ "send_timeout": send_timeout_ms });
        let (mut echo, mut client, sent, last) = stopping_with_a_client_that_is_behind(changes);
        echo.sink.acknowledge(&last[0]);
        let (began, mut back) = (Instant::now(), Vec::new());
        // For longer than a client may take nothing, and less than what was still under way
        // when this echo ended.
        while began.elapsed() < Duration::from_millis(3500) {
            back.extend(read_exact(&mut client, 2000));
            std::thread::sleep(Duration::from_millis(150));
        }
        echo.sink.acknowledge(&last[1]);
        back.extend(read_to_end(&mut client));
        assert!(back == sent, "{} of {} bytes: {}", back.len(), sent.len(), echo.log());
        assert_eq!(echo.wait().code(), Some(0), "{}", echo.log());
    }
}

#[test]
fn asked_to_stop_it_does_not_wait_for_the_sink_because_of_a_client_that_takes_nothing() {
    for send_timeout_ms in [60_000, 0] {
        let changes = json!({ "send_timeout": send_timeout_ms });
        let (mut echo, _client, ..) = stopping_with_a_client_that_is_behind(changes);
        assert_eq!(echo.wait().code(), Some(0), "{}", echo.log());
        assert_eq!(told(&echo.log(), "given up at the stop: takes no echoes").0, 1, "{}", echo.log());
    }
}

#[test]
fn many_refused_clients_are_logged_in_few_lines() {
    for (changes, text, served) in [
        (json!({ "allow": ["10.0.0.0/8"] }), "refused: allow has no network", 0),
        (json!({ "max_connections_per_address": 2 }), "refused: max_connections_per_address", 2),
    ] {
        let mut echo = Setup::new(changes).start();
        let mut clients: Vec<TcpStream> = (0..200).map(|_| echo.client()).collect();
        for client in clients.iter_mut().skip(served) {
            assert_eq!(read_to_end(client), b"");
        }
        eventually("all are refused", || echo.metric("refused") == 200 - served as u64);
        drop(clients);
        echo.signal(Signal::SIGTERM);
        assert_eq!(echo.wait().code(), Some(0), "{}", echo.log());
        let (clients, lines) = told(&echo.log(), text);
        assert!(clients == 200 - served as u64 && lines <= 6, "{clients} in {lines} lines: {}", echo.log());
    }
}

#[test]
fn asked_to_stop_it_frees_the_address_even_if_a_client_is_not_done() {
    let mut echo = Setup::new(json!({})).start();
    let mut client = echo.client();
    client.write_all(b"hello\n").unwrap();
    let record = echo.sink.records(1).remove(0);
    // No other process has the listening socket.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = std::mem::replace(&mut echo.listener, other).local_addr().unwrap();
    echo.signal(Signal::SIGTERM);
    eventually("the address is free", || TcpListener::bind(address).is_ok());
    assert!(echo.is_running());
    echo.sink.acknowledge(&record);
    assert_eq!(read_to_end(&mut client), b"hello\n");
    assert_eq!(echo.wait().code(), Some(0), "{}", echo.log());
}

#[test]
fn a_start_right_after_a_kill_succeeds_even_with_a_client_that_never_reads() {
    let port = free_port();
    let mut daemon = Daemon::start(&format!(
        "[children.echo]\nplugin = \"echo\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [children.logger]\nplugin = \"logger\"\nsettings = {{ file = \"messages.log\" }}\n\
         [[links]]\nfrom = \"echo\"\nto = \"logger\"\n"
    ));
    let lines = lines(100_000);
    let mut took = Duration::MAX;
    // On a busy machine, this may not work at the first try.
    for _ in 0..5 {
        let (mut hog, mut sent, mut in_vain) = (small_client(([127, 0, 0, 1], port).into()), 0, 0);
        while in_vain < 100 {
            let count = write_all_it_takes(&mut hog, &lines[sent..]);
            (sent, in_vain) = (sent + count, if count == 0 { in_vain + 1 } else { 0 });
            std::thread::sleep(Duration::from_millis(1));
        }
        kill(daemon.pid(), SIGKILL);
        daemon.wait_killed();
        let began = Instant::now();
        daemon.start_again();
        took = began.elapsed();
        if took < Duration::from_secs(3) {
            break;
        }
    }
    assert!(took < Duration::from_secs(3), "{took:?}\n{}", daemon.log());
    let mut client = daemon.connect(port);
    client.write_all(b"served\n").unwrap();
    assert_eq!(read_exact(&mut client, 7), b"served\n");
    drop(client);
    daemon.stop();
}

#[test]
fn the_kernel_asks_a_silent_client_whether_it_is_there() {
    // Kind 2 is the keepalive timer (proc_pid_net(5), tcp). Its time is in hundredths of a second.
    for (keepalive_ms, wanted) in [(60_000, Some(6000)), (1500, Some(200)), (0, None)] {
        let echo = Setup::new(json!({ "keepalive": keepalive_ms })).start();
        let client = echo.client();
        eventually("it is in", || echo.metric("connections") == 1);
        let (port, peer) = (echo.address.port(), client.local_addr().unwrap().port());
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let ends = format!("0100007F:{port:04X} 0100007F:{peer:04X}");
        let row = table.lines().find(|line| line.contains(&ends)).unwrap();
        let (kind, left) = row.split_ascii_whitespace().nth(5).unwrap().split_once(':').unwrap();
        let left = u32::from_str_radix(left, 16).unwrap();
        match wanted {
            Some(most) => assert!(kind == "02" && left <= most && left + 100 > most / 2, "{row}"),
            None => assert_eq!(kind, "00", "{row}"),
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_client_that_vanished_is_noticed() {
    own_network();
    let echo = Setup::new(json!({ "keepalive": 1000 })).start();
    let _client = echo.client();
    eventually("it is in", || echo.metric("connections") == 1);
    ip("link set lo down");
    let began = Instant::now();
    eventually("it is gone", || echo.metric("connections") == 0);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn an_ipv4_network_is_the_same_however_it_is_written() {
    for (allow, is_allowed) in [
        ("\"::ffff:127.0.0.0/104\"", true),
        ("\"::ffff:127.0.0.1\"", true),
        ("\"127.0.0.0/8\"", true),
        ("\"::ffff:0:0/96\"", true),
        ("\"::ffff:10.0.0.0/104\"", false),
    ] {
        let port = free_port();
        let mut daemon = Daemon::start(&format!(
            "[children.echo]\nplugin = \"echo\"\nlisten = [\"tcp://[::ffff:127.0.0.1]:{port}\"]\n\
             settings = {{ echo_after = \"queued\", allow = [{allow}] }}\n\
             [children.sink]\ncommand = [\"cat\"]\n\
             [[links]]\nfrom = \"echo\"\nto = \"sink\"\n"
        ));
        let mut client = daemon.connect(port);
        let mut back = [0; 6];
        let served = client.write_all(b"hello\n").and_then(|()| client.read_exact(&mut back)).is_ok();
        assert_eq!(served, is_allowed, "{allow}");
        drop(client);
        daemon.stop();
    }
}

#[test]
#[ignore = "needs root"]
fn a_link_local_address_belongs_to_its_interface() {
    own_network();
    ip("-6 addr add fe80::7/64 dev lo nodad");
    // The loopback interface is the first one in each network namespace (network_namespaces(7)).
    for zone in ["lo", "1"] {
        let port = free_port();
        let mut daemon = Daemon::start(&link_local(zone, port));
        let mut client = connect(std::net::SocketAddrV6::new("fe80::7".parse().unwrap(), port, 0, 1).into());
        client.write_all(b"hello\n").unwrap();
        assert_eq!(read_exact(&mut client, 6), b"hello\n");
        drop(client);
        daemon.stop();
    }
}

fn link_local(zone: &str, port: u16) -> String {
    format!(
        "[children.echo]\nplugin = \"echo\"\nlisten = [\"tcp://[fe80::7%{zone}]:{port}\"]\n\
         settings = {{ echo_after = \"queued\" }}\n\
         [children.sink]\ncommand = [\"cat\"]\n\
         [[links]]\nfrom = \"echo\"\nto = \"sink\"\n"
    )
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let daemon = Daemon::spawn(&link_local("nowhere", free_port()));
    daemon.wait_log("[fe80::7%nowhere]");
    daemon.wait_log("there is no interface nowhere");
}
