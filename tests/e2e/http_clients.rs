//! What HTTP clients send if they are told no more than a URL and a text.

use reqwest::Method;
use serde_json::json;

use crate::support::client::send;
use crate::support::farm::Farm;

/// Clients, and the headers that each sends along with a text as the body of a POST request.
const CLIENTS: &[(&str, &[(&str, &str)])] = &[
    (
        "curl -d, wget --post-data",
        &[("content-type", "application/x-www-form-urlencoded")],
    ),
    ("curl --json", &[("content-type", "application/json")]),
    (
        "fetch of Node.js, with a text",
        &[
            ("content-type", "text/plain;charset=UTF-8"),
            ("sec-fetch-mode", "cors"),
        ],
    ),
    (
        "axios, with an object",
        &[("content-type", "application/json")],
    ),
    (
        "axios, with a text",
        &[("content-type", "application/x-www-form-urlencoded")],
    ),
    ("requests and httpx of Python, with a text", &[]),
    (
        "urllib of Python",
        &[("content-type", "application/x-www-form-urlencoded")],
    ),
    ("HttpClient of Java", &[]),
    (
        "HttpURLConnection of Java, Net::HTTP of Ruby, PowerShell",
        &[("content-type", "application/x-www-form-urlencoded")],
    ),
    (
        "HttpClient of .NET",
        &[("content-type", "text/plain; charset=utf-8")],
    ),
    ("http.NewRequest of Go", &[]),
    (
        "http.Post of Go, as its documentation has it",
        &[("content-type", "application/octet-stream")],
    ),
];

#[tokio::test]
async fn what_clients_send_by_default_is_understood() {
    let farm = Farm::start().await;
    let client = farm.client();
    let loaded = r#"{"contractAddress": "a", "executable": "{ echo: (a) => a }"}"#;
    for (name, headers) in CLIENTS {
        let post = async |path: &str, body: &'static str| {
            let mut request = client.request(Method::POST, path);
            for (header, value) in *headers {
                request = request.header(*header, *value);
            }
            send(request.body(body)).await
        };
        assert_eq!(
            post("/loadSmartContract", loaded).await.status,
            204,
            "{name}"
        );
        let answer = post("/execute/a/echo", "[1]").await;
        assert_eq!(answer.data(), json!([1]), "{name}");
        // An empty text: `curl -d ''`, `fetch(url, { body: '' })`.
        let answer = post("/execute/a/echo", "").await;
        assert_eq!(answer.data(), json!({}), "{name}");
    }
    farm.stop().await;
}

/// A page can make a browser post these types without asking the api first.
#[tokio::test]
async fn a_page_must_say_that_it_sends_json() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("a", "{ echo: (a) => a }").await;
    let own = client.url("");
    for (header, value) in [("origin", own.as_str()), ("sec-fetch-site", "same-origin")] {
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
        ] {
            let request = client.request(Method::POST, "/execute/a/echo");
            let request = request.header("content-type", kind).header(header, value);
            let answer = send(request.body("[1]")).await;
            answer.error(415, "unsupported_media_type");
        }
        let request = client.request(Method::POST, "/execute/a/echo");
        let answer = send(request.header(header, value).json(&json!([1]))).await;
        assert_eq!(answer.data(), json!([1]));
    }
    farm.stop().await;
}
