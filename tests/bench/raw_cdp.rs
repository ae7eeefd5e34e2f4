//! The lower bound of a single call's latency: `Runtime.evaluate` on one page of an otherwise idle
//! Chromium. The browser runs in its sandbox with the worker's arguments, and the worker's library
//! is used.

use std::time::{Duration, Instant};

use chromiumoxide::Page;
use chromiumoxide::cdp::js_protocol::runtime::EvaluateParams;
use chromiumoxide::handler::HandlerConfig;
use futures::StreamExt;
use futures::stream::repeat_with;
use serde_json::json;

use crate::latencies::Latencies;
use crate::support::browser::Browser;
use crate::support::farm::Farm;

/// The same computation as the contract of the other scenarios.
const ADD: &str = "(({number1, number2}) => number1 + number2)({\"number1\":1,\"number2\":2})";

/// The number of messages in flight in the pipelined case.
pub(crate) const IN_FLIGHT: usize = 64;

/// The arguments of a farm's browser, without those that are unique to one browser.
pub(crate) fn arguments(farm: &Farm) -> Vec<String> {
    let browsers = farm.browsers(0);
    let browser = browsers.first().expect("a worker has a browser");
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", browser.pid));
    let line = line.expect("it runs as long as its worker");
    let own = ["--user-data-dir=", "--remote-debugging-"];
    let is_own = |argument: &str| own.iter().any(|name| argument.starts_with(name));
    line.split_terminator('\0')
        .skip(1)
        .filter(|argument| !is_own(argument))
        // The worker sets no window size. Another size would use another amount of memory.
        .chain(["--window-size=800,600"])
        .map(str::to_owned)
        .collect()
}

/// Starts a browser with these arguments.
pub(crate) async fn browser(arguments: &[String]) -> Browser {
    let config = HandlerConfig {
        viewport: None,
        ..HandlerConfig::default()
    };
    Browser::start_with(arguments, config).await
}

/// A page and its browser. End it with [`RawPage::stop`].
pub(crate) struct RawPage {
    browser: Browser,
    page: Page,
}

impl RawPage {
    /// Opens a page like those of a farm's worker.
    pub(crate) async fn start(farm: &Farm) -> Self {
        let browser = browser(&arguments(farm)).await;
        let page = browser.open("about:blank").await;
        Self { browser, page }
    }

    /// One evaluation after the other.
    pub(crate) async fn sequential(&self, span: Duration) -> Latencies {
        let start = Instant::now();
        let mut times = Vec::new();
        while start.elapsed() < span {
            let sent = Instant::now();
            self.evaluate().await;
            times.push(sent.elapsed());
        }
        Latencies::new(times)
    }

    /// Many evaluations in flight, one in each message. Returns the rate per second.
    pub(crate) async fn pipelined(&self, span: Duration) -> f64 {
        let start = Instant::now();
        let evaluations = repeat_with(|| self.evaluate()).buffer_unordered(IN_FLIGHT);
        let mut evaluations = std::pin::pin!(evaluations);
        let mut count = 0_u32;
        while start.elapsed() < span {
            evaluations.next().await;
            count += 1;
        }
        f64::from(count) / start.elapsed().as_secs_f64()
    }

    async fn evaluate(&self) {
        let evaluate = EvaluateParams::builder()
            .expression(ADD)
            .return_by_value(true)
            .build()
            .expect("it has an expression");
        let answer = self.page.execute(evaluate).await;
        let value = answer.expect("a page that lives answers").result.result;
        assert_eq!(value.value, Some(json!(3)));
    }

    pub(crate) async fn stop(self) {
        self.browser.stop().await;
    }
}
