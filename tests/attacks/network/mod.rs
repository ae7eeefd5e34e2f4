//! N: nothing leaves a page. The farm runs where only a packet monitor can be reached, which sees
//! every packet.

pub(crate) mod layers;
pub(crate) mod monitor;
pub(crate) mod namespace;
mod vectors;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use self::monitor::{Event, Monitor};
use self::namespace::{METADATA, OUTSIDE, V4, V6};
use self::vectors::{MULTICAST, PREAMBLE, VECTORS, Vector, WAIT};
use crate::attack::{contract, shown};
use crate::attack_farm::{AttackFarm, Browser, address};
use crate::neighbour::permit;
use crate::support::client::{Answer, Client};
use crate::support::farm::Farm;
use crate::support::wait;

/// The port of the first case. The others follow. They are below the system's ephemeral ports, and
/// none of them is blocked by Chromium.
const FIRST_PORT: u16 = 7_000;
/// Cases that run at the same time. Each has a port and a name of its own.
const CONCURRENT_CASES: u32 = 8;
/// How long the last packet of a case may take.
const ECHO: Duration = Duration::from_millis(250);

/// How often a way out is tried without layers, until something is seen: that shows that it is open.
const CONTROL_TRIES: u32 = 10;

/// The multicast group for name queries.
const GROUP: &str = "224.0.0.251";

/// Every kind of host. The name is unique to the case.
fn hosts(port: u16) -> [String; 8] {
    [
        format!("case-{port}.attack.test"),
        V4.to_owned(),
        format!("[{V6}]"),
        "127.0.0.1".to_owned(),
        METADATA.to_owned(),
        OUTSIDE.to_owned(),
        GROUP.to_owned(),
        format!("case-{port}.local"),
    ]
}

fn cases() -> impl Iterator<Item = (u16, &'static Vector)> {
    (FIRST_PORT..).zip(VECTORS)
}

/// The protected farm: not one packet may leave it.
pub(crate) async fn run(target: &mut AttackFarm, monitor: &Monitor) {
    let cases: Vec<_> = cases().collect();
    for chunk in cases.chunks(CONCURRENT_CASES as usize) {
        let start = Instant::now();
        let label = format!("N, {} and others", chunk[0].1.name);
        let together = async |farm: &Farm| {
            let outcomes = together(farm.client(), monitor, chunk).await;
            let is_well = outcomes.iter().all(|(.., outcome)| outcome.is_ok());
            if is_well { Ok(outcomes) } else { Err(outcomes) }
        };
        let (outcomes, checked) = target.checked(&label, Browser::Stays, together).await;
        let time = start.elapsed() / CONCURRENT_CASES;
        let (Ok(outcomes) | Err(outcomes)) = outcomes;
        for (row, name, outcome) in outcomes {
            let outcome = outcome.and_then(|seen| checked.clone().map(|()| seen));
            target.note(row, name, outcome, None, time);
        }
    }
    channel(target, monitor).await;
}

type Outcome = (&'static str, &'static str, Result<String, String>);

/// Tries some ways out at the same time.
async fn together(
    client: &Client,
    monitor: &Monitor,
    chunk: &[(u16, &'static Vector)],
) -> Vec<Outcome> {
    let (said, events) = tried(client, monitor, chunk).await;
    let outcomes = chunk.iter().zip(said).map(|((port, vector), said)| {
        let own = of_case(&events, *port, vector);
        let outcome = match said {
            _ if !own.is_empty() => Err(format!("got out: {own:?}")),
            said => said.map(|said| format!("0 packets; {said}")),
        };
        (vector.row, vector.name, outcome)
    });
    let mut outcomes: Vec<_> = outcomes.collect();
    let known = |event: &&Event| {
        let mut chunk = chunk.iter();
        chunk.any(|(port, vector)| concerns(event, *port, vector))
    };
    let strange: Vec<_> = events.iter().filter(|event| !known(event)).collect();
    if !strange.is_empty() {
        let outcome = Err(format!("got out of this or another case: {strange:?}"));
        outcomes.push(("N1", "anything else", outcome));
    }
    outcomes
}

/// The answers of the contracts, and the packets that were seen.
async fn tried(
    client: &Client,
    monitor: &Monitor,
    chunk: &[(u16, &'static Vector)],
) -> (Vec<Result<String, String>>, Vec<Event>) {
    let mark = monitor.mark();
    let loopback = Loopback::open(chunk.iter().map(|(port, _)| *port)).await;
    let tries = chunk
        .iter()
        .map(|(port, vector)| attempt(client, *port, vector));
    let said = join_all(tries).await;
    wait::pass(ECHO).await;
    let mut events = monitor.since(mark);
    events.extend(loopback.seen().await);
    (said, events)
}

/// The farm without layers: every way out must be open, and those marked as ineffective must be so.
pub(crate) async fn controls(target: &mut AttackFarm, monitor: &Monitor) {
    let cases: Vec<_> = cases().collect();
    let observed = observe(target, monitor, &cases).await;
    for (case, mut observed) in cases.into_iter().zip(observed) {
        // Chromium delays sockets at random, some of them for longer than an attempt takes.
        let mut tries = 1;
        while case.1.ineffective.is_none() && observed.1.is_empty() && tries < CONTROL_TRIES {
            observed = observe(target, monitor, &[case]).await.remove(0);
            tries += 1;
        }
        let (vector, events, time) = observed;
        let control = match (&events[..], vector.ineffective) {
            ([], Some(why)) => Ok(format!("nothing is seen without layers either: {why}")),
            ([], None) => Err("nothing was seen without layers either".to_owned()),
            (seen, Some(why)) => Err(format!("{}, although {why}", summary(seen))),
            (seen, None) => Ok(summary(seen)),
        };
        let outcome = Ok(String::new());
        target.note(vector.row, vector.name, outcome, Some(control), time);
    }
    channel_control(target).await;
}

/// The number of ways out.
pub(crate) fn ways() -> usize {
    open_ways().count()
}

fn open_ways() -> impl Iterator<Item = (u16, &'static Vector)> {
    cases().filter(|(_, vector)| vector.ineffective.is_none())
}

/// The farm with some layers: returns the ways out that are still open.
pub(crate) async fn leaks(target: &AttackFarm, monitor: &Monitor) -> Vec<&'static str> {
    let cases: Vec<_> = open_ways().collect();
    let seen = observe(target, monitor, &cases).await.into_iter();
    let open = seen.filter(|(_, events, _)| !events.is_empty());
    open.map(|(vector, ..)| vector.name).collect()
}

/// Tries ways out, whatever is answered, and returns what left the farm.
async fn observe(
    target: &AttackFarm,
    monitor: &Monitor,
    cases: &[(u16, &'static Vector)],
) -> Vec<(&'static Vector, Vec<Event>, Duration)> {
    let mut observed = Vec::new();
    for chunk in cases.chunks(CONCURRENT_CASES as usize) {
        let _permit = permit(1).await;
        let start = Instant::now();
        let (_, events) = tried(target.client(), monitor, chunk).await;
        let time = start.elapsed() / CONCURRENT_CASES;
        let own = chunk
            .iter()
            .map(|(port, vector)| (*vector, of_case(&events, *port, vector), time));
        observed.extend(own);
    }
    observed
}

const CHANNEL: &str = "a data channel between two contracts";

/// Two contracts whose caller passes on their offers: one opens a channel, the other may receive a
/// message.
const PEER: &str = "
    let c, heard = 0;
    const known = (sdp) => sdp.replace(/[0-9a-f-]{36}\\.local/g, '10.91.0.1');
    const gathered = async () => { for (let i = 0; i < 40 && c.iceGatheringState !== 'complete'; i++)
        await new Promise((r) => setTimeout(r, 25)); return { type: c.localDescription.type, sdp: known(c.localDescription.sdp) } };
    const begin = () => { c = new RTCPeerConnection(); c.ondatachannel = (e) => { heard += 1; e.channel.onmessage = () => { heard += 1 } } };
    const init = () => ({
        offer: async () => { begin(); const d = c.createDataChannel('x'); d.onopen = () => d.send('x');
            await c.setLocalDescription(await c.createOffer()); return gathered() },
        answer: async (o) => { begin(); await c.setRemoteDescription(o);
            await c.setLocalDescription(await c.createAnswer()); return gathered() },
        accept: async (o) => { await c.setRemoteDescription(o) },
        heard: async () => { for (let i = 0; i < 20 && heard < 2; i++) await new Promise((r) => setTimeout(r, 25)); return heard },
    });";

/// N3: what the second contract receives from the first one.
async fn talk(client: &Client) -> Result<u64, String> {
    for peer in ["caller", "callee"] {
        client.must_load(peer, PEER).await;
    }
    let talked = async {
        let offer = ok(&client.call("caller", "offer").await)?;
        let answer = ok(&client.execute("callee", "answer", &offer).await)?;
        ok(&client.execute("caller", "accept", &answer).await)?;
        let heard = ok(&client.call("callee", "heard").await)?;
        heard.as_u64().ok_or_else(|| heard.to_string())
    };
    let heard = talked.await;
    for peer in ["caller", "callee"] {
        client.unload(peer).await.is_no_content();
    }
    heard
}

fn ok(answer: &Answer) -> Result<Value, String> {
    (answer.status == 200)
        .then(|| answer.data())
        .ok_or_else(|| shown(answer))
}

async fn channel(target: &mut AttackFarm, monitor: &Monitor) {
    target
        .case("N3", CHANNEL, Browser::Stays, async |farm| {
            let mark = monitor.mark();
            let heard = talk(farm.client()).await?;
            let events = monitor.since(mark);
            match heard {
                0 if events.is_empty() => Ok("nothing is heard, 0 packets".to_owned()),
                _ => Err(format!("heard {heard}, got out: {events:?}")),
            }
        })
        .await;
}

async fn channel_control(target: &mut AttackFarm) {
    let start = Instant::now();
    let control = match talk(target.client()).await {
        Ok(2) => Ok("it opens, and a message arrives".to_owned()),
        other => Err(format!("{other:?}")),
    };
    target.note(
        "N3",
        CHANNEL,
        Ok(String::new()),
        Some(control),
        start.elapsed(),
    );
}

/// Makes a contract try one way out to every kind of host.
async fn attempt(client: &Client, port: u16, vector: &Vector) -> Result<String, String> {
    let address = address(vector.row, vector.name);
    let code = format!("{PREAMBLE}{}{WAIT}", vector.code);
    let loaded = client.load(&address, &contract(&code)).await;
    if loaded.status != 204 {
        return Err(format!("the contract did not load: {}", shown(&loaded)));
    }
    let argument: Value = json!({ "hosts": hosts(port), "port": port });
    let answer = client.execute(&address, "attack", &argument).await;
    let unloaded = client.unload(&address).await;
    if unloaded.status != 204 {
        return Err(format!("the contract did not unload: {}", shown(&unloaded)));
    }
    // A contract that leaves its document gives no answer.
    let fine = answer.status == 200 || answer.json()["code"] == "contract_crashed";
    fine.then(|| shown(&answer)).ok_or_else(|| shown(&answer))
}

fn of_case(events: &[Event], port: u16, vector: &Vector) -> Vec<Event> {
    let own = events.iter().filter(|event| concerns(event, port, vector));
    own.cloned().collect()
}

/// Whether an event belongs to this case: by its port or its name. The browser invents multicast
/// names, so they are attributed to the one case that uses them. That case runs without others that
/// do.
fn concerns(event: &Event, port: u16, vector: &Vector) -> bool {
    match event {
        Event::Connection(_, to) | Event::Datagram(_, to) => *to == port,
        Event::Query(name) => name.contains(&format!("case-{port}.")),
        Event::Multicast(name) => {
            vector.name == MULTICAST || name.contains(&format!("case-{port}."))
        }
        Event::Other(_) => false,
    }
}

fn summary(events: &[Event]) -> String {
    let count = |is: fn(&Event) -> bool| events.iter().filter(|event| is(event)).count();
    format!(
        "seen: {} connections, {} datagrams, {} queries, {} by multicast",
        count(|event| matches!(event, Event::Connection(..))),
        count(|event| matches!(event, Event::Datagram(..))),
        count(|event| matches!(event, Event::Query(_))),
        count(|event| matches!(event, Event::Multicast(_)))
    )
}

/// Listeners on the farm's own loopback address.
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
                    // One connection is enough, and an error counts as one.
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

    /// The connections so far. Nothing listens any more then.
    async fn seen(mut self) -> Vec<Event> {
        let mut seen = Vec::new();
        while let Some(knock) = self.knocks.try_join_next() {
            seen.extend(knock);
        }
        self.knocks.shutdown().await;
        seen
    }
}
