//! What pages may fetch: each one document, once. Everything else is aborted.
//!
//! Interception on the browser's root session sees the requests of all pages, navigations too. It is
//! one of several layers; the others are on the command line (`launch`).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chromiumoxide::cdp::browser_protocol::fetch::{
    ContinueRequestParams, EventRequestPaused, FailRequestParams, FulfillRequestParams, HeaderEntry,
};
use chromiumoxide::cdp::browser_protocol::network::{ErrorReason, ResourceType};
use futures::{Stream, StreamExt};

use crate::chromium::browser::Browser;
use crate::chromium::cdp::commands::Trouble;
use crate::chromium::isolation::layers::{Layer, Layers};

/// The document's policy: an opaque origin without storage, scripts only from the debugger, nothing
/// loaded, no forms, frames, dialogs, popups or downloads.
const CONTENT_SECURITY_POLICY: &str = "sandbox allow-scripts; default-src 'none'; \
     script-src 'unsafe-eval' 'wasm-unsafe-eval'; form-action 'none'; base-uri 'none'; \
     frame-ancestors 'none'";

/// Every feature that Chromium 148 to 156 know (`document.featurePolicy.features()`); later ones are
/// stopped by the layers beside this one.
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

/// Requests that are decided at the same time: a contract that navigates without end must not
/// hold up the document of a neighbour.
const CONCURRENCY: usize = 64;

/// The addresses that a document may still be fetched from.
#[derive(Debug)]
pub(crate) struct Documents {
    issued: Mutex<HashSet<String>>,
    /// Whether no two documents have the same origin.
    apart: bool,
}

impl Documents {
    pub(crate) fn new(layers: &Layers) -> Self {
        Self {
            issued: Mutex::default(),
            apart: layers.has(Layer::Origins),
        }
    }

    /// A new address, good for one request. Nobody can guess it, and no name server knows it.
    pub(crate) fn issue(&self) -> OneTime<'_> {
        let name = uuid::Uuid::new_v4().simple();
        let url = if self.apart {
            format!("https://{name}.contract.invalid/")
        } else {
            format!("https://contract.invalid/{name}/")
        };
        self.set().insert(url.clone());
        OneTime {
            url,
            documents: self,
        }
    }

    fn take(&self, url: &str) -> bool {
        self.set().remove(url)
    }

    fn set(&self) -> MutexGuard<'_, HashSet<String>> {
        // A set of strings is whole after any panic.
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address that was issued; void when it is dropped.
#[derive(Debug)]
pub(crate) struct OneTime<'a> {
    pub(crate) url: String,
    documents: &'a Documents,
}

impl Drop for OneTime<'_> {
    fn drop(&mut self) {
        self.documents.take(&self.url);
    }
}

/// Decides every request of a browser, until the browser is gone.
pub(crate) async fn intercept(
    browser: Arc<Browser>,
    requests: impl Stream<Item = Arc<EventRequestPaused>>,
) {
    let headers = headers(&browser.layers);
    requests
        .for_each_concurrent(CONCURRENCY, |request| {
            let (browser, headers) = (&browser, &headers);
            async move {
                if let Err(trouble) = decide(browser, headers, &request).await {
                    // The request may be gone with its page.
                    tracing::debug!(%trouble, "a request was not decided");
                }
            }
        })
        .await;
}

async fn decide(
    browser: &Browser,
    headers: &[HeaderEntry],
    paused: &EventRequestPaused,
) -> Result<(), Trouble> {
    let id = paused.request_id.clone();
    let is_document =
        paused.resource_type == ResourceType::Document && paused.request.method == "GET";
    if is_document && browser.documents.take(&paused.request.url) {
        let mut document = FulfillRequestParams::new(id, 200);
        document.response_headers = Some(headers.to_vec());
        browser.execute(document).await?;
    } else if !browser.layers.has(Layer::Interceptor) {
        browser.execute(ContinueRequestParams::new(id)).await?;
    } else {
        // Of the reasons only this one leaves the page as it is; the others show an error page.
        browser
            .execute(FailRequestParams::new(id, ErrorReason::Aborted))
            .await?;
    }
    Ok(())
}

fn headers(layers: &Layers) -> Vec<HeaderEntry> {
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
    fn an_address_is_good_once_and_only_while_it_is_held() {
        let documents = Documents::new(&Layers::default());
        let address = documents.issue();
        let url = address.url.clone();
        assert!(documents.take(&url));
        assert!(!documents.take(&url));

        let dropped = documents.issue().url.clone();
        assert_ne!(dropped, url);
        assert!(!documents.take(&dropped));
        assert!(!documents.take("https://example.com/"));
    }
}
