//! Calls at a constant rate far below the farm's limit: the latency of callers that do not compete.

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::{Bench, Javascript};
use crate::contracts::{ADD_BODY, path};
use crate::names;
use crate::open_loop;
use crate::support::client::Client;

/// Calls per second.
const RATE: u32 = 1000;

pub(super) async fn run(bench: &mut Bench, farm: &Javascript) {
    let echo = bench.echo.client.clone();
    measure(bench, names::PACED, farm.farm.client()).await;
    measure(bench, names::PACED_BARE, &echo).await;
}

async fn measure(bench: &mut Bench, name: &str, client: &Client) {
    let request = client
        .request(Method::POST, &path("abcd", "add"))
        .header(CONTENT_TYPE, "application/json")
        .body(ADD_BODY);
    let paced = open_loop::run(request, RATE, bench.plan.span).await;
    bench.figures.note_latencies(name, &paced.latencies);
    if paced.failed > 0 {
        let error = format!("{name}: {} failed", paced.failed);
        bench.figures.errors.push(error);
    }
}
