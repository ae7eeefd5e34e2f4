//! A registry of images on the loopback interface: just enough of its protocol to pull one image,
//! with or without a password. And pulling from it.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use shared::queue::blobs::digest;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::recipe::Recipe;
use super::tar::gzip;
use super::world::{World, farm};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const USER: &str = "user";
const PASSWORD: &str = "pass>word?";

/// Serves until it is dropped.
struct Registry {
    port: u16,
    /// The digest of its image's manifest.
    digest: String,
    serving: JoinHandle<()>,
}

/// What is served: path to type, digest and content.
type Content = HashMap<String, (&'static str, String, Vec<u8>)>;

impl Registry {
    /// Serves the image as `app:1`.
    async fn start(recipe: &Recipe, password: bool) -> Self {
        let (config, layer) = recipe.parts();
        let layer = gzip(&layer);
        let describe = |kind: &str, content: &[u8]| {
            let digest = format!("sha256:{}", digest(content));
            json!({"mediaType": kind, "size": content.len(), "digest": digest})
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": describe(CONFIG, &config), "layers": [describe(LAYER, &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let named = format!("sha256:{}", digest(&manifest));
        let mut content = Content::new();
        for (kind, bytes) in [(CONFIG, config), (LAYER, layer)] {
            let digest = format!("sha256:{}", digest(&bytes));
            content.insert(format!("/v2/app/blobs/{digest}"), (kind, digest, bytes));
        }
        for name in ["1", &named] {
            let entry = (MANIFEST, named.clone(), manifest.clone());
            content.insert(format!("/v2/app/manifests/{name}"), entry);
        }
        content.insert(
            "/v2/".to_owned(),
            ("application/json", String::new(), b"{}".to_vec()),
        );

        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("the loopback interface serves");
        let port = listener
            .local_addr()
            .expect("the loopback interface serves")
            .port();
        let content = Arc::new(content);
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener
                    .accept()
                    .await
                    .expect("the loopback interface serves");
                tokio::spawn(talk(stream, content.clone(), password));
            }
        });
        Self {
            port,
            digest: named,
            serving,
        }
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn image(&self) -> String {
        format!("{}/app:1", self.host())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Serves one connection; whatever goes wrong with it is the daemon's to notice.
async fn talk(stream: TcpStream, content: Arc<Content>, password: bool) {
    let mut stream = BufReader::new(stream);
    let known = format!(
        "basic {}",
        BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"))
    );
    loop {
        let (mut line, mut allowed) = (String::new(), !password);
        if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
            return;
        }
        loop {
            let mut header = String::new();
            if !matches!(stream.read_line(&mut header).await, Ok(1..)) {
                return;
            }
            let Some((name, value)) = header.trim().split_once(':') else {
                break;
            };
            let value = value.trim().replacen("Basic", "basic", 1);
            allowed |= name.eq_ignore_ascii_case("authorization") && value == known;
        }
        let mut words = line.split(' ');
        let (verb, path) = (words.next(), words.next().unwrap_or_default());
        let (status, header, body) = match content.get(path) {
            _ if !allowed => (
                "401 No",
                "WWW-Authenticate: Basic realm=\"r\"".to_owned(),
                &b"{}"[..],
            ),
            Some((kind, digest, body)) => {
                let header = format!("Content-Type: {kind}\r\nDocker-Content-Digest: {digest}");
                ("200 OK", header, body.as_slice())
            }
            None => {
                let body =
                    &br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#[..];
                ("404 No", "Content-Type: application/json".to_owned(), body)
            }
        };
        let head = format!(
            "HTTP/1.1 {status}\r\n{header}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let body = if verb == Some("HEAD") { &[] } else { body };
        if stream
            .write_all(&[head.as_bytes(), body].concat())
            .await
            .is_err()
        {
            return;
        }
    }
}

#[tokio::test]
async fn an_image_that_is_not_present_is_pulled() {
    let mut world = World::start().await;
    let recipe = Recipe::new();
    let registry = Registry::start(&recipe, false).await;
    world.load("a", &registry.image()).await.is_done();
    assert_eq!(world.call("a", "count", Value::Null).await, 1);
    assert_eq!(world.client().contract("a").await["image"], recipe.id());
    world.client().unload("a").await.is_done();
    // It stays: the next load needs no registry.
    assert!(world.has_image(&registry.image()).await);
    world.forget_later(&registry.image());
    world.stop().await;
}

#[tokio::test]
async fn a_digest_names_exactly_one_image() {
    let mut world = World::start().await;
    let recipe = Recipe::new();
    let registry = Registry::start(&recipe, false).await;
    let pinned = format!("{}/app@{}", registry.host(), registry.digest);
    world.load("a", &pinned).await.is_done();
    assert_eq!(world.client().contract("a").await["image"], recipe.id());
    let unknown = format!("{}/app@sha256:{}", registry.host(), "0".repeat(64));
    world
        .load("b", &unknown)
        .await
        .error(422, "invalid_executable");
    world.forget_later(&pinned);
    world.stop().await;
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_named() {
    let world = World::start().await;
    let registry = Registry::start(&Recipe::new(), false).await;
    let missing = format!("{}/app:2", registry.host());
    let text = world
        .load("a", &missing)
        .await
        .error_text(422, "invalid_executable");
    assert!(
        text.contains(&missing) && text.contains("manifest unknown"),
        "{text}"
    );
    // A registry that does not answer may do so later.
    let nobody = format!("127.0.0.1:{}/app:1", crate::support::programs::free_port());
    world.load("a", &nobody).await.error(503, "no_capacity");
    world.stop().await;
}

#[tokio::test]
async fn credentials_are_for_one_registry() {
    let recipe = Recipe::new();
    let registry = Registry::start(&recipe, true).await;
    let mut stranger = World::start().await;
    let answer = stranger.load("a", &registry.image()).await;
    answer.error(422, "invalid_executable");

    let known = |host: &str| {
        farm()
            .env("REGISTRY_HOST", host)
            .env("REGISTRY_USERNAME", USER)
            .env("REGISTRY_PASSWORD", PASSWORD)
    };
    let elsewhere = World::of(known("registry.invalid")).await;
    let answer = elsewhere.load("a", &registry.image()).await;
    answer.error(422, "invalid_executable");

    let guest = World::of(known(&registry.host())).await;
    guest.load("a", &registry.image()).await.is_done();
    assert_eq!(guest.client().contract("a").await["image"], recipe.id());
    guest.stop().await;
    elsewhere.stop().await;
    stranger.forget_later(&registry.image());
    stranger.stop().await;
}
