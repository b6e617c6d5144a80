//! Kills around rotations: of a logger under load that rotates and compresses
//! all the time, without the usual ten seconds between two
//! rotations, and of any process of a whole daemon at the moment when it rotates.

use super::control;
use super::count::Count;
use super::doctor::{any, damage};
use super::random::{settings, side_by_side, with_each};
use super::rig::{self, nobody, put_lines, put_message};
use super::service::Setting;
use crate::load::checker::Format;
use crate::load::generator::Connection;
use crate::mini::{Held, Rig};
use crate::trial::{Tried, scaled};
use plumbd::link::handover::Protocol::{Lines, Records};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A pause between two writes of a source, so that the sources leave the others some time.
fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}

/// Kills the logger at any instant.
pub(crate) fn attempt(times: f64) -> Tried {
    let kills = scaled(150, times);
    side_by_side(&["gzip", "zstd"], |compress| kill_rotating(compress, kills))
        .tried(&control::removed_and_not_in_place())
}

/// A whole daemon, any of it killed at any instant around a rotation.
pub(crate) fn daemon(times: f64) -> Tried {
    let kills = scaled(15, times);
    let setting = |echo_after, load| Setting { echo_after, load, managed: true, pipes_are_lost: false, rotate: true };
    let count = with_each(settings(setting), |service| {
        for _ in 0..kills {
            service.wait_any_instant();
            // It rotates before the next batch.
            service.age_file();
            std::thread::sleep(Duration::from_micros(any(4000)));
            match any(5) {
                0 => service.kill_and_see_replaced(service.sources()),
                1 => service.kill_and_see_replaced(&[&["logger"], service.sources()].concat()),
                all @ 2..=3 => {
                    service.kill_supervisor(all == 3);
                    service.start_again();
                }
                _ => service.kill_and_see_replaced(&["logger"]),
            }
        }
    });
    assert!(count.rotated * 2 > count.kills, "only {} rotations at {} kills", count.rotated, count.kills);
    count.tried(&control::copied_and_truncated())
}

fn kill_rotating(compress: &str, kills: u32) -> Count {
    let mut count = Count::default();
    let mut rig = Rig::new("text");
    rig.settings["rotate"] = serde_json::json!({"size": 200_000, "compress": compress, "least_ms": 0});
    rig.links = vec![Held::new("tick", Lines, 1 << 18), Held::new("echo", Records, 1 << 18)];
    let (mut lines, records) = (rig.links[0].source(), rig.links[1].source());
    let over = AtomicBool::new(false);
    let sent: Vec<Connection> = std::thread::scope(|scope| {
        let tick = scope.spawn(|| {
            let mut c = nobody(1, "tick", 120);
            while !over.load(Ordering::Relaxed) {
                put_lines(&mut lines, &mut c, 50);
                pause();
            }
            vec![c]
        });
        let echo = scope.spawn(|| {
            let mut all = [128, 64 * 1024].map(|length| nobody(1 + length as u32, "127.0.0.1:40312", length));
            let mut sequence = 0;
            while !over.load(Ordering::Relaxed) {
                (0..50).for_each(|_| put_message(&records, &mut all[0], &mut sequence));
                put_message(&records, &mut all[1], &mut sequence);
                pause();
            }
            all.to_vec()
        });
        for _ in 0..kills {
            let logger = rig.start();
            std::thread::sleep(Duration::from_micros(any(40_000)));
            logger.kill();
            count.kills += 1;
            count.within_a_line += u64::from(rig::is_within_a_line(&rig));
        }
        over.store(true, Ordering::Relaxed);
        let last = rig.start();
        let sent = [tick.join().unwrap(), echo.join().unwrap()].concat();
        last.kill();
        sent
    });
    drop((lines, records));
    rig.drain();
    rig::check(&rig, &sent, &mut count, compress);
    count.doctored += damage(&rig.all_bytes(), Format::Text, &sent);
    assert!(!rig.archives().is_empty(), "it never rotated");
    count
}
