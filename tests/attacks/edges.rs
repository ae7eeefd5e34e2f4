//! E: malformed and abusive requests at the HTTP edge.

use std::time::Duration;

use futures::StreamExt;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::attack::Expect::Fails;
use crate::attack::shown;
use crate::attack_farm::{AttackFarm, Browser};
use crate::support::client::{send, try_send};
use crate::support::farm::{Builder, Farm};

/// A farm with a short body timeout and little capacity.
pub(crate) fn farm() -> Builder {
    Farm::builder()
        .env("BODY_TIMEOUT_MS", "700")
        .env("WORKER_CAPACITY", "8")
        .env("LOAD_DEADLINE_MS", "5000")
}

/// Invalid contract addresses.
const INVALID_ADDRESSES: [&str; 15] = [
    "a/b", "../etc", "a b", "a\0", "é", "*", "?", "[a]", "a*b", "{w:x}", "\u{202e}", "a\nb", "%61",
    "", "a'b",
];

/// Runs the group.
pub(crate) async fn run(target: &mut AttackFarm, quick: bool) {
    requests(target).await;
    crowd(target, if quick { 200 } else { 1000 }).await;
}

/// The cases that do not need a farm with little capacity.
pub(crate) async fn requests(target: &mut AttackFarm) {
    bodies(target).await;
    addresses(target).await;
    connections(target).await;
    headers(target).await;
}

#[expect(clippy::too_many_lines, reason = "a list of cases")]
async fn bodies(target: &mut AttackFarm) {
    let large = vec![b'1'; 3 << 20];
    for (name, chunked, expected) in [
        ("an oversized body", false, Fails(413, "payload_too_large")),
        (
            "an oversized body in chunks",
            true,
            Fails(413, "payload_too_large"),
        ),
    ] {
        target
            .case("E1", name, Browser::Stays, async |farm| {
                let request = farm
                    .client()
                    .request(Method::POST, "/execute/neighbour/ping");
                let body = if chunked {
                    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = large
                        .chunks(64 << 10)
                        .map(|piece| Ok(piece.to_vec()))
                        .collect();
                    reqwest::Body::wrap_stream(futures::stream::iter(pieces))
                } else {
                    large.clone().into()
                };
                let answer = send(
                    request
                        .header("content-type", "application/json")
                        .body(body),
                )
                .await;
                expected.mismatch(&answer).map_or(Ok(shown(&answer)), Err)
            })
            .await;
    }
    target
        .case(
            "E1",
            "a hundred slow bodies",
            Browser::Stays,
            async |farm| {
                let client = farm.client();
                let slow = (0..100).map(|_| {
                    let drip = futures::stream::unfold((), async |()| {
                        crate::support::wait::pass(Duration::from_millis(100)).await;
                        Some((Ok::<_, std::io::Error>(vec![b' ']), ()))
                    });
                    let request = client.request(Method::POST, "/execute/neighbour/ping");
                    let body = reqwest::Body::wrap_stream(drip.boxed());
                    try_send(
                        request
                            .header("content-type", "application/json")
                            .body(body),
                    )
                });
                let mut ended = 0;
                for answer in futures::future::join_all(slow).await {
                    match answer {
                        Ok(answer) if answer.status == 408 => ended += 1,
                        // The api closes the connection while the client still sends.
                        Err(_) => ended += 1,
                        Ok(answer) => return Err(shown(&answer)),
                    }
                }
                Ok(format!("{ended} ended"))
            },
        )
        .await;
    target
        .case("E1", "a wrong content type", Browser::Stays, async |farm| {
            let request = farm
                .client()
                .request(Method::POST, "/execute/neighbour/ping");
            let answer = send(request.header("content-type", "text/html").body("1")).await;
            Fails(415, "unsupported_media_type")
                .mismatch(&answer)
                .map_or(Ok(shown(&answer)), Err)
        })
        .await;
    target
        .case(
            "E1",
            "a form of another site",
            Browser::Stays,
            async |farm| {
                let request = farm
                    .client()
                    .request(Method::POST, "/execute/neighbour/ping");
                let request = request
                    .header("content-type", "text/plain")
                    .header("origin", "https://example.com");
                let answer = send(request.body("1")).await;
                Fails(403, "foreign_origin")
                    .mismatch(&answer)
                    .map_or(Ok(shown(&answer)), Err)
            },
        )
        .await;
    target
        .case("E1", "a compressed bomb", Browser::Stays, async |farm| {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            std::io::Write::write_all(&mut packed, &vec![b'1'; 64 << 20])
                .expect("a Vec takes every byte");
            let packed = packed.finish().expect("a Vec takes every byte");
            let request = farm
                .client()
                .request(Method::POST, "/execute/neighbour/ping");
            let request = request
                .header("content-encoding", "gzip")
                .header("content-type", "application/json");
            let answer = send(request.body(packed)).await;
            // The body is not decompressed, and in compressed form it is not JSON.
            Fails(400, "invalid_request")
                .mismatch(&answer)
                .map_or(Ok(shown(&answer)), Err)
        })
        .await;
}

async fn addresses(target: &mut AttackFarm) {
    target
        .case("E2", "invalid addresses", Browser::Stays, async |farm| {
            for address in INVALID_ADDRESSES {
                let answer = farm.client().load(address, "{ f: () => 1 }").await;
                if let Some(wrong) = Fails(400, "invalid_request").mismatch(&answer) {
                    return Err(format!("{address:?}: {wrong}"));
                }
            }
            Ok(format!("{} refused", INVALID_ADDRESSES.len()))
        })
        .await;
    target
        .case("E2", "unknown paths", Browser::Stays, async |farm| {
            for path in [
                "/execute/%2e%2e/ping",
                "/execute/a%2fb/ping",
                "/execute/%00/ping",
                "/execute/*/ping",
                "/execute/%ff/ping",
                "/execute//ping",
                "/execute/neighbour/ping/more",
                "/execute/%7Bw%7D/ping",
                "//execute/neighbour/ping",
            ] {
                let answer = farm.client().post_text(path, "").await;
                if !matches!(answer.status, 400 | 404) {
                    return Err(format!("{path}: {}", shown(&answer)));
                }
            }
            Ok("refused".to_owned())
        })
        .await;
    target
        .case(
            "E2",
            "case variants are one contract",
            Browser::Stays,
            async |farm| {
                let client = farm.client();
                client.must_load("AbC", "{ f: () => 1 }").await;
                let answer = client.call("aBc", "f").await;
                client.unload("ABC").await.is_no_content();
                let gone = client.call("abc", "f").await;
                (answer.status == 200 && gone.status == 404)
                    .then(|| shown(&gone))
                    .ok_or_else(|| format!("{}, {}", shown(&answer), shown(&gone)))
            },
        )
        .await;
    target
        .case(
            "E2",
            "a pattern unloads no contract",
            Browser::Stays,
            async |farm| {
                let client = farm.client();
                for pattern in ["*", "neighbou?", "[n]eighbour", "neighbour*"] {
                    let answer = client.unload(pattern).await;
                    if answer.status != 400 {
                        return Err(format!("{pattern}: {}", shown(&answer)));
                    }
                }
                let answer = client.call("neighbour", "ping").await;
                (answer.status == 200)
                    .then(|| shown(&answer))
                    .ok_or_else(|| shown(&answer))
            },
        )
        .await;
}

async fn crowd(target: &mut AttackFarm, many: usize) {
    target
        .case(
            "E3",
            "loads beyond the capacity",
            Browser::Stays,
            async |farm| {
                let client = farm.client();
                let addresses: Vec<_> = (0..many).map(|n| format!("crowd-{n}")).collect();
                let loads = addresses
                    .iter()
                    .map(|address| client.load(address, "{ f: () => 1 }"));
                let answers = futures::future::join_all(loads).await;
                let taken = answers.iter().filter(|answer| answer.status == 204).count();
                let refused = answers.iter().filter(|answer| answer.status == 503).count();
                let loaded = client.contracts().await.len();
                for chunk in addresses.chunks(50) {
                    let unloads = chunk.iter().map(|address| client.unload(address));
                    for answer in futures::future::join_all(unloads).await {
                        answer.is_no_content();
                    }
                }
                // The neighbour uses one place.
                (taken == 7 && taken + refused == many && loaded <= 8)
                    .then(|| format!("{taken} taken, {refused} refused"))
                    .ok_or_else(|| {
                        format!(
                            "{taken} taken, {refused} refused, {loaded} loaded: {:?}",
                            answers.last()
                        )
                    })
            },
        )
        .await;
}

/// Sends bytes to the api, and returns what it answers until it closes or is silent.
async fn send_raw(farm: &Farm, text: &[u8]) -> String {
    let mut stream = connect(farm).await;
    // The api may close the connection before everything is sent.
    _ = stream.write_all(text).await;
    read_all(&mut stream).await
}

/// A connection to the first api.
pub(crate) async fn connect(farm: &Farm) -> TcpStream {
    let request = farm.client().request(Method::GET, "/").build();
    let port = request.ok().and_then(|request| request.url().port());
    let port = port.expect("an api has a port");
    TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("the api listens")
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(length @ 1..)) = timeout(Duration::from_secs(2), stream.read(&mut buffer)).await
    {
        heard.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&heard).into_owned()
}

async fn connections(target: &mut AttackFarm) {
    target
        .case("E4", "pipelined requests", Browser::Stays, async |farm| {
            let one =
                "POST /execute/neighbour/ping HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
            let heard = send_raw(farm, one.repeat(20).as_bytes()).await;
            let answers = heard.matches("{\"data\":1}").count();
            (answers == 20)
                .then(|| "20 answers".to_owned())
                .ok_or_else(|| format!("{answers} answers: {heard}"))
        })
        .await;
    target
        .case("E4", "half-closed and reset connections", Browser::Stays, async |farm| {
            for _ in 0..50 {
                let mut stream = connect(farm).await;
                let half = b"POST /execute/neighbour/ping HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n12";
                stream.write_all(half).await.map_err(|error| error.to_string())?;
                // Dropping the socket with unread data resets the connection.
                stream.set_zero_linger().map_err(|error| error.to_string())?;
                drop(stream);
            }
            let mut stream = connect(farm).await;
            let whole = b"POST /execute/neighbour/ping HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(whole).await.map_err(|error| error.to_string())?;
            stream.shutdown().await.map_err(|error| error.to_string())?;
            let heard = read_all(&mut stream).await;
            let fine = heard.is_empty() || heard.contains("{\"data\":1}");
            fine.then(|| "answered, or left alone".to_owned()).ok_or(heard)
        })
        .await;
    target
        .case("E4", "requests that contradict themselves", Browser::Stays, async |farm| {
            for request in [
                "POST /execute/neighbour/ping HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n11",
                "POST /execute/neighbour/ping HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999999\r\n\r\n",
                "POST /execute/neighbour/ping HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
                "POST /execute/neighbour/ping HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: xchunked\r\n\r\n",
                "POST /execute/neighbour/ping HTTP/9.9\r\n\r\n",
                "\0\0\0\0\r\n\r\n",
            ] {
                let heard = send_raw(farm, request.as_bytes()).await;
                if !(heard.is_empty() || heard.starts_with("HTTP/1.1 4") || heard.starts_with("HTTP/1.1 5")) {
                    return Err(format!("{request:?}: {heard}"));
                }
            }
            Ok("refused".to_owned())
        })
        .await;
}

async fn headers(target: &mut AttackFarm) {
    target
        .case("E5", "header floods", Browser::Stays, async |farm| {
            let many: Vec<_> = (0..5000).map(|n| format!("x-{n}: {n}\r\n")).collect();
            let many = many.concat();
            let long = format!("x: {}\r\n", "x".repeat(2 << 20));
            let path = "x".repeat(200_000);
            let start = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n";
            for request in [
                format!("{start}{many}\r\n"),
                format!("{start}{long}\r\n"),
                format!("GET /{path} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
            ] {
                let heard = send_raw(farm, request.as_bytes()).await;
                if !(heard.is_empty() || heard.starts_with("HTTP/1.1 4")) {
                    return Err(heard.chars().take(200).collect());
                }
            }
            Ok("refused".to_owned())
        })
        .await;
    target
        .case(
            "E5",
            "an endless request id",
            Browser::Stays,
            async |farm| {
                let request = farm
                    .client()
                    .request(Method::POST, "/execute/neighbour/ping");
                let answer = send(
                    request
                        .header("x-request-id", "x".repeat(5000))
                        .json(&json!(null)),
                )
                .await;
                let id = answer.header("x-request-id").unwrap_or_default().len();
                (answer.status == 200 && id < 129)
                    .then(|| shown(&answer))
                    .ok_or_else(|| shown(&answer))
            },
        )
        .await;
}
