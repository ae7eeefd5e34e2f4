//! Pulling images from a registry. The registry runs on the loopback interface and implements just
//! enough of the protocol to pull one image, with or without a password.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use shared::queue::blobs::digest;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::docker_farm::{DockerFarm, base64, docker_builder};
use super::tar::gzip;
use super::test_image::TestImage;
use crate::support::wait::{self, DEFAULT_LIMIT};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const USER: &str = "user";
const PASSWORD: &str = "pass>word?";

/// A registry that serves until it is dropped.
struct Registry {
    port: u16,
    /// The digest of its image's manifest.
    digest: String,
    /// How many connections it has accepted.
    connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

/// The served content: path to type, digest and content.
type Content = HashMap<String, (&'static str, String, Vec<u8>)>;

impl Registry {
    /// Serves the image as `app:1`.
    async fn start(test_image: &TestImage, password: bool) -> Self {
        let (config, layer) = test_image.parts();
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
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener
                    .accept()
                    .await
                    .expect("the loopback interface serves");
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, content.clone(), password));
            }
        });
        Self {
            port,
            digest: named,
            connections,
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

/// Serves one connection. Errors are ignored here because the daemon reports them.
async fn serve(stream: TcpStream, content: Arc<Content>, password: bool) {
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
    let mut farm = DockerFarm::start().await;
    let test_image = TestImage::new();
    let registry = Registry::start(&test_image, false).await;
    farm.load("a", &registry.image()).await.is_no_content();
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    assert_eq!(farm.client().contract("a").await["image"], test_image.id());
    farm.client().unload("a").await.is_no_content();
    // The image is kept, so the next load needs no registry.
    assert!(farm.has_image(&registry.image()).await);
    farm.remove_on_stop(&registry.image());
    farm.stop().await;
}

#[tokio::test]
async fn a_digest_identifies_exactly_one_image() {
    let mut farm = DockerFarm::start().await;
    let test_image = TestImage::new();
    let registry = Registry::start(&test_image, false).await;
    let pinned = format!("{}/app@{}", registry.host(), registry.digest);
    farm.load("a", &pinned).await.is_no_content();
    assert_eq!(farm.client().contract("a").await["image"], test_image.id());
    let unknown = format!("{}/app@sha256:{}", registry.host(), "0".repeat(64));
    farm.load("b", &unknown)
        .await
        .error(422, "invalid_executable");
    farm.remove_on_stop(&pinned);
    farm.stop().await;
}

#[tokio::test]
async fn an_error_names_the_missing_image() {
    let mut farm = DockerFarm::start().await;
    let registry = Registry::start(&TestImage::new(), false).await;
    let missing = format!("{}/app:2", registry.host());
    let text = farm
        .load("a", &missing)
        .await
        .error_text(422, "invalid_executable");
    assert!(
        text.contains(&missing) && !text.contains("manifest unknown"),
        "{text}"
    );
    // A registry that does not respond may do so later, so the load can be retried.
    let nobody = format!("127.0.0.1:{}/app:1", crate::support::programs::free_port());
    let answer = farm.load("a", &nobody).await;
    // What the daemon met at that address is no concern of the caller.
    assert!(
        !answer.error_text(503, "image_unavailable").contains("dial"),
        "{answer:?}"
    );
    let log = farm.inner().workers[0].log();
    assert!(
        log.contains("manifest unknown") && log.contains("dial tcp"),
        "{log}"
    );
    farm.stop().await;
}

#[tokio::test]
async fn credentials_are_sent_only_to_their_registry() {
    let test_image = TestImage::new();
    let registry = Registry::start(&test_image, true).await;
    let mut stranger = DockerFarm::start().await;
    let answer = stranger.load("a", &registry.image()).await;
    answer.error(422, "invalid_executable");

    let known = |host: &str| {
        docker_builder()
            .env("REGISTRY_HOST", host)
            .env("REGISTRY_USERNAME", USER)
            .env("REGISTRY_PASSWORD", PASSWORD)
    };
    let elsewhere = DockerFarm::of(known("registry.invalid")).await;
    let answer = elsewhere.load("a", &registry.image()).await;
    answer.error(422, "invalid_executable");

    let guest = DockerFarm::of(known(&registry.host())).await;
    guest.load("a", &registry.image()).await.is_no_content();
    assert_eq!(guest.client().contract("a").await["image"], test_image.id());
    guest.stop().await;
    elsewhere.stop().await;
    stranger.remove_on_stop(&registry.image());
    stranger.stop().await;
}

/// Nothing is asked of a registry, and nothing is run, that the operator has not allowed.
#[tokio::test]
async fn only_allowed_images_are_pulled_or_run() {
    let test_image = TestImage::new();
    let registry = Registry::start(&test_image, false).await;
    let mut farm = DockerFarm::of(docker_builder().env("CONTAINER_IMAGES", "acme/*")).await;
    let present = farm.image(TestImage::new()).await;
    let id = farm
        .docker
        .inspect_image(&present)
        .await
        .unwrap()
        .id
        .unwrap();
    let short = id.trim_start_matches("sha256:")[..12].to_owned();
    let path = registry.image();
    for (reference, said) in [
        (&path, "CONTAINER_IMAGES"),
        (&present, "CONTAINER_IMAGES"),
        (&id, "id of an image"),
        (&short, "id of an image"),
    ] {
        for executable in [reference.clone(), base64(reference.as_bytes())] {
            let answer = farm.load("a", &executable).await;
            let text = answer.error_text(422, "invalid_executable");
            assert!(text.contains(said), "{reference}: {text}");
        }
    }
    assert_eq!(registry.connections.load(Ordering::Relaxed), 0);
    assert_eq!(farm.resources().await, [""; 0]);
    // A tar needs no permission.
    let tar = base64(&test_image.tar());
    farm.load("a", &tar).await.is_no_content();

    // Control: an operator who lists them.
    let listed = format!(
        "{}/*, {}",
        registry.host(),
        present.split(':').next().unwrap()
    );
    let open = DockerFarm::of(docker_builder().env("CONTAINER_IMAGES", &listed)).await;
    open.load("a", &registry.image()).await.is_no_content();
    open.load("b", &present).await.is_no_content();
    assert_ne!(registry.connections.load(Ordering::Relaxed), 0);
    open.stop().await;
    farm.remove_on_stop(&registry.image());
    farm.stop().await;
}

/// A machine without the image pulls exactly this one, whatever its name stands for by then.
#[tokio::test]
async fn an_image_that_is_gone_is_pulled_by_its_digest() {
    let mut farm = DockerFarm::of(docker_builder().env("REAP_GRACE_MS", "0")).await;
    let test_image = TestImage::new();
    let registry = Registry::start(&test_image, false).await;
    farm.load("a", &registry.image()).await.is_no_content();
    let before = farm.client().generation("a").await;
    let source = format!("{}/app@{}", registry.host(), registry.digest);
    let shown = farm.client().contract("a").await;
    assert_eq!(shown["imageSource"], source, "{shown}");
    let rebuilt = farm.rebuild(&registry.image()).await;
    farm.lose_machine("a", &test_image.id()).await;
    farm.inner().join_with(&[]).await;
    wait::until_true("another worker to run it", DEFAULT_LIMIT, async || {
        farm.client().generation("a").await > before
    })
    .await;
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    let shown = farm.client().contract("a").await;
    assert_eq!(
        (&shown["image"], &shown["imageSource"]),
        (&json!(test_image.id()), &json!(source))
    );
    farm.client().unload("a").await.is_no_content();
    farm.remove_on_stop(&test_image.id());
    farm.remove_on_stop(&rebuilt);
    farm.stop_ignoring_keys().await;
}
