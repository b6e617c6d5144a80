//! How long an echo takes if the server is not at its limit.

use crate::echo::{LENGTH, once};
use crate::paced;
use crate::servers::Server;
use crate::table::{Line, Part, Wanted, a_second, seconds, time};
use crate::{Row, Scale};
use std::time::Duration;

const CONNECTIONS: u32 = 50;
/// The time before the load counts.
const WARM_UP: Duration = Duration::from_millis(300);

pub(crate) const ROWS: &[Row] =
    &[Row { name: "latency", about: "p99 of an echo at half the maximal rate, 50 connections", measure }];

fn measure(scale: &Scale) -> Result<Part, String> {
    let most = once(Server::Plumbd("saved", 1), CONNECTIONS, scale.load)?.rate;
    let (mut plumbd, mut plain) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
    for _ in 0..scale.rounds {
        for (server, quantiles) in [(Server::Plain, &mut plain), (Server::Plumbd("saved", 1), &mut plumbd)] {
            let [half, most] = quantiles_at(server, most / 2.0, scale.load)?;
            quantiles[0].push(half);
            quantiles[1].push(most);
        }
    }
    let wanted = [Wanted::Nothing, Wanted::AtMost(1.5)];
    let line = |number: usize, name: &str| {
        let what = format!("{name} of an echo, `saved`, 50 connections, {}", a_second(most / 2.0));
        let beside = "plain epoll echo, the same rate";
        Line::compare(&what, &plumbd[number], beside, &plain[number], time, wanted[number])
    };
    let note = format!(
        "Half of plumbd's maximal rate at `saved`, which was {}, for both. What is due is handed out each 200 us; the \
         clock runs from then on.",
        a_second(most)
    );
    Ok(Part { lines: vec![line(0, "p50"), line(1, "p99")], notes: vec![note], ..Part::default() })
}

/// p50 and p99, in seconds.
fn quantiles_at(server: Server, rate: f64, lasts: Duration) -> Result<[f64; 2], String> {
    let running = server.start()?;
    let (sent, latency) = paced::run(running.address, CONNECTIONS, LENGTH, rate, (WARM_UP, lasts))
        .map_err(|e| running.complaint(&format!("cannot load it at {}: {e}", a_second(rate))))?;
    if let Some(slow) = sent.iter().find(|c| c.echoed < c.sent) {
        return Err(running.complaint(&format!(
            "of {} messages {} were not echoed",
            slow.sent,
            slow.sent - slow.echoed
        )));
    }
    running.finish(&sent)?;
    Ok([0.5, 0.99].map(|share| seconds(latency.quantile(share))))
}
