//! Keys that are fetched from a URL.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Provider, claims, config};
use crate::access::tokens::{KeySource, TokenConfig, Tokens};
use crate::limits::Meters;

/// An identity provider's server: answers with what `keys` holds, and counts the requests.
struct Server {
    url: String,
    keys: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn start(keys: &Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let keys = Arc::new(Mutex::new(keys.to_string()));
        let requests = Arc::new(AtomicUsize::new(0));
        let (shown, counted) = (keys.clone(), requests.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 2048];
                let _ = stream.read(&mut head).await;
                counted.fetch_add(1, Ordering::Relaxed);
                let body = shown.lock().unwrap().clone();
                let length = body.len();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
        });
        Self {
            url,
            keys,
            requests,
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn keys_are_fetched_again_at_most_once_in_ten_seconds() {
    let (provider, next) = (Provider::new(), Provider::new());
    let server = Server::start(&provider.keys()).await;
    let config = TokenConfig {
        keys: KeySource::Url(server.url.parse().unwrap()),
        ..config(Path::new(""))
    };
    let tokens = Tokens::open(config, Meters::idle()).await.unwrap();
    let known = provider.token(&json!({ "alg": "EdDSA", "kid": "ed" }), &claims());
    assert!(tokens.recognise(&known).await.is_ok());
    let mut keys = next.keys();
    keys["keys"][2]["kid"] = json!("next");
    *server.keys.lock().unwrap() = keys.to_string();
    let token = next.token(&json!({ "alg": "EdDSA", "kid": "next" }), &claims());
    for number in 0..50 {
        let header = json!({ "alg": "EdDSA", "kid": format!("unknown-{number}") });
        assert!(
            tokens
                .recognise(&next.token(&header, &claims()))
                .await
                .is_err()
        );
    }
    assert!(tokens.recognise(&token).await.is_err());
    assert_eq!(server.requests(), 1, "at the start only");
    tokens.lapse().await;
    // Many at once ask for one.
    let callers = (0..20).map(|_| tokens.recognise(&token));
    let recognised = futures::future::join_all(callers).await;
    assert!(recognised.iter().all(Result::is_ok));
    assert_eq!(server.requests(), 2);
    // A server that answers with nonsense, or too much, changes nothing.
    for wrong in ["<html>".to_owned(), " ".repeat(1024 * 1024 + 1)] {
        *server.keys.lock().unwrap() = wrong;
        tokens.lapse().await;
        let header = json!({ "alg": "EdDSA", "kid": "gone" });
        assert!(
            tokens
                .recognise(&next.token(&header, &claims()))
                .await
                .is_err()
        );
    }
    assert_eq!(server.requests(), 4);
    let again = next.token(&json!({ "alg": "EdDSA", "kid": "next" }), &claims());
    assert!(tokens.recognise(&again).await.is_ok());
}
