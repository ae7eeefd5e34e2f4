//! Tokens of an identity provider. `api/src/access/tokens/tests.rs` tries wrong ones of every kind.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::created_by_command;
use crate::support::client::Client;
use crate::support::farm::{Builder, Farm};
use crate::support::process::Process;
use crate::support::programs;
use crate::support::wait::DEFAULT_LIMIT;

/// An identity provider with one key, which is published in a file.
pub(super) struct Provider {
    key: Ed25519KeyPair,
    folder: TempDir,
}

impl Provider {
    pub(super) fn new() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let key = Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("it was just made");
        let folder = TempDir::new().expect("a folder can be made");
        let public = URL_SAFE_NO_PAD.encode(key.public_key());
        let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "a", "x": public }] });
        let written = std::fs::write(folder.path().join("keys.json"), keys.to_string());
        written.expect("the folder can be written");
        Self { key, folder }
    }

    /// A farm that accepts its tokens.
    pub(super) fn trusted_by(&self, farm: Builder) -> Builder {
        let file = self.folder.path().join("keys.json");
        farm.env("JWT_ISSUER", "https://id.example")
            .env("JWT_AUDIENCE", "execution")
            .env("JWT_KEYS_FILE", &file.display().to_string())
    }

    /// A token with these scopes.
    pub(super) fn token(&self, scope: &str) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("it is after 1970");
        let claims = json!({ "iss": "https://id.example", "aud": "execution", "sub": "somebody",
            "exp": now.as_secs() + 600, "scope": scope });
        let encoded = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = encoded(json!({ "alg": "EdDSA", "kid": "a" }));
        let message = format!("{header}.{}", encoded(claims));
        let signature = self.key.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

#[tokio::test]
async fn tokens_and_keys_are_accepted_side_by_side() {
    let provider = Provider::new();
    let builder = Farm::builder()
        .env("AUTH", "keys,jwt")
        .env("LOG_FORMAT", "json");
    let mut farm = provider.trusted_by(builder).start().await;
    let anonymous = farm.client().clone();
    let key = created_by_command(&farm, &["--admin"]).await;
    farm.clients[0] = anonymous.as_caller(&key);

    let scope = "openid contracts:load:pay-* contracts:execute:pay-* contracts:unload:pay-*";
    let token = provider.token(scope);
    let client = anonymous.as_caller(&token);
    client.must_load("pay-1", "{ echo: (a) => a }").await;
    assert_eq!(client.execute("pay-1", "echo", &json!(7)).await.data(), 7);
    client
        .call("other", "echo")
        .await
        .error(403, "insufficient_scope");
    client
        .get("/metrics")
        .await
        .error(403, "insufficient_scope");
    client.unload("pay-1").await.is_no_content();
    assert_eq!(farm.client().get("/metrics").await.status, 200);
    anonymous
        .get("/metrics")
        .await
        .error(401, "unauthenticated");
    let stranger = Provider::new().token(scope);
    let refused = anonymous.as_caller(&stranger).call("pay-1", "echo").await;
    let text = refused.error_text(401, "unauthenticated");
    assert!(text.contains("signature"), "{text}");

    let log = farm.apis[0].log();
    assert!(log.contains("\"caller\":\"token:somebody\""), "{log}");
    assert!(
        !log.contains(token.rsplit('.').next().expect("a signature")),
        "{log}"
    );
    let document = anonymous.get("/openapi.json").await.json();
    assert_eq!(
        document["components"]["securitySchemes"]["token"]["bearerFormat"],
        "JWT"
    );
    farm.stop().await;
}

#[tokio::test]
async fn keys_are_refused_where_only_tokens_are_accepted() {
    let provider = Provider::new();
    let builder = Farm::builder().workers(0).env("AUTH", "jwt");
    let farm = provider.trusted_by(builder).start().await;
    let key = created_by_command(&farm, &["--admin"]).await;
    let with = |credential: &str| -> Client { farm.client().as_caller(credential) };
    with(&key)
        .get("/metrics")
        .await
        .error(401, "unauthenticated");
    assert_eq!(
        with(&provider.token("farm:read"))
            .get("/metrics")
            .await
            .status,
        200
    );

    // An api that cannot know whom to trust does not start.
    let mut command = programs::api();
    command
        .env("REDIS_URL", farm.redis.url())
        .env("EXECUTION_API_PORT", "0")
        .env("AUTH", "jwt")
        .env("JWT_ISSUER", "https://id.example")
        .env("JWT_AUDIENCE", "execution")
        .env("JWT_KEYS_FILE", "/no/such/file");
    let mut api = Process::start("without-keys", command, farm.folder());
    let status = api.end(DEFAULT_LIMIT).await;
    assert!(
        !status.success() && api.log().contains("JWT_KEYS_FILE /no/such/file"),
        "{}",
        api.log()
    );
    farm.stop_ignoring_keys().await;
}
