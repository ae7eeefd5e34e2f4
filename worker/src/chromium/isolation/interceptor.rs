//! Decides what pages may fetch: each page its one document, once. Every other request is aborted.
//!
//! Interception on the browser's root session sees the requests of all pages, navigations included.
//! It is one of several layers; the others are flags (`process/flags`) and the document's policies.

use std::sync::Arc;

use chromiumoxide_cdp::cdp::browser_protocol::fetch::{
    ContinueRequestParams, FailRequestParams, FulfillRequestParams, HeaderEntry,
};
use chromiumoxide_cdp::cdp::browser_protocol::network::ErrorReason;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::charges::Charges;
use super::document::{DocumentUrls, headers};
use super::floods::FloodCloser;
use super::layers::{Layer, Layers};
use crate::chromium::browser::Browser;
use crate::chromium::cdp::events::PausedRequest;

/// The interceptor of one browser.
#[derive(Debug)]
pub(crate) struct Interceptor {
    browser: Arc<Browser>,
    documents: Arc<DocumentUrls>,
    headers: Vec<HeaderEntry>,
    /// Whether requests are aborted; off only in the attack suite.
    aborts: bool,
    floods: FloodCloser,
}

impl Interceptor {
    pub(crate) fn new(
        browser: Arc<Browser>,
        documents: Arc<DocumentUrls>,
        layers: &Layers,
        floods: FloodCloser,
    ) -> Self {
        Self {
            browser,
            documents,
            headers: headers(layers),
            aborts: layers.has(Layer::Interceptor),
            floods,
        }
    }

    /// Decides every request until there are no more. No decision waits for the browser, so a
    /// contract that navigates without end does not delay a neighbour's document.
    pub(crate) async fn run(self, mut requests: mpsc::Receiver<PausedRequest>) {
        let mut charges = Charges::new();
        while let Some(request) = requests.recv().await {
            if !charges.add(&request.frame, request.size, Instant::now()) {
                self.floods.close(
                    &request.frame,
                    "it sent too many requests, or too long ones",
                );
            }
            self.decide(request);
        }
    }

    fn decide(&self, paused: PausedRequest) {
        let is_document = paused.is_document && paused.method == "GET";
        if is_document && self.documents.take(&paused.url) {
            let mut document = FulfillRequestParams::new(paused.id, 200);
            document.response_headers = Some(self.headers.clone());
            self.browser.post(&document);
        } else if !self.aborts {
            self.browser.post(&ContinueRequestParams::new(paused.id));
        } else {
            // Only this reason leaves the page unchanged; the others show an error page.
            let abort = FailRequestParams::new(paused.id, ErrorReason::Aborted);
            self.browser.post(&abort);
        }
    }
}
