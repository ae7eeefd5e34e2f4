//! The document of a page: an empty one, with policies that allow nothing.
//!
//! Each page fetches its document once, from a one-time URL. The interceptor answers that request.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chromiumoxide_cdp::cdp::browser_protocol::fetch::HeaderEntry;

use super::layers::{Layer, Layers};

/// The document's content security policy: an opaque origin without storage, scripts only from the
/// debugger, no loads, no forms, frames, dialogs, popups or downloads.
const CONTENT_SECURITY_POLICY: &str = "sandbox allow-scripts; default-src 'none'; \
     script-src 'unsafe-eval' 'wasm-unsafe-eval'; form-action 'none'; base-uri 'none'; \
     frame-ancestors 'none'";

/// Every feature that Chromium 148 to 156 know (`document.featurePolicy.features()`). The other
/// layers stop the features of later versions.
const FEATURES: &str = "accelerometer aria-notify attribution-reporting autoplay browsing-topics camera captured-surface-control \
     ch-device-memory ch-downlink ch-dpr ch-ect ch-prefers-color-scheme \
     ch-prefers-reduced-motion ch-prefers-reduced-transparency ch-rtt ch-save-data ch-ua \
     ch-ua-arch ch-ua-bitness ch-ua-form-factors ch-ua-full-version ch-ua-full-version-list \
     ch-ua-high-entropy-values ch-ua-mobile ch-ua-model ch-ua-platform ch-ua-platform-version \
     ch-ua-wow64 ch-viewport-height ch-viewport-width ch-width clipboard-read clipboard-write \
     compute-pressure cross-origin-isolated deferred-fetch deferred-fetch-minimal \
     digital-credentials-create digital-credentials-get display-capture encrypted-media \
     fullscreen gamepad geolocation gyroscope hid identity-credentials-get idle-detection \
     interest-cohort join-ad-interest-group keyboard-map language-detector language-model local-fonts local-network \
     local-network-access loopback-network magnetometer media-playback-while-not-visible \
     microphone midi on-device-speech-recognition otp-credentials payment picture-in-picture \
     private-aggregation private-state-token-issuance private-state-token-redemption \
     publickey-credentials-create publickey-credentials-get run-ad-auction screen-wake-lock serial \
     shared-storage shared-storage-select-url speaker-selection storage-access \
     summarizer sync-xhr translator unload usb window-management xr-spatial-tracking";

/// The URLs from which a document may still be fetched.
#[derive(Debug)]
pub(crate) struct DocumentUrls {
    issued: Mutex<HashSet<String>>,
    /// Whether each document has an origin of its own.
    own_origins: bool,
}

impl DocumentUrls {
    pub(crate) fn new(layers: &Layers) -> Self {
        Self {
            issued: Mutex::default(),
            own_origins: layers.has(Layer::Origins),
        }
    }

    /// Creates a URL that is valid for one request. It cannot be guessed, and no name server can
    /// resolve it.
    pub(crate) fn issue(&self) -> DocumentUrl<'_> {
        let name = uuid::Uuid::new_v4().simple();
        let url = if self.own_origins {
            format!("https://{name}.contract.invalid/")
        } else {
            format!("https://contract.invalid/{name}/")
        };
        self.lock().insert(url.clone());
        DocumentUrl { url, urls: self }
    }

    /// Uses up a URL; false if it is not valid.
    pub(super) fn take(&self, url: &str) -> bool {
        self.lock().remove(url)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        // No panic can leave the set half changed.
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A URL that was issued. Dropping it makes the URL invalid.
#[derive(Debug)]
pub(crate) struct DocumentUrl<'a> {
    pub(crate) url: String,
    urls: &'a DocumentUrls,
}

impl Drop for DocumentUrl<'_> {
    fn drop(&mut self) {
        self.urls.take(&self.url);
    }
}

/// The response headers of every document.
pub(super) fn headers(layers: &Layers) -> Vec<HeaderEntry> {
    let nothing_allowed: Vec<_> = FEATURES
        .split(' ')
        .map(|name| format!("{name}=()"))
        .collect();
    let nothing_allowed = nothing_allowed.join(", ");
    let always = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
    ];
    let layered = [
        (
            Layer::Policy,
            ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
        ),
        (Layer::Permissions, ("Permissions-Policy", &nothing_allowed)),
        (Layer::Features, ("X-DNS-Prefetch-Control", "off")),
    ];
    let layered = layered.iter().filter(|(layer, _)| layers.has(*layer));
    always
        .iter()
        .chain(layered.map(|(_, header)| header))
        .map(|(name, value)| HeaderEntry::new(*name, *value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_url_is_valid_once_and_only_until_it_is_dropped() {
        let urls = DocumentUrls::new(&Layers::default());
        let issued = urls.issue();
        let url = issued.url.clone();
        assert!(urls.take(&url));
        assert!(!urls.take(&url));

        let dropped = urls.issue().url.clone();
        assert_ne!(dropped, url);
        assert!(!urls.take(&dropped));
        assert!(!urls.take("https://example.com/"));
    }
}
