//! Arguments and results of several sizes. The contract returns its argument.

use super::{Bench, Javascript};
use crate::contracts::{ECHO, path, text};
use crate::names;

const CONNECTIONS: u32 = 8;

pub(super) async fn run(bench: &mut Bench, farm: &Javascript) {
    let client = farm.farm.client();
    client.must_load("echo", ECHO).await;
    let (paths, echo) = ([path("echo", "echo")], bench.echo.at.clone());
    for size in bench.plan.payloads {
        let body = text(*size);
        let load = bench.load(&farm.at, &paths, &body, CONNECTIONS);
        bench.measure(&names::payload(*size), &load).await;
        let load = bench.load(&echo, &paths, &body, CONNECTIONS);
        bench.measure(&names::bare_payload(*size), &load).await;
    }
    client.unload("echo").await.is_no_content();
}
