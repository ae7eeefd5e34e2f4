//! Requests that are refused because of their heads: what servers could read differently, and what
//! foreign web pages send. `tests/attacks/browsers.rs` sends the latter with a real browser.

use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::client::{Answer, Client, send};
use crate::support::farm::Farm;
use crate::support::wait::DEFAULT_LIMIT;

/// Sends bytes, and returns everything that is answered until the api closes the connection.
async fn exchange(client: &Client, text: &str) -> String {
    let address = ("127.0.0.1", client.port());
    let mut stream = TcpStream::connect(address).await.expect("an api listens");
    let sent = stream.write_all(text.as_bytes()).await;
    sent.expect("an api reads");
    let mut heard = Vec::new();
    let closed = timeout(DEFAULT_LIMIT, stream.read_to_end(&mut heard)).await;
    closed
        .unwrap_or_else(|_| panic!("the connection stays open after {text:?}"))
        .expect("it is closed in order");
    String::from_utf8_lossy(&heard).into_owned()
}

/// A request for the list of contracts, which closes its connection.
fn request(headers: &str) -> String {
    format!("GET /contracts HTTP/1.1\r\nconnection: close\r\n{headers}\r\n")
}

#[tokio::test]
async fn a_request_that_a_proxy_could_read_otherwise_is_refused() {
    let farm = Farm::builder().workers(0).start().await;
    let client = farm.client();
    for headers in [
        "",
        "host: localhost\r\nhost: localhost\r\n",
        "host: localhost\r\nhost: other\r\n",
        "host: \r\n",
        "host: local host\r\n",
        "host: me@localhost\r\n",
        "host: localhost/path\r\n",
        "host: localhost\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "host: localhost\r\ntransfer-encoding: gzip, chunked\r\n",
        "host: localhost\r\ntransfer-encoding: xchunked\r\n",
        "host: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n",
    ] {
        let heard = exchange(client, &(request(headers) + "0\r\n\r\n")).await;
        assert!(heard.starts_with("HTTP/1.1 400 "), "{headers:?}: {heard}");
    }
    let elsewhere =
        "GET http://other/contracts HTTP/1.1\r\nconnection: close\r\nhost: localhost\r\n\r\n";
    let heard = exchange(client, elsewhere).await;
    assert!(heard.starts_with("HTTP/1.1 400 "), "{heard}");
    for accepted in [
        request("host: localhost\r\n"),
        request("HOST: LOCALHOST:1\r\ntransfer-encoding: Chunked\r\n") + "0\r\n\r\n",
        // Health checks of load balancers.
        "GET /contracts HTTP/1.0\r\n\r\n".to_owned(),
    ] {
        let heard = exchange(client, &accepted).await;
        assert!(heard.contains(" 200 OK\r\n"), "{accepted:?}: {heard}");
    }
    farm.stop_ignoring_keys().await;
}

/// Where both are given the coding counts, and nothing is read after the body: a proxy that counted
/// otherwise cannot have hidden a request in it.
#[tokio::test]
async fn nothing_is_read_after_a_body_with_two_lengths() {
    let farm = Farm::builder().workers(0).start().await;
    let hidden = "GET /contracts HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for lengths in [
        format!(
            "content-length: {}\r\ntransfer-encoding: chunked\r\n",
            5 + hidden.len()
        ),
        format!(
            "transfer-encoding: chunked\r\ncontent-length: {}\r\n",
            5 + hidden.len()
        ),
    ] {
        let text =
            format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{lengths}\r\n0\r\n\r\n{hidden}");
        let heard = exchange(farm.client(), &text).await;
        assert_eq!(heard.matches("HTTP/1.1 ").count(), 1, "{heard}");
    }
    farm.stop_ignoring_keys().await;
}

/// Sends a request as a browser does for a page.
async fn from_page(
    client: &Client,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let request = client.request(method, path);
    let with = |request: reqwest::RequestBuilder, (name, value): &(&str, &str)| {
        request.header(*name, *value)
    };
    send(headers.iter().fold(request, with)).await
}

#[tokio::test]
async fn a_foreign_page_is_refused_on_every_route() {
    let farm = Farm::builder().workers(0).start().await;
    let client = farm.client();
    let own = client.url("");
    for (method, path) in [
        (Method::POST, "/loadSmartContract"),
        (Method::POST, "/execute/abcd/echo"),
        (Method::POST, "/unloadSmartContract"),
        (
            Method::POST,
            "/workers/0123456789abcdef0123456789abcdef/drain",
        ),
        (Method::DELETE, "/dead-letters/1-0"),
        (Method::GET, "/contracts"),
        (Method::GET, "/metrics"),
        (Method::GET, "/no/such/route"),
    ] {
        for headers in [
            &[("origin", "http://evil.example")][..],
            &[("origin", "null")],
            &[("sec-fetch-site", "cross-site")],
        ] {
            let answer = from_page(client, method.clone(), path, headers).await;
            assert_eq!(
                answer.error(403, "foreign_origin")["started"],
                false,
                "{path}"
            );
        }
        let answer = from_page(client, method.clone(), path, &[("host", "evil.example")]).await;
        assert_eq!(
            answer.error(403, "foreign_host")["started"],
            false,
            "{path}"
        );
        let answer = from_page(client, method, path, &[("origin", &own)]).await;
        assert_ne!(answer.status, 403, "{path}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    farm.stop_ignoring_keys().await;
}

#[tokio::test]
async fn named_origins_may_use_the_api() {
    let farm = Farm::builder()
        .workers(0)
        .env(
            "CORS_ORIGINS",
            "https://console.example, http://localhost:3000",
        )
        .start()
        .await;
    let client = farm.client();
    for origin in ["https://console.example", "http://localhost:3000"] {
        let answer = from_page(client, Method::GET, "/contracts", &[("origin", origin)]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        let exposed = answer
            .header("access-control-expose-headers")
            .unwrap_or_default();
        for name in [
            "x-request-id",
            "server-timing",
            "contract-generation",
            "retry-after",
            "link",
        ] {
            assert!(exposed.contains(name), "{name}: {exposed}");
        }
        // A page may read failures as well.
        let answer = from_page(
            client,
            Method::GET,
            "/contracts/other",
            &[("origin", origin)],
        )
        .await;
        answer.error(404, "contract_not_loaded");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));

        let asks = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "authorization,content-type",
            ),
        ];
        let answer = from_page(client, Method::OPTIONS, "/execute/abcd/echo", &asks).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        let headers = answer
            .header("access-control-allow-headers")
            .unwrap_or_default();
        assert!(headers.contains("authorization"), "{answer:?}");
        let methods = answer
            .header("access-control-allow-methods")
            .unwrap_or_default();
        assert!(methods.contains("POST"), "{answer:?}");
    }
    let other = [("origin", "https://console.example.evil.test")];
    let answer = from_page(client, Method::GET, "/contracts", &other).await;
    answer.error(403, "foreign_origin");
    assert_eq!(answer.header("access-control-allow-origin"), None);
    farm.stop_ignoring_keys().await;
}
