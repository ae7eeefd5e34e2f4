//! N1: each layer that closes the network, on its own.

use std::time::Instant;

use super::monitor::Monitor;
use crate::attack_farm::AttackFarm;
use crate::report::Report;
use crate::{LAYERS_OFF, farm};

/// Each layer that closes the network, on its own, and what it must close. Without this, the other
/// layers would hide one that stops working.
const NETWORK_LAYERS: [(&str, Alone); 6] = [
    (
        "resolver",
        Alone::Leaves(&[
            "STUN",
            "TURN over UDP",
            "data channel to a candidate",
            "names by multicast",
        ]),
    ),
    (
        "proxy",
        Alone::Leaves(&[
            "STUN",
            "TURN over UDP",
            "TURN over TCP",
            "data channel to a candidate",
            "names by multicast",
        ]),
    ),
    (
        "interceptor",
        Alone::Leaves(&[
            "another port of the loopback",
            "WebSocket",
            "WebSocketStream",
            "WebSocketStream from a worker",
            "WebSocket and fetch from a worker",
            "STUN",
            "TURN over UDP",
            "TURN over TCP",
            "data channel to a candidate",
            "WebTransport",
            "prerender and speculation rules",
            "names by multicast",
        ]),
    ),
    (
        "policy",
        Alone::Leaves(&[
            "STUN",
            "TURN over UDP",
            "TURN over TCP",
            "data channel to a candidate",
            "location",
            "a link",
            "a download",
            "meta refresh",
            "windows",
            "history",
            "names by multicast",
        ]),
    ),
    // On its own it closes only what the other layers leave open. Together with the other two it
    // also closes names by multicast, both queries and answers.
    (
        "webrtc",
        Alone::Closes(&["STUN", "TURN over UDP", "data channel to a candidate"]),
    ),
    (
        "resolver,webrtc,features",
        Alone::Closes(&[
            "STUN",
            "TURN over UDP",
            "data channel to a candidate",
            "names by multicast",
        ]),
    ),
];

/// What a layer does on its own.
#[derive(Debug, Clone, Copy)]
enum Alone {
    /// It closes all ways out except these.
    Leaves(&'static [&'static str]),
    /// It closes these, and few others.
    Closes(&'static [&'static str]),
}

impl Alone {
    /// The ways out that are open and should be closed.
    fn broken(self, open: &[&'static str]) -> Vec<&'static str> {
        let is_broken = |way: &&&str| match self {
            Self::Leaves(known) => !known.contains(*way),
            Self::Closes(closed) => closed.contains(*way),
        };
        open.iter().filter(is_broken).copied().collect()
    }
}

/// Runs a farm for each of them.
pub(crate) async fn run(monitor: &Monitor) -> Report {
    let mut report = Report::default();
    for (layers, expected) in NETWORK_LAYERS {
        report.join(alone(layers, expected, monitor).await);
    }
    report
}

/// Runs a farm with only one of the layers that close the network, or with layers that belong
/// together.
async fn alone(layers: &str, expected: Alone, monitor: &Monitor) -> Report {
    let start = Instant::now();
    let is_on = |layer: &&str| layers.split(',').any(|on| on == *layer);
    let all = [
        "resolver",
        "proxy",
        "webrtc",
        "features",
        "interceptor",
        "policy",
    ];
    let off: Vec<_> = all.into_iter().filter(|layer| !is_on(layer)).collect();
    let mut target = AttackFarm::bare(farm().env(LAYERS_OFF, &off.join(","))).await;
    let open = super::leaks(&target, monitor).await;
    let count = super::ways();
    let outcome = match &expected.broken(&open)[..] {
        [] => Ok(format!(
            "{} of {count} ways out are closed",
            count - open.len()
        )),
        broken => Err(format!("open, but should be closed: {broken:?}")),
    };
    let control = Some(Ok("without it they are open: each way's control".to_owned()));
    let name = format!("{layers} alone");
    target.note("N1", &name, outcome, control, start.elapsed());
    let note = format!("{name}: still open: {}", open.join(", "));
    target.report.notes.push(note);
    target.end().await
}
