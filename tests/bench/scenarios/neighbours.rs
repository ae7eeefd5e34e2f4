//! A contract under constant load and one that is called now and then: how much the first one
//! affects the latency of the second.

use super::{Bench, Javascript};
use crate::contracts::{ADD, ADD_BODY, path};
use crate::names;

pub(super) async fn run(bench: &mut Bench, farm: &Javascript) {
    let client = farm.farm.client();
    client.must_load("cold", ADD).await;
    let (cold_paths, hot_paths) = ([path("cold", "add")], [path("abcd", "add")]);
    let cold = bench.load(&farm.at, &cold_paths, ADD_BODY, 1);
    let hot = bench.load(&farm.at, &hot_paths, ADD_BODY, 64);

    bench.measure(names::COLD_ALONE, &cold).await;
    let (hot, cold) = tokio::join!(bench.wrk.run(&hot), bench.wrk.run(&cold));
    bench.figures.note_run(names::COLD, &cold);
    bench.figures.note_run(names::HOT, &hot);
    client.unload("cold").await.is_no_content();
}
