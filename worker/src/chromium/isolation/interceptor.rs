//! Decides what pages may fetch: each page its one document, once. Every other request is aborted.
//!
//! Interception on the browser's root session sees the requests of all pages, navigations included.
//! It is one of several layers; the others are flags (`process/flags`) and the document's policies.

use std::sync::Arc;

use chromiumoxide::cdp::browser_protocol::fetch::{
    ContinueRequestParams, EventRequestPaused, FailRequestParams, FulfillRequestParams, HeaderEntry,
};
use chromiumoxide::cdp::browser_protocol::network::{ErrorReason, ResourceType};
use futures::{Stream, StreamExt};

use super::document::{DocumentUrls, headers};
use super::layers::{Layer, Layers};
use crate::chromium::browser::Browser;
use crate::chromium::cdp::execute::CdpError;

/// How many requests are decided at the same time. A contract that navigates without end must not
/// delay a neighbour's document.
const CONCURRENCY: usize = 64;

/// The interceptor of one browser.
#[derive(Debug)]
pub(crate) struct Interceptor {
    browser: Arc<Browser>,
    documents: Arc<DocumentUrls>,
    headers: Vec<HeaderEntry>,
    /// Whether requests are aborted; off only in the attack suite.
    aborts: bool,
}

impl Interceptor {
    pub(crate) fn new(
        browser: Arc<Browser>,
        documents: Arc<DocumentUrls>,
        layers: &Layers,
    ) -> Self {
        Self {
            browser,
            documents,
            headers: headers(layers),
            aborts: layers.has(Layer::Interceptor),
        }
    }

    /// Decides every request until the stream ends.
    pub(crate) async fn run(self, requests: impl Stream<Item = Arc<EventRequestPaused>>) {
        let this = &self;
        requests
            .for_each_concurrent(CONCURRENCY, |request| async move {
                if let Err(error) = this.decide(&request).await {
                    // The request ends with its page.
                    tracing::debug!(%error, "request was not decided");
                }
            })
            .await;
    }

    async fn decide(&self, paused: &EventRequestPaused) -> Result<(), CdpError> {
        let id = paused.request_id.clone();
        let is_document =
            paused.resource_type == ResourceType::Document && paused.request.method == "GET";
        if is_document && self.documents.take(&paused.request.url) {
            let mut document = FulfillRequestParams::new(id, 200);
            document.response_headers = Some(self.headers.clone());
            self.browser.execute(document).await?;
        } else if !self.aborts {
            self.browser.execute(ContinueRequestParams::new(id)).await?;
        } else {
            // Only this reason leaves the page unchanged; the others show an error page.
            self.browser
                .execute(FailRequestParams::new(id, ErrorReason::Aborted))
                .await?;
        }
        Ok(())
    }
}
