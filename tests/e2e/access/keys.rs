//! The life of keys: the first one, new ones, expiry, revocation.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{caller, create, created_by_command, start};
use crate::support::client::{Client, send};
use crate::support::farm::Farm;
use crate::support::process::Process;
use crate::support::programs;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// A route that any key with `farm:read` may use, and that needs no Redis.
const PROBE: &str = "/metrics";

#[tokio::test]
async fn a_wrong_key_is_refused() {
    let farm = start(Farm::builder().workers(0)).await;
    let admin = farm.client();
    let (_, key) = create(admin, &["farm:read"]).await;
    let with = async |value: &str| {
        let request = Client::new(admin.port()).request(Method::GET, PROBE);
        send(request.header("authorization", value)).await
    };
    assert_eq!(with(&format!("Bearer {key}")).await.status, 200);
    assert_eq!(with(&format!("bearer  {key}")).await.status, 200);
    let (start_of_key, secret) = key.rsplit_once('_').expect("a key has three parts");
    let other_secret = format!(
        "{start_of_key}_{}",
        secret.chars().rev().collect::<String>()
    );
    let other_id = key.replace(&key[4..16], "AAAAAAAAAAAA");
    for wrong in [
        key.clone(),
        format!("Basic {key}"),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        "Bearer esk_".to_owned(),
        format!("Bearer {other_secret}"),
        format!("Bearer {other_id}"),
        format!("Bearer {key}x"),
        format!("Bearer {}", key.to_lowercase()),
        format!("Bearer {key}, Bearer {key}"),
    ] {
        let answer = with(&wrong).await;
        let text = answer.error_text(401, "unauthenticated");
        assert!(!text.contains(secret), "{text}");
        let header = answer.header("www-authenticate").unwrap_or_default();
        assert!(
            header.starts_with("Bearer realm=\"execution\", error=\"invalid_token\""),
            "{header}"
        );
    }
    let twice = Client::new(admin.port()).request(Method::GET, PROBE);
    let twice = twice.header("authorization", format!("Bearer {key}"));
    let twice = send(twice.header("authorization", format!("Bearer {key}"))).await;
    twice.error(401, "unauthenticated");
    farm.stop().await;
}

#[tokio::test]
async fn a_key_is_shown_without_its_secret() {
    let farm = start(Farm::builder().workers(0)).await;
    let admin = farm.client();
    let wanted = json!({ "name": "a dashboard", "scopes": ["farm:read"], "expiresIn": 3600 });
    let created = admin.post("/keys", &wanted).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.header("cache-control"), Some("no-store"));
    let created = created.json();
    let text = |field: &str| created[field].as_str().expect("it is text");
    let (id, key) = (text("id"), text("key"));

    let shown = admin.get(&format!("/keys/{id}")).await;
    let body = shown.body.clone();
    assert!(
        !body.contains(&key[17..]) && !body.contains("sha256"),
        "{body}"
    );
    let shown = shown.json();
    for (field, value) in [
        ("name", json!("a dashboard")),
        ("scopes", json!(["farm:read"])),
        ("state", json!("active")),
    ] {
        assert_eq!(shown[field], value, "{body}");
    }
    let created = shown["created"].as_u64();
    assert_eq!(
        shown["expires"].as_u64(),
        created.map(|created| created + 3_600_000)
    );
    let listed = admin.get("/keys").await.json();
    let listed = listed.as_array().expect("a list");
    assert!(listed.iter().any(|key| key["id"] == id), "{listed:?}");
    let page = admin.get("/keys?limit=1").await;
    let next = page.next_page().expect("there are two keys");
    assert_eq!(
        admin.get(&next).await.json().as_array().map(Vec::len),
        Some(1)
    );
    admin.get("/keys/none").await.error(404, "key_not_found");
    farm.stop().await;
}

#[tokio::test]
async fn a_key_is_revoked_on_every_api() {
    let farm = start(Farm::builder().workers(0).apis(2)).await;
    let [one, two] = &farm.clients[..] else {
        unreachable!("two apis were asked for")
    };
    let (id, key) = create(one, &["farm:read"]).await;
    // Another api knows it at once.
    let client = two.as_caller(&key);
    assert_eq!(client.get(PROBE).await.status, 200);

    let begun = Instant::now();
    let path = format!("/keys/{id}");
    let revoke =
        async |client: &Client, path: &str| send(client.request(Method::DELETE, path)).await;
    revoke(one, &path).await.is_no_content();
    let refused = one.as_caller(&key).get(PROBE).await;
    refused.error(401, "unauthenticated");
    wait::until_true(
        "the other api to refuse the key",
        DEFAULT_LIMIT,
        async || client.get(PROBE).await.status == 401,
    )
    .await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(two.get(&path).await.json()["state"], "revoked");
    // Once more, and for a key that does not exist.
    revoke(two, &path).await.is_no_content();
    revoke(two, "/keys/none").await.error(404, "key_not_found");
    farm.stop().await;
}

#[tokio::test]
async fn a_key_expires() {
    let farm = start(Farm::builder().workers(0)).await;
    let admin = farm.client();
    let wanted = json!({ "scopes": ["farm:read"], "expiresIn": 1 });
    let created = admin.post("/keys", &wanted).await.json();
    let client = admin.as_caller(created["key"].as_str().expect("a key"));
    wait::until_true("the key to expire", DEFAULT_LIMIT, async || {
        client.get(PROBE).await.status == 401
    })
    .await;
    let id = created["id"].as_str().expect("an id");
    assert_eq!(
        admin.get(&format!("/keys/{id}")).await.json()["state"],
        "expired"
    );
    farm.stop().await;
}

#[tokio::test]
async fn a_manager_cannot_pass_on_what_it_may_not_do() {
    let farm = start(Farm::builder().workers(0)).await;
    let admin = farm.client();
    let manager = caller(admin, &["keys:manage", "contracts:execute:pay-*"]).await;
    create(&manager, &["contracts:execute:pay-1", "keys:manage"]).await;
    for scope in [
        "contracts:execute",
        "contracts:execute:*",
        "contracts:load:pay-1",
        "farm:operate",
    ] {
        let refused = manager.post("/keys", &json!({ "scopes": [scope] })).await;
        assert!(
            refused
                .error_text(403, "insufficient_scope")
                .contains(scope)
        );
    }
    let (other, _) = create(admin, &["farm:operate"]).await;
    let revoked = send(manager.request(Method::DELETE, &format!("/keys/{other}"))).await;
    revoked.error(403, "insufficient_scope");
    for (body, field) in [
        (json!({ "scopes": [] }), "scopes"),
        (json!({ "scopes": ["*"] }), "scopes"),
        (json!({ "scopes": ["farm:read:a"] }), "scopes"),
        (json!({ "scopes": vec!["farm:read"; 33] }), "scopes"),
        (
            json!({ "scopes": ["farm:read"], "expiresIn": 0 }),
            "expiresIn",
        ),
        (
            json!({ "scopes": ["farm:read"], "name": "x".repeat(129) }),
            "name",
        ),
    ] {
        let refused = admin
            .post("/keys", &body)
            .await
            .error(400, "invalid_request");
        assert!(refused["fields"][field].is_string(), "{refused}");
    }
    admin
        .post("/keys", &json!({ "scopes": ["farm:read"], "admin": true }))
        .await
        .error(400, "invalid_request");
    farm.stop().await;
}

/// What the api knew last is relied on for 5 s.
#[tokio::test]
async fn nothing_is_decided_by_old_keys() {
    let mut farm = start(Farm::builder().workers(0)).await;
    let client = caller(farm.client(), &["farm:read"]).await;
    assert_eq!(client.get(PROBE).await.status, 200);
    farm.redis
        .process()
        .signal(nix::sys::signal::Signal::SIGSTOP);
    let begun = Instant::now();
    wait::until_true("the api to refuse to decide", DEFAULT_LIMIT, async || {
        let answer = client.get(PROBE).await;
        if answer.status == 200 {
            assert!(begun.elapsed() < Duration::from_secs(8), "{answer:?}");
            return false;
        }
        answer.error(503, "queue_unavailable");
        true
    })
    .await;
    farm.redis
        .process()
        .signal(nix::sys::signal::Signal::SIGCONT);
    wait::until_true("the api to decide again", DEFAULT_LIMIT, async || {
        client.get(PROBE).await.status == 200
    })
    .await;
    farm.stop().await;
}

#[tokio::test]
async fn the_first_key_is_made_for_a_file() {
    let folder = TempDir::new().expect("a folder can be made");
    let file = folder.path().join("admin.key");
    let path = file.to_str().expect("the path is text").to_owned();
    // Two apis start at the same time.
    let builder = Farm::builder().workers(0).apis(2).env("AUTH", "keys");
    let mut farm = builder.env("ADMIN_KEY_FILE", &path).start().await;
    let key = std::fs::read_to_string(&file).expect("the file was written");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&file).expect("it exists").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    for client in &farm.clients {
        assert_eq!(client.as_caller(key.trim()).get(PROBE).await.status, 200);
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("it exists").count(),
        1
    );

    // One that was revoked stays so, even if an api starts with its file.
    let admin = farm.clients[0].as_caller(key.trim());
    let id = &key[4..16];
    let second = created_by_command(&farm, &["--admin", "--name", "second"]).await;
    send(admin.request(Method::DELETE, &format!("/keys/{id}")))
        .await
        .is_no_content();
    farm.replace_api(1).await;
    admin.get(PROBE).await.error(401, "unauthenticated");
    farm.clients[1]
        .as_caller(key.trim())
        .get(PROBE)
        .await
        .error(401, "unauthenticated");
    assert!(farm.apis[1].log().contains("not valid any more"));
    for client in &mut farm.clients {
        *client = client.as_caller(&second);
    }
    let keys: Vec<Value> = farm.clients[1]
        .get("/keys")
        .await
        .json()
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert_eq!(keys.len(), 2, "{keys:?}");
    farm.stop().await;
}

#[tokio::test]
async fn a_key_without_scopes_is_not_created() {
    let farm = start(Farm::builder().workers(0)).await;
    let limited = created_by_command(&farm, &["--scope", "farm:read", "--name", "x"]).await;
    let client = farm.client().as_caller(&limited);
    assert_eq!(client.get(PROBE).await.status, 200);
    client
        .get("/contracts")
        .await
        .error(403, "insufficient_scope");
    for arguments in [
        &[][..],
        &["--scope", "everything"],
        &["--admin", "--scope", "farm:read"],
    ] {
        let mut command = programs::api();
        command
            .env("REDIS_URL", farm.redis.url())
            .args(["keys", "create"])
            .args(arguments);
        let mut process = Process::start("keys", command, farm.folder());
        let status = process.end(DEFAULT_LIMIT).await;
        assert!(
            !status.success() && !process.log().contains("esk_"),
            "{arguments:?}"
        );
    }
    farm.stop().await;
}

/// An api that other machines reach does not start unless it was told who may use it.
#[tokio::test]
async fn an_api_that_others_reach_needs_a_decision() {
    let farm = Farm::builder().workers(0).start().await;
    let mut command = programs::api();
    command
        .env("REDIS_URL", farm.redis.url())
        .env("EXECUTION_API_PORT", "0")
        .env("EXECUTION_API_HOST", "0.0.0.0");
    let mut api = Process::start("open", command, farm.folder());
    let status = api.end(DEFAULT_LIMIT).await;
    assert!(
        !status.success() && api.log().contains("AUTH=: must be set to keys, jwt or off"),
        "{}",
        api.log()
    );
    farm.stop().await;
}
