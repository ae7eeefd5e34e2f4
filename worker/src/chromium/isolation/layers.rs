//! Which protections are on: all of them, except in the attack suite.
//!
//! A failed attack proves something only if the same attack succeeds without the layer that stops
//! it. So the suite turns layers off with `ATTACK_SUITE_LAYERS_OFF`. A worker that finds it set
//! logs an error and must not be used for anything else. Chromium's own sandbox is not among the
//! layers: no contract ever runs without it.

use shared::service::config::{ConfigError, Env};

/// The environment variable that lists the layers to turn off, separated by commas, or `all`.
const VARIABLE: &str = "ATTACK_SUITE_LAYERS_OFF";

/// One protection that can be turned off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// `--host-resolver-rules`: no name and no address is resolved.
    Resolver,
    /// `--proxy-server`: requests that are resolved all the same go to a proxy that does not exist.
    Proxy,
    /// The policies that stop WebRTC from sending datagrams.
    Webrtc,
    /// The flags that turn off Chromium's own network features.
    Features,
    /// The interceptor, which aborts every request except those for documents.
    Interceptor,
    /// The document's content security policy: no loads, an opaque origin.
    Policy,
    /// The document's permissions policy.
    Permissions,
    /// An origin of its own for each document.
    Origins,
    /// A browser context of its own for each contract.
    Contexts,
    /// Site isolation, and as many renderers as there are contracts.
    Processes,
    /// The limit of a renderer's data segment.
    Memory,
    /// The watchdog over idle renderers and the browser's own memory.
    Watch,
}

impl Layer {
    const ALL: [(&str, Self); 12] = [
        ("resolver", Self::Resolver),
        ("proxy", Self::Proxy),
        ("webrtc", Self::Webrtc),
        ("features", Self::Features),
        ("interceptor", Self::Interceptor),
        ("policy", Self::Policy),
        ("permissions", Self::Permissions),
        ("origins", Self::Origins),
        ("contexts", Self::Contexts),
        ("processes", Self::Processes),
        ("memory", Self::Memory),
        ("watch", Self::Watch),
    ];
}

/// The layers that are on; by default all.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    off: Vec<Layer>,
}

impl Layers {
    /// Reads `ATTACK_SUITE_LAYERS_OFF`.
    pub fn from_env(env: Env) -> Result<Self, ConfigError> {
        let Some(text) = env.text(VARIABLE) else {
            return Ok(Self::default());
        };
        if text == "all" {
            let off = Layer::ALL.map(|(_, layer)| layer).to_vec();
            return Ok(Self { off });
        }
        let find = |name: &str| {
            let known = Layer::ALL.iter().find(|(known, _)| *known == name.trim());
            known.map(|(_, layer)| *layer).ok_or_else(|| {
                let names = Layer::ALL.map(|(name, _)| name).join(", ");
                ConfigError::new(
                    VARIABLE,
                    &text,
                    format!("{name:?} is not a layer; use {names} or all"),
                )
            })
        };
        let off = text.split(',').map(find).collect::<Result<_, _>>()?;
        Ok(Self { off })
    }

    /// Whether a protection is on.
    pub(crate) fn has(&self, layer: Layer) -> bool {
        !self.off.contains(&layer)
    }

    /// Logs an error if any layer is off.
    pub(crate) fn log_disabled(&self) {
        if !self.off.is_empty() {
            let is_off =
                |(name, layer): &(&'static str, Layer)| (!self.has(*layer)).then_some(*name);
            let off: Vec<_> = Layer::ALL.iter().filter_map(is_off).collect();
            tracing::error!(
                off = off.join(","),
                "PROTECTIONS ARE OFF: {VARIABLE} is set. Only the attack suite may set it; stop this worker"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_is_on_unless_it_is_listed() {
        let layers = Layers::from_env(Env::table(|_| None)).unwrap();
        assert!(Layer::ALL.iter().all(|(_, layer)| layers.has(*layer)));

        let env = Env::table(|name| (name == VARIABLE).then(|| "proxy, policy".to_owned()));
        let layers = Layers::from_env(env).unwrap();
        let off = Layer::ALL.iter().filter(|(_, layer)| !layers.has(*layer));
        let off: Vec<_> = off.map(|(name, _)| *name).collect();
        assert_eq!(off, ["proxy", "policy"]);

        let env = Env::table(|name| (name == VARIABLE).then(|| "all".to_owned()));
        let layers = Layers::from_env(env).unwrap();
        assert!(!Layer::ALL.iter().any(|(_, layer)| layers.has(*layer)));
    }

    #[test]
    fn an_unknown_layer_is_refused() {
        let env = Env::table(|name| (name == VARIABLE).then(|| "proxy,sandbox".to_owned()));
        let error = Layers::from_env(env).unwrap_err().to_string();
        assert!(
            error.contains("\"sandbox\" is not a layer; use resolver"),
            "{error}"
        );
    }
}
