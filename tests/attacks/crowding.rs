//! S6 to S8: what clients and contracts occupy together: texts, the store, connections and bodies.
//!
//! Each case runs on a farm with small limits, beside a neighbour. Its control is the same attack on
//! a farm whose limits are out of reach, or with complete requests, which may hold permits.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::attack::shown;
use crate::attack_farm::{AttackFarm, Browser, rss_kib};
use crate::edges::connect;
use crate::report::Report;
use crate::support::client::{Answer, Client};
use crate::support::farm::{Builder, Farm};
use crate::support::scrape::Scrape;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// Calls in flight, of one contract and of all.
const PER_CONTRACT: usize = 32;
const IN_FLIGHT: usize = 100;
/// Connections of one api.
const CONNECTIONS: usize = 200;
/// The largest load, and what the bodies of all loads may have together.
const LOAD_BYTES: usize = 8 << 20;
const ALL_LOADS: usize = 16 << 20;
/// What all executables may take.
const STORE: usize = 4 << 20;
/// The most bytes of a failure's response, whatever it quotes.
const TEXT: usize = 20_000;

/// A contract whose calls take as long as their caller says.
const SLOW: &str = "{ ping: () => 'pong', slow: (ms) => new Promise((r) => setTimeout(r, ms)) }";

/// A farm that attackers can fill.
fn farm() -> Builder {
    Farm::builder()
        .env("MAX_IN_FLIGHT", &IN_FLIGHT.to_string())
        .env("MAX_IN_FLIGHT_PER_CONTRACT", &PER_CONTRACT.to_string())
        .env("MAX_CONNECTIONS", &CONNECTIONS.to_string())
        .env("LOAD_BODY_LIMIT_BYTES", &LOAD_BYTES.to_string())
        .env("MAX_BODY_BYTES_IN_FLIGHT", &(3 * LOAD_BYTES).to_string())
        .env("EXECUTABLES_LIMIT_BYTES", &STORE.to_string())
}

/// The same with limits that the attacks do not reach.
fn open_farm() -> Builder {
    Farm::builder()
        .env("LOAD_BODY_LIMIT_BYTES", &LOAD_BYTES.to_string())
        .env("MAX_BODY_BYTES_IN_FLIGHT", "1000000000")
}

/// Runs the cases and their controls.
pub(crate) async fn run() -> Report {
    let mut target = AttackFarm::start(farm()).await;
    texts(&mut target).await;
    store(&mut target).await;
    bodies_without_end(&mut target).await;
    connections(&mut target).await;
    loads_without_end(&mut target).await;
    let mut report = target.end().await;
    report.join(full_redis().await);
    report.join(controls().await);
    report
}

/// S6: every text that leaves is cut.
async fn texts(target: &mut AttackFarm) {
    let long = "c".repeat(3_000_000);
    let load = |executable: &str| json!({ "contractAddress": "s6", "executable": executable });
    let mut with_limits = load("{ a: () => 1 }");
    with_limits["limits"] = json!({ long.as_str(): 1 });
    let mut with_engine = load("{ a: () => 1 }");
    with_engine["engine"] = json!(long);
    for (name, body) in [
        (
            "a syntax error of 3 MB",
            load(&format!("{{ a: b {long} }}")),
        ),
        ("an unknown limit of 3 MB", with_limits),
        ("an engine of 3 MB", with_engine),
        (
            "an address of 3 MB",
            json!({ "contractAddress": long, "executable": "x" }),
        ),
    ] {
        target
            .case("S6", name, Browser::Stays, async |farm| {
                let answer = farm.client().post("/loadSmartContract", &body).await;
                is_short(&answer, &[400, 422])
            })
            .await;
    }
    target
        .case("S6", "names of endpoints", Browser::Stays, async |farm| {
            let client = farm.client();
            let names = (0..60).map(|n| format!("'{}{n}': () => 1", "n".repeat(250)));
            let names: Vec<_> = names.collect();
            client
                .must_load("s6", &format!("{{ {} }}", names.join(", ")))
                .await;
            let answer = client.call("s6", &"z".repeat(5000)).await;
            client.unload("s6").await.is_no_content();
            is_short(&answer, &[404])
        })
        .await;
}

fn is_short(answer: &Answer, statuses: &[u16]) -> Result<String, String> {
    let length = answer.body.len();
    if statuses.contains(&answer.status) && length <= TEXT {
        return Ok(format!("{}, {length} bytes", answer.status));
    }
    Err(format!("{length} bytes: {}", shown(answer)))
}

/// S7: executables beyond their quota.
async fn store(target: &mut AttackFarm) {
    target
        .case(
            "S7",
            "executables beyond their quota",
            Browser::Stays,
            async |farm| {
                let client = farm.client();
                let mut answers = Vec::new();
                for number in 0..8 {
                    let source = format!("{{ a: () => {number} }}//{}", "y".repeat(1_000_000));
                    answers.push(client.load("s7", &source).await);
                }
                let refused = answers.iter().filter(|answer| answer.status != 204);
                let refused: Vec<_> = refused.collect();
                let sum: usize = farm
                    .redis_command(&["HGET", "exec:executables", "sum"])
                    .await;
                let small = client.load("s7", "{ a: () => 'small' }").await;
                client.unload("s7").await.is_no_content();
                let told = refused
                    .iter()
                    .all(|answer| answer.json()["code"] == "no_capacity");
                (refused.len() == 4 && told && sum <= STORE && small.status == 204)
                    .then(|| format!("4 refused, {sum} bytes"))
                    .ok_or_else(|| {
                        format!("{} refused, {sum} bytes, then {small:?}", refused.len())
                    })
            },
        )
        .await;
}

/// S7: the memory of Redis up to its limit. Its neighbour is refused as well, so there is none.
async fn full_redis() -> Report {
    let mut target = AttackFarm::bare(farm()).await;
    let start = Instant::now();
    let outcome = fill_redis(&target.farm).await;
    let control = Some(Ok("the same requests are taken before and after".to_owned()));
    target.note("S7", "a full Redis", outcome, control, start.elapsed());
    target.end().await
}

async fn fill_redis(farm: &Farm) -> Result<String, String> {
    let client = farm.client();
    client.must_load("s7", SLOW).await;
    client.call("s7", "ping").await.data();
    // A tenth of it is room enough for what goes on.
    let filler: [&str; 4] = ["SETRANGE", "filler", "50000000", "x"];
    farm.redis_command::<()>(&filler).await;
    let used = farm.used_memory().await;
    let mut seen = Vec::new();
    for (percent, expected) in [(75, [503, 200]), (90, [503, 503])] {
        let limit = used * 100 / percent;
        farm.config_set("maxmemory", &limit.to_string()).await;
        wait::until_true("the api to notice", DEFAULT_LIMIT, async || {
            let load = client.load("s7", SLOW).await.status;
            [load, client.call("s7", "ping").await.status] == expected
        })
        .await;
        seen.push(client.get("/readyz").await.json()["refuses"].clone());
    }
    let unloaded = client.unload("s7").await;
    let metrics = Scrape::of(client).await;
    farm.redis_command::<()>(&["DEL", "filler"]).await;
    farm.config_set("maxmemory", "0").await;
    wait::until_true("everything to be taken again", DEFAULT_LIMIT, async || {
        client.get("/readyz").await.json()["status"] == "ready"
    })
    .await;
    client.must_load("s7", SLOW).await;
    let told = seen == [json!(["loads"]), json!(["loads", "calls"])];
    let metric = metrics.count("execution_api_refuses{kind=\"call\"}") == 1;
    (told && metric && unloaded.status == 204)
        .then(|| "loads are refused, then calls, unloads never".to_owned())
        .ok_or_else(|| format!("{seen:?}, unload: {}", shown(&unloaded)))
}

/// The beginning of a request whose body does not follow.
async fn unfinished(farm: &Farm, path: &str, length: usize, sent: &[u8]) -> TcpStream {
    let mut stream = connect(farm).await;
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    // The api may refuse the request while it is being sent.
    _ = stream.write_all(&[head.as_bytes(), sent].concat()).await;
    stream
}

/// The status that was answered on a connection; None while there is no answer.
async fn status(stream: &mut TcpStream) -> Option<String> {
    let mut buffer = [0; 64];
    match timeout(Duration::from_millis(1), stream.read(&mut buffer)).await {
        Ok(Ok(0) | Err(_)) => Some("closed".to_owned()),
        Ok(Ok(length)) => {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            text.split(' ').nth(1).map(str::to_owned)
        }
        Err(_) => None,
    }
}

/// S8: bodies that do not end hold no permits.
async fn bodies_without_end(target: &mut AttackFarm) {
    for (name, many, contracts) in [
        ("bodies without end for one contract", PER_CONTRACT + 8, 1),
        ("bodies without end for the api", IN_FLIGHT + 20, 4),
    ] {
        let addresses: Vec<_> = (0..contracts).map(|n| format!("s8-{n}")).collect();
        for address in &addresses {
            target.client().must_load(address, SLOW).await;
        }
        target
            .case("S8", name, Browser::Stays, async |farm| {
                let mut slow = Vec::new();
                for number in 0..many {
                    let path = format!("/execute/{}/ping", addresses[number % contracts]);
                    slow.push(unfinished(farm, &path, 100, b"1").await);
                }
                let client = farm.client();
                for address in &addresses {
                    let answer = client.call(address, "ping").await;
                    if answer.status != 200 {
                        return Err(format!("{address}: {}", shown(&answer)));
                    }
                }
                let loaded = client.load("s8-other", SLOW).await;
                client.unload("s8-other").await.is_no_content();
                (loaded.status == 204)
                    .then(|| "all contracts are called, another is loaded".to_owned())
                    .ok_or_else(|| format!("load: {}", shown(&loaded)))
            })
            .await;
        let control = complete_bodies(target.client(), &addresses, many).await;
        if let Some(entry) = target.report.entries.last_mut() {
            entry.control = Some(control);
        }
        for address in &addresses {
            target.client().unload(address).await.is_no_content();
        }
    }
}

/// The control of the cases above: as many complete requests do use up the permits.
async fn complete_bodies(
    client: &Client,
    addresses: &[String],
    many: usize,
) -> Result<String, String> {
    let slow = addresses.iter().cycle().take(many);
    let slow = slow.map(async |address| client.execute(address, "slow", &json!(1_000)).await);
    let answers = join_all(slow).await;
    match answers.iter().filter(|answer| answer.status == 503).count() {
        0 => Err("no complete request was refused".to_owned()),
        refused => Ok(format!("{refused} of {many} complete requests are refused")),
    }
}

/// S8: more connections than may be open.
async fn connections(target: &mut AttackFarm) {
    target
        .case(
            "S8",
            "connections with slow bodies",
            Browser::Stays,
            async |farm| {
                let path = "/execute/neighbour/ping";
                crowd(farm, async || unfinished(farm, path, 100, b"1").await).await
            },
        )
        .await;
    target
        .case(
            "S8",
            "connections with slow heads",
            Browser::Stays,
            async |farm| {
                crowd(farm, async || {
                    let mut stream = connect(farm).await;
                    _ = stream
                        .write_all(b"POST /execute/neighbour/ping HTTP/1.1\r\nhost:")
                        .await;
                    stream
                })
                .await
            },
        )
        .await;
}

/// Opens one and a half times as many connections as may be open. A new client must be answered.
async fn crowd(farm: &Farm, open: impl AsyncFn() -> TcpStream) -> Result<String, String> {
    let mut slow = Vec::new();
    for _ in 0..CONNECTIONS * 3 / 2 {
        slow.push(open().await);
    }
    let mut fresh = connect(farm).await;
    let request = b"POST /execute/neighbour/ping HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    fresh
        .write_all(request)
        .await
        .map_err(|error| error.to_string())?;
    let mut answer = [0; 12];
    let read = timeout(DEFAULT_LIMIT, fresh.read_exact(&mut answer)).await;
    if !matches!(read, Ok(Ok(_))) || answer != *b"HTTP/1.1 200" {
        return Err(format!("{:?}", String::from_utf8_lossy(&answer)));
    }
    let mut ended = Vec::new();
    for stream in &mut slow {
        ended.extend(status(stream).await);
    }
    let known = ended
        .iter()
        .all(|status| status == "408" || status == "closed");
    (known && ended.len() > CONNECTIONS / 4)
        .then(|| format!("{} of {} lost their places", ended.len(), slow.len()))
        .ok_or_else(|| format!("{ended:?}"))
}

/// S8: loads whose last byte does not come.
async fn loads_without_end(target: &mut AttackFarm) {
    target
        .case("S8", "loads without end", Browser::Stays, async |farm| {
            let Occupied { held, grown } = unfinished_loads(farm, 6).await;
            let loaded = farm.client().load("s8", SLOW).await;
            farm.client().unload("s8").await.is_no_content();
            // Memory that was freed may still belong to the process.
            (held <= ALL_LOADS && grown < 2 * ALL_LOADS && loaded.status == 204)
                .then(|| format!("{held} bytes are held, the api has grown by {grown}"))
                .ok_or_else(|| format!("{held} held, grown by {grown}, then {}", shown(&loaded)))
        })
        .await;
}

/// What unfinished loads occupy at most.
struct Occupied {
    /// Bytes of bodies, as the api counts them.
    held: usize,
    /// By how many bytes the api has grown.
    grown: usize,
}

/// Sends loads whose last bytes do not come, and watches the api for some seconds.
async fn unfinished_loads(farm: &Farm, loads: usize) -> Occupied {
    let size = || rss_kib(farm.apis[0].pid()) * 1024;
    let before = size();
    let text = vec![b'x'; LOAD_BYTES - 1000];
    let sent = [b"{\"executable\":\"", text.as_slice()].concat();
    let sending = (0..loads).map(async |_| {
        let stream = unfinished(farm, "/loadSmartContract", LOAD_BYTES, &sent).await;
        // What the api does not take stays in the sockets.
        std::future::pending::<()>().await;
        drop(stream);
    });
    let watching = async {
        let (mut held, mut grown) = (0, 0);
        for _ in 0..30 {
            wait::pass(Duration::from_millis(100)).await;
            let metrics = Scrape::of(farm.client()).await;
            held = held.max(metrics.count("execution_api_body_bytes{kind=\"load\"}"));
            grown = grown.max(size().saturating_sub(before));
        }
        let bytes = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Occupied {
            held: bytes(held),
            grown: bytes(grown),
        }
    };
    tokio::select! {
        _ = join_all(sending) => unreachable!("no load ends"),
        occupied = watching => occupied,
    }
}

/// The attacks on connections and bytes where the limits are out of reach.
async fn controls() -> Report {
    let mut bare = AttackFarm::bare(open_farm()).await;
    bare.client()
        .must_load("neighbour", "{ ping: () => 1 }")
        .await;
    let path = "/execute/neighbour/ping";
    let mut slow = Vec::new();
    for _ in 0..CONNECTIONS * 3 / 2 {
        slow.push(unfinished(&bare.farm, path, 100, b"1").await);
    }
    wait::until_true(
        "the api to hold all connections",
        DEFAULT_LIMIT,
        async || {
            let open = Scrape::of(bare.client())
                .await
                .count("execution_api_connections");
            usize::try_from(open).is_ok_and(|open| open >= slow.len())
        },
    )
    .await;
    let held = Ok(format!("all {} connections are held", slow.len()));
    drop(slow);
    for name in [
        "connections with slow bodies",
        "connections with slow heads",
    ] {
        bare.note(
            "S8",
            name,
            Ok(String::new()),
            Some(held.clone()),
            Duration::ZERO,
        );
    }
    let Occupied { held, grown } = unfinished_loads(&bare.farm, 6).await;
    let control = if held.min(grown) > 2 * ALL_LOADS {
        Ok(format!("without the limit {held} bytes are held"))
    } else {
        Err(format!("{held} held, grown by {grown}"))
    };
    bare.note(
        "S8",
        "loads without end",
        Ok(String::new()),
        Some(control),
        Duration::ZERO,
    );
    let source = |number| format!("{{ a: () => {number} }}//{}", "y".repeat(1_000_000));
    let mut taken = 0;
    for number in 0..8 {
        taken += usize::from(bare.client().load("s7", &source(number)).await.status == 204);
    }
    let control = match taken {
        8 => Ok("without the quota all are loaded".to_owned()),
        _ => Err(format!("{taken} were loaded")),
    };
    let name = "executables beyond their quota";
    bare.note("S7", name, Ok(String::new()), Some(control), Duration::ZERO);
    bare.end().await
}
