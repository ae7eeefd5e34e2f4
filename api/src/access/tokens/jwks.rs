//! The public keys of the identity provider, a JSON Web Key Set (RFC 7517).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// How many bytes a set may have.
pub(super) const SIZE_LIMIT: usize = 1024 * 1024;

/// How many keys are read from it.
const KEYS_LIMIT: usize = 100;

/// A key and the one algorithm that it is used with. It follows from the key alone: a token cannot
/// choose another one.
#[derive(Debug)]
pub(super) struct VerificationKey {
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// All keys that can be used.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<VerificationKey>);

#[derive(Deserialize)]
struct File {
    keys: Vec<Value>,
}

impl KeySet {
    /// Parses a set. Keys of other kinds, secrets among them, are left out.
    pub(super) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let file: File = serde_json::from_str(text)?;
        let keys = file.keys.into_iter().take(KEYS_LIMIT);
        Ok(Self(keys.filter_map(verification_key).collect()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key that a token names. One that names none can only mean the only key.
    pub(super) fn find(&self, id: Option<&str>) -> Option<&VerificationKey> {
        match (id, &self.0[..]) {
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }
}

fn verification_key(value: Value) -> Option<VerificationKey> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        _ => return None,
    };
    let is_other = jwk.common.key_algorithm.is_some_and(|named| {
        let own = match algorithm {
            Algorithm::RS256 => KeyAlgorithm::RS256,
            Algorithm::ES256 => KeyAlgorithm::ES256,
            _ => KeyAlgorithm::EdDSA,
        };
        named != own
    });
    let is_for_signatures = matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    );
    if is_other || !is_for_signatures {
        return None;
    }
    Some(VerificationKey {
        key: DecodingKey::from_jwk(&jwk).ok()?,
        id: jwk.common.key_id,
        algorithm,
    })
}
