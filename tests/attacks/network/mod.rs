//! N: nothing leaves a page. The farm is where only a witness can be reached, who sees every packet.

pub(crate) mod namespace;
mod vectors;
pub(crate) mod witness;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use self::namespace::{METADATA, OUTSIDE, V4, V6};
use self::vectors::{PREAMBLE, VECTORS, Vector, WAIT};
use self::witness::{Event, Witness};
use crate::arena::{Arena, Browser, address};
use crate::attack::{contract, shown};
use crate::support::client::Client;
use crate::support::wait;

/// The port of the first case; the others follow. Below those that the system gives to connections, and
/// none that Chromium refuses to speak to.
const FIRST_PORT: u16 = 7_000;
/// Cases that are run at the same time: each has a port and a name of its own.
const AT_ONCE: u32 = 8;
/// How long the last packet of a case may take.
const ECHO: Duration = Duration::from_millis(250);

/// Every kind of host; the name is the case's own.
fn hosts(port: u16) -> [String; 7] {
    [
        format!("case-{port}.attack.test"),
        V4.to_owned(),
        format!("[{V6}]"),
        "127.0.0.1".to_owned(),
        METADATA.to_owned(),
        OUTSIDE.to_owned(),
        format!("case-{port}.local"),
    ]
}

fn cases() -> impl Iterator<Item = (u16, &'static Vector)> {
    (FIRST_PORT..).zip(VECTORS)
}

/// The armed farm: not one packet.
pub(crate) async fn run(arena: &mut Arena, witness: &Witness) {
    let cases: Vec<_> = cases().collect();
    for chunk in cases.chunks(AT_ONCE as usize) {
        let start = Instant::now();
        let mark = witness.mark();
        let mut loopback = Loopback::open(chunk.iter().map(|(port, _)| *port)).await;
        let tries = chunk
            .iter()
            .map(|(port, vector)| attempt(arena.client(), *port, vector));
        let said = join_all(tries).await;
        wait::lasts(ECHO).await;
        let mut events = witness.since(mark);
        events.extend(loopback.seen());
        let looked = arena.look(Browser::Stays).await;
        let time = start.elapsed();
        for ((port, vector), said) in chunk.iter().zip(said) {
            let own = of_case(&events, *port);
            let outcome = match (own.is_empty(), &looked, said) {
                (false, _, _) => Err(format!("got out: {own:?}")),
                (_, Err(wrong), _) => Err(wrong.clone()),
                (_, _, Err(wrong)) => Err(wrong),
                (true, Ok(()), Ok(said)) => Ok(format!("0 packets; {said}")),
            };
            let control = vector.vain.map(|why| Ok(format!("none: {why}")));
            arena.note(vector.row, vector.name, outcome, control, time / AT_ONCE);
        }
        let known = |event: &&Event| chunk.iter().any(|(port, _)| concerns(event, *port));
        let strange: Vec<_> = events.iter().filter(|event| !known(event)).collect();
        if !strange.is_empty() {
            let outcome = Err(format!("got out of this or another case: {strange:?}"));
            arena.note("N1", "anything else", outcome, None, time);
        }
    }
}

/// The farm without layers: every way out is seen to be one.
pub(crate) async fn controls(arena: &mut Arena, witness: &Witness) {
    for (vector, events, time) in observe(arena, witness).await {
        let control = match &events[..] {
            [] => Err("nothing was seen without layers either".to_owned()),
            seen => Ok(summary(seen)),
        };
        let outcome = Ok(String::new());
        arena.note(vector.row, vector.name, outcome, Some(control), time);
    }
}

/// The farm with some layers: which ways out are still open.
pub(crate) async fn leaks(arena: &Arena, witness: &Witness) -> Vec<&'static str> {
    let seen = observe(arena, witness).await.into_iter();
    let open = seen.filter(|(_, events, _)| !events.is_empty());
    open.map(|(vector, ..)| vector.name).collect()
}

/// Tries every way that is not in vain; gives what left the farm.
async fn observe(arena: &Arena, witness: &Witness) -> Vec<(&'static Vector, Vec<Event>, Duration)> {
    let cases: Vec<_> = cases()
        .filter(|(_, vector)| vector.vain.is_none())
        .collect();
    let mut observed = Vec::new();
    for chunk in cases.chunks(AT_ONCE as usize) {
        let start = Instant::now();
        let mark = witness.mark();
        let mut loopback = Loopback::open(chunk.iter().map(|(port, _)| *port)).await;
        let tries = chunk
            .iter()
            .map(|(port, vector)| attempt(arena.client(), *port, vector));
        // What they answer does not matter here.
        join_all(tries).await;
        wait::lasts(ECHO).await;
        let mut events = witness.since(mark);
        events.extend(loopback.seen());
        let time = start.elapsed() / AT_ONCE;
        let own = chunk
            .iter()
            .map(|(port, vector)| (*vector, of_case(&events, *port), time));
        observed.extend(own);
    }
    observed
}

/// Has a contract try one way out, to every kind of host.
async fn attempt(client: &Client, port: u16, vector: &Vector) -> Result<String, String> {
    let address = address(vector.row, vector.name);
    let code = format!("{PREAMBLE}{}{WAIT}", vector.code);
    let loaded = client.load(&address, &contract(&code)).await;
    if loaded.status != 204 {
        return Err(format!("it does not load: {}", shown(&loaded)));
    }
    let argument: Value = json!({ "hosts": hosts(port), "port": port });
    let answer = client.execute(&address, "attack", &argument).await;
    let unloaded = client.unload(&address).await;
    if unloaded.status != 204 {
        return Err(format!("it does not unload: {}", shown(&unloaded)));
    }
    // Whoever leaves its document has no answer.
    let fine = answer.status == 200 || answer.json()["code"] == "contract_crashed";
    fine.then(|| shown(&answer)).ok_or_else(|| shown(&answer))
}

fn of_case(events: &[Event], port: u16) -> Vec<Event> {
    let own = events.iter().filter(|event| concerns(event, port));
    own.cloned().collect()
}

/// Whether an event is of the case with this port: by the port, or by the name.
fn concerns(event: &Event, port: u16) -> bool {
    match event {
        Event::Connection(_, to) | Event::Datagram(_, to) => *to == port,
        Event::Query(name) => name.contains(&format!("case-{port}.")),
        Event::Other(_) => false,
    }
}

fn summary(events: &[Event]) -> String {
    let count = |is: fn(&Event) -> bool| events.iter().filter(|event| is(event)).count();
    format!(
        "seen: {} connections, {} datagrams, {} queries",
        count(|event| matches!(event, Event::Connection(..))),
        count(|event| matches!(event, Event::Datagram(..))),
        count(|event| matches!(event, Event::Query(_)))
    )
}

/// What would answer on the farm's own loopback address.
struct Loopback {
    knocks: JoinSet<Event>,
}

impl Loopback {
    async fn open(ports: impl Iterator<Item = u16>) -> Self {
        let mut knocks = JoinSet::new();
        for port in ports {
            for address in [
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ] {
                let listener = TcpListener::bind((address, port)).await;
                let listener = listener.expect("the namespace is the suite's own");
                knocks.spawn(async move {
                    // One is enough; an error is as good as a knock.
                    _ = listener.accept().await;
                    Event::Connection(address, port)
                });
                let socket = UdpSocket::bind((address, port)).await;
                let socket = socket.expect("the namespace is the suite's own");
                knocks.spawn(async move {
                    _ = socket.recv(&mut [0; 64]).await;
                    Event::Datagram(address, port)
                });
            }
        }
        Self { knocks }
    }

    /// Who has knocked so far; nobody is listened to any more.
    fn seen(&mut self) -> Vec<Event> {
        let mut seen = Vec::new();
        while let Some(knock) = self.knocks.try_join_next() {
            seen.extend(knock);
        }
        self.knocks.abort_all();
        seen
    }
}
