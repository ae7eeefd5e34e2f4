//! Tokens that must be refused, each beside one that is accepted.

mod url;

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::access::Permission;

const ISSUER: &str = "https://id.example";
const AUDIENCE: &str = "execution";

/// The keys of a provider, one of each kind.
struct Provider {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    random: SystemRandom,
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Provider {
    fn new() -> Self {
        let random = SystemRandom::new();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            // ring cannot generate this kind.
            rsa: RsaKeyPair::from_der(include_bytes!("../test-rsa-key.der")).unwrap(),
            ec: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random)
                .unwrap(),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
            random,
        }
    }

    fn rsa_public(&self) -> PublicKeyComponents<Vec<u8>> {
        self.rsa.public().into()
    }

    /// The public keys, and one of a kind that must not be used.
    fn keys(&self) -> Value {
        let PublicKeyComponents { n, e } = self.rsa_public();
        let point = self.ec.public_key().as_ref();
        json!({ "keys": [
            { "kty": "RSA", "kid": "rsa", "use": "sig", "n": encoded(n), "e": encoded(e) },
            { "kty": "EC", "kid": "ec", "crv": "P-256", "x": encoded(&point[1..33]),
                "y": encoded(&point[33..]) },
            { "kty": "OKP", "kid": "ed", "crv": "Ed25519", "alg": "EdDSA",
                "x": encoded(self.ed.public_key()) },
            { "kty": "oct", "kid": "secret", "k": encoded("a shared secret") },
            { "kty": "new", "kid": "unknown" },
        ]})
    }

    fn signature(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        match algorithm {
            "RS256" => {
                let mut signature = vec![0; self.rsa.public().modulus_len()];
                let signed =
                    self.rsa
                        .sign(&RSA_PKCS1_SHA256, &self.random, message, &mut signature);
                signed.unwrap();
                signature
            }
            "ES256" => self
                .ec
                .sign(&self.random, message)
                .unwrap()
                .as_ref()
                .to_vec(),
            _ => self.ed.sign(message).as_ref().to_vec(),
        }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!(
            "{}.{}",
            encoded(header.to_string()),
            encoded(claims.to_string())
        );
        let algorithm = header["alg"].as_str().unwrap_or_default();
        let signature = self.signature(algorithm, message.as_bytes());
        format!("{message}.{}", encoded(signature))
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "somebody", "exp": now() + 60,
        "scope": "openid contracts:execute:pay-* farm:read" })
}

/// Recognises tokens by the keys of a provider, whose file is in the folder.
async fn tokens(provider: &Provider) -> (TempDir, Tokens) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("keys.json");
    fs::write(&file, provider.keys().to_string()).unwrap();
    (
        folder,
        Tokens::open(config(&file), Meters::idle()).await.unwrap(),
    )
}

fn config(file: &Path) -> TokenConfig {
    TokenConfig {
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        keys: KeySource::File(file.to_owned()),
        tenant_claim: None,
    }
}

#[tokio::test]
async fn each_algorithm_is_accepted_with_its_key() {
    let provider = Provider::new();
    let (_folder, tokens) = tokens(&provider).await;
    for (algorithm, key) in [("RS256", "rsa"), ("ES256", "ec"), ("EdDSA", "ed")] {
        let token = provider.token(&json!({ "alg": algorithm, "kid": key }), &claims());
        // The second time it is remembered.
        for _ in 0..2 {
            let caller = tokens.recognise(&token).await.unwrap();
            assert_eq!(caller.name, "token:somebody");
            let address = "pay-1".parse().unwrap();
            assert!(
                caller
                    .may_for(Permission::ContractsExecute, &address)
                    .is_ok()
            );
            assert!(caller.may(Permission::FarmRead).is_ok());
            assert!(caller.may(Permission::ContractsLoad).is_err());
        }
    }
}

/// A token without a tenant is not one for the default tenant, where tokens must name theirs.
#[tokio::test]
async fn a_claim_names_the_tenant() {
    let provider = Provider::new();
    let (_folder, tokens) = tokens(&provider).await;
    let header = json!({ "alg": "EdDSA", "kid": "ed" });
    let with = |tenant: Option<Value>| {
        let mut claims = claims();
        if let Some(tenant) = tenant {
            claims["org"] = tenant;
        }
        provider.token(&header, &claims)
    };
    let token = with(Some(json!("acme")));
    assert!(tokens.recognise(&token).await.unwrap().tenant.is_default());
    let mut tokens = tokens;
    tokens.config.tenant_claim = Some("org".to_owned());
    tokens.known.invalidate_all();
    let caller = tokens.recognise(&token).await.unwrap();
    assert_eq!(caller.tenant.as_str(), "acme");
    let token = with(Some(json!("default")));
    assert!(tokens.recognise(&token).await.unwrap().tenant.is_default());
    for wrong in [
        None,
        Some(json!("Acme")),
        Some(json!("a/b")),
        Some(json!(["acme"])),
        Some(json!("")),
    ] {
        let refused = tokens.recognise(&with(wrong.clone())).await;
        assert_eq!(refused.err(), Some(NO_TENANT), "{wrong:?}");
    }
}

#[tokio::test]
async fn wrong_claims_are_refused() {
    let provider = Provider::new();
    let (_folder, tokens) = tokens(&provider).await;
    let with = async |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        let header = json!({ "alg": "EdDSA", "kid": "ed" });
        tokens
            .recognise(&provider.token(&header, &claims))
            .await
            .err()
    };
    assert_eq!(
        with("exp", json!(now() - 20)).await,
        None,
        "within the skew"
    );
    assert_eq!(with("aud", json!(["other", AUDIENCE])).await, None);
    assert_eq!(with("exp", json!(now() - 40)).await, Some(EXPIRED));
    assert_eq!(
        with("nbf", json!(now() + 40)).await,
        Some("The token is not valid yet")
    );
    assert_eq!(
        with("iss", json!("https://evil.example")).await,
        Some("The token has another issuer")
    );
    assert_eq!(
        with("aud", json!("other")).await,
        Some("The token is for another audience")
    );
    for (name, value) in [
        ("exp", json!("never")),
        ("exp", Value::Null),
        ("nbf", json!("x")),
        ("iss", json!({})),
        ("aud", json!(7)),
        ("scope", json!(["farm:read"])),
    ] {
        assert!(with(name, value.clone()).await.is_some(), "{name} {value}");
    }
    for missing in ["exp", "iss", "aud"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(missing);
        let token = provider.token(&json!({ "alg": "EdDSA", "kid": "ed" }), &claims);
        assert!(tokens.recognise(&token).await.is_err(), "{missing}");
    }
}

#[tokio::test]
async fn a_token_that_is_signed_otherwise_is_refused() {
    let (provider, other) = (Provider::new(), Provider::new());
    let (_folder, tokens) = tokens(&provider).await;
    let good = provider.token(&json!({ "alg": "EdDSA", "kid": "ed" }), &claims());
    assert!(tokens.recognise(&good).await.is_ok());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let forged = claims().to_string().replace("farm:read", "keys:manage");
    let header = message.split('.').next().unwrap();
    let mut refused = vec![
        other.token(&json!({ "alg": "EdDSA", "kid": "ed" }), &claims()),
        other.token(&json!({ "alg": "ES256", "kid": "ec" }), &claims()),
        format!("{header}.{}.{signature}", encoded(forged)),
        format!("{message}."),
        message.to_owned(),
        String::new(),
        "a.b.c".to_owned(),
        // The key of another algorithm.
        provider.token(&json!({ "alg": "ES256", "kid": "ed" }), &claims()),
        provider.token(&json!({ "alg": "EdDSA", "kid": "rsa" }), &claims()),
        // A key that is not there, one that must not be used, and none although there are several.
        provider.token(&json!({ "alg": "EdDSA", "kid": "gone" }), &claims()),
        provider.token(&json!({ "alg": "EdDSA", "kid": "secret" }), &claims()),
        provider.token(&json!({ "alg": "EdDSA" }), &claims()),
        provider.token(
            &json!({ "alg": "EdDSA", "kid": "ed", "crit": ["b64"] }),
            &claims(),
        ),
    ];
    for algorithm in ["none", "None", "nOnE", ""] {
        let header = json!({ "alg": algorithm, "kid": "ed" });
        let message = format!(
            "{}.{}",
            encoded(header.to_string()),
            encoded(claims().to_string())
        );
        refused.extend([format!("{message}."), format!("{message}.{signature}")]);
    }
    // Key confusion: a public key as the secret of an HMAC, and the secret in the set.
    let modulus = provider.rsa_public().n;
    for (kid, secret) in [
        ("rsa", &modulus[..]),
        ("ed", provider.ed.public_key().as_ref()),
        ("secret", b"a shared secret"),
    ] {
        let header = json!({ "alg": "HS256", "kid": kid });
        let message = format!(
            "{}.{}",
            encoded(header.to_string()),
            encoded(claims().to_string())
        );
        let tag = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, secret),
            message.as_bytes(),
        );
        refused.push(format!("{message}.{}", encoded(tag)));
    }
    for token in refused {
        assert!(tokens.recognise(&token).await.is_err(), "{token}");
    }
}

#[tokio::test]
async fn a_new_key_is_found_in_the_file() {
    let (provider, next) = (Provider::new(), Provider::new());
    let (folder, tokens) = tokens(&provider).await;
    let mut keys = next.keys();
    keys["keys"][2]["kid"] = json!("next");
    fs::write(folder.path().join("keys.json"), keys.to_string()).unwrap();
    let token = next.token(&json!({ "alg": "EdDSA", "kid": "next" }), &claims());
    // The file was read a moment ago.
    assert!(tokens.recognise(&token).await.is_err());
    tokens.lapse().await;
    assert!(tokens.recognise(&token).await.is_ok());
    // Unreadable keys do not replace the known ones.
    fs::write(folder.path().join("keys.json"), "{").unwrap();
    tokens.lapse().await;
    let unknown = next.token(&json!({ "alg": "EdDSA", "kid": "gone" }), &claims());
    assert!(tokens.recognise(&unknown).await.is_err());
    let again = next.token(&json!({ "alg": "EdDSA", "kid": "next" }), &claims());
    assert!(tokens.recognise(&again).await.is_ok());
}

#[tokio::test]
async fn a_file_without_usable_keys_is_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("keys.json");
    let opened = async |text: &str| {
        fs::write(&file, text).unwrap();
        Tokens::open(config(&file), Meters::idle())
            .await
            .err()
            .map(|error| error.to_string())
    };
    assert!(
        opened("[]")
            .await
            .unwrap()
            .contains("is not a JSON Web Key Set")
    );
    let secret = r#"{"keys":[{"kty":"oct","k":"YQ"}]}"#;
    assert!(opened(secret).await.unwrap().contains("has no key"));
    assert!(
        opened(&" ".repeat(1024 * 1024 + 1))
            .await
            .unwrap()
            .contains("more than 1048576 bytes")
    );
    fs::remove_file(&file).unwrap();
    assert!(Tokens::open(config(&file), Meters::idle()).await.is_err());
}
