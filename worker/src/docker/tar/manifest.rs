//! The manifest of an image tar: which of its files the daemon loads, and how often.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::layer::LayerError;
use super::links::Links;
use super::{TarError, inner_path, refused};

/// The maximum size of an image's configuration in bytes. The daemon reads it as a whole.
const MAX_CONFIG: u64 = 4 << 20;

/// A file of the tar.
#[derive(Debug)]
pub(super) struct File {
    /// Its size in bytes.
    pub(super) size: u64,
    /// What it takes on disk if it is unpacked as a layer, in bytes.
    pub(super) unpacked: Result<u64, LayerError>,
}

/// The files of the tar by their paths.
pub(super) type Files = BTreeMap<String, File>;

/// What the daemon needs of a manifest. Everything else is left out: tags, and what refers to
/// other images.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Manifest {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "Layers", default)]
    layers: Option<Vec<String>>,
}

impl Manifest {
    /// Reads the text of a manifest with a single image.
    pub(super) fn parse(text: &[u8]) -> Result<Self, TarError> {
        let all: Vec<Self> = serde_json::from_slice(text).map_err(|error| {
            refused(format!("has a manifest.json that cannot be read: {error}"))
        })?;
        let count = all.len();
        let [image] = <[Self; 1]>::try_from(all).map_err(|_| {
            refused(format!(
                "contains {count} images; it must contain exactly one"
            ))
        })?;
        Self::of(&image.config, &image.layers.unwrap_or_default())
    }

    /// An image with these files.
    pub(super) fn of(config: &str, layers: &[String]) -> Result<Self, TarError> {
        let layers = layers.iter().map(|layer| inner_path(layer));
        Ok(Self {
            config: inner_path(config)?,
            layers: Some(layers.collect::<Result<_, _>>()?),
        })
    }

    /// Names the files themselves instead of links to them.
    pub(super) fn resolve(&mut self, links: &Links) -> Result<(), TarError> {
        for path in self.layers.iter_mut().flatten().chain([&mut self.config]) {
            *path = links.resolve(path)?.to_owned();
        }
        Ok(())
    }

    /// The text for the daemon.
    pub(super) fn text(&self) -> Result<Vec<u8>, TarError> {
        // Cannot fail: there are only texts.
        serde_json::to_vec(&[self]).map_err(|error| refused(error.to_string()))
    }

    /// Checks what the daemon loads. A layer that is named several times is unpacked several times.
    pub(super) fn check(&self, files: &Files, limit: u64) -> Result<(), TarError> {
        let find = |path: &String| {
            let found = files.get(path);
            found.ok_or_else(|| refused(format!("does not contain {path:?}, which it names")))
        };
        if find(&self.config)?.size > MAX_CONFIG {
            return Err(refused(format!(
                "has a configuration of more than {MAX_CONFIG} bytes"
            )));
        }
        let mut total = 0_u64;
        for layer in self.layers.iter().flatten() {
            let unpacked = find(layer)?.unpacked;
            let unpacked =
                unpacked.map_err(|why| refused(format!("has a layer that {why}: {layer:?}")))?;
            total = total.saturating_add(unpacked);
        }
        if total > limit {
            return Err(refused(format!(
                "has layers that unpack to more than {limit} bytes"
            )));
        }
        Ok(())
    }
}
