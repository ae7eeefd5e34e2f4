//! S8: slow and many bodies, slow heads, many connections, unfinished loads.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{ALL_LOADS, CONNECTIONS, IN_FLIGHT, LOAD_BYTES, PER_CONTRACT, SLOW};
use crate::attack::shown;
use crate::attack_farm::{AttackFarm, Browser, rss_kib};
use crate::edges::connect;
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::scrape::Scrape;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// The beginning of a request whose body does not follow.
async fn unfinished(farm: &Farm, path: &str, length: usize, sent: &[u8]) -> TcpStream {
    let mut stream = connect(farm).await;
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
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
pub(super) async fn bodies_without_end(target: &mut AttackFarm) {
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
pub(super) async fn connections(target: &mut AttackFarm) {
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
    let request =
        b"POST /execute/neighbour/ping HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
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
pub(super) async fn loads_without_end(target: &mut AttackFarm) {
    target
        .case("S8", "loads without end", Browser::Stays, async |farm| {
            let Occupied { held, grown } = unfinished_loads(farm, 6).await;
            let loaded = farm.client().load("s8", SLOW).await;
            farm.client().unload("s8").await.is_no_content();
            // Memory that was freed may still belong to the process.
            (held <= ALL_LOADS && grown < 5 * LOAD_BYTES && loaded.status == 204)
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
pub(super) async fn controls(bare: &mut AttackFarm) {
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
}
