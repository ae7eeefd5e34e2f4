//! A contract whose answers are promises: each call awaits a timer of 5 ms.

use super::{Bench, Javascript};
use crate::contracts::{LATER, path};
use crate::names;

pub(super) async fn run(bench: &mut Bench, farm: &Javascript) {
    let client = farm.farm.client();
    client.must_load("later", LATER).await;
    let paths = [path("later", "later")];
    let load = bench.load(&farm.at, &paths, "5", 64);
    bench.measure(names::TIMER, &load).await;
    client.unload("later").await.is_no_content();
}
