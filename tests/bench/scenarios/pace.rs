//! Calls at a constant rate far below the farm's limit: the latency of callers that do not compete.

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder};

use super::{Bench, Javascript};
use crate::contracts::{ADD_BODY, path};
use crate::names;
use crate::open_loop;
use crate::support::client::Client;

/// Calls per second.
const RATE: u32 = 1000;

pub(super) async fn run(bench: &mut Bench, farm: &Javascript) {
    let echo = bench.echo.client.clone();
    for (name, client) in [
        (names::PACED, farm.farm.client()),
        (names::PACED_BARE, &echo),
    ] {
        let paced = open_loop::run(add(client, "abcd"), RATE, bench.plan.span).await;
        bench.figures.note_paced(name, &paced);
    }
}

/// A call of a contract that has `add`.
pub(super) fn add(client: &Client, address: &str) -> RequestBuilder {
    client
        .request(Method::POST, &path(address, "add"))
        .header(CONTENT_TYPE, "application/json")
        .body(ADD_BODY)
}
