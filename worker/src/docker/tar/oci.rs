//! Archives in the form of the Open Container Initiative, which have no `manifest.json`: derives
//! it.
//!
//! Their `index.json` names a manifest among the blobs, or another index with one manifest for each
//! platform. The manifest names the configuration and the layers.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::manifest::Manifest;
use super::{MAX_MANIFEST, TarError, refused};

/// The maximum size of all indexes and manifests of a tar in bytes.
const MAX_NOTES: usize = 4 << 20;

/// The texts of a tar that may describe its image, by their paths.
#[derive(Debug, Default)]
pub(super) struct Notes {
    texts: BTreeMap<String, Vec<u8>>,
    bytes: usize,
}

#[derive(Debug, Deserialize)]
struct Described {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

impl Descriptor {
    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replacen(':', "/", 1))
    }

    /// Whether it may be an image for this machine. Other entries of an index are images for other
    /// machines, and attestations, whose platform is unknown.
    fn is_ours(&self) -> bool {
        self.platform
            .as_ref()
            .is_none_or(|platform| platform.os == "linux" && platform.architecture == goarch())
    }
}

/// This machine's processor, as images name it.
fn goarch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Notes {
    /// Whether a file of this name and size may describe the image.
    pub(super) fn wants(path: &str, size: u64) -> bool {
        (path == "index.json" || path.starts_with("blobs/")) && size <= MAX_MANIFEST
    }

    /// Keeps a text, if it can be a description and there is room.
    pub(super) fn keep(&mut self, path: &str, text: &[u8]) {
        if text.first() == Some(&b'{') && self.bytes + text.len() <= MAX_NOTES {
            self.bytes += text.len();
            self.texts.insert(path.to_owned(), text.to_vec());
        }
    }

    /// The manifest of the archive's image. None if the archive has no index.
    pub(super) fn manifest(&self) -> Result<Option<Manifest>, TarError> {
        if !self.texts.contains_key("index.json") {
            return Ok(None);
        }
        let mut described = self.read("index.json")?;
        // An index of indexes is as deep as tools write them.
        for _ in 0..2 {
            if described.config.is_some() {
                break;
            }
            let images: Vec<_> = described
                .manifests
                .iter()
                .filter(|one| one.is_ours())
                .collect();
            let [image] = images[..] else {
                return Err(refused(format!(
                    "contains {} images for {}; it must contain exactly one",
                    images.len(),
                    goarch()
                )));
            };
            described = self.read(&image.path())?;
        }
        let config = described
            .config
            .ok_or_else(|| refused("has a manifest that names no configuration"))?;
        let layers: Vec<_> = described.layers.iter().map(Descriptor::path).collect();
        Manifest::of(&config.path(), &layers).map(Some)
    }

    fn read(&self, path: &str) -> Result<Described, TarError> {
        let text = self
            .texts
            .get(path)
            .ok_or_else(|| refused(format!("does not contain {path:?}, which it names")))?;
        serde_json::from_slice(text)
            .map_err(|error| refused(format!("has a {path:?} that cannot be read: {error}")))
    }
}
