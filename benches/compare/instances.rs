//! Two instances of echo that share their listening socket and one logger, beside one instance.

use crate::echo::{once, rates};
use crate::servers::Server;
use crate::table::{Line, Part, Wanted, a_second};
use crate::{Row, Scale};

pub(crate) const ROWS: &[Row] =
    &[Row { name: "instances", about: "echo and save with instances = 2, beside 1, 50 connections", measure }];

fn measure(scale: &Scale) -> Result<Part, String> {
    let (mut two, mut one) = (Vec::new(), Vec::new());
    for _ in 0..scale.rounds {
        one.push(once(Server::Plumbd("saved", 1), 50, scale.load)?);
        two.push(once(Server::Plumbd("saved", 2), 50, scale.load)?);
    }
    let what = "echo, `saved`, 50 connections, `instances = 2`";
    let line = Line::compare(what, &rates(&two), "`instances = 1`", &rates(&one), a_second, Wanted::Nothing);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let note = format!("The load generator takes a core of its own: of {cores}, echoes and logger share the rest.");
    Ok(Part { lines: vec![line], notes: vec![note], ..Part::default() })
}
