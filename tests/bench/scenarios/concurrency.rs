//! One contract with few and with many callers, compared with the ceiling. A single caller is also
//! compared with the lower bound.

use super::{Bench, Javascript};
use crate::contracts::{ADD_BODY, path};
use crate::figures::Metric;
use crate::names;

pub(super) async fn run(bench: &mut Bench, farm: &Javascript) {
    let span = bench.plan.span;
    for connections in bench.plan.connections {
        let echo = bench.echo.at.clone();
        if *connections == 1 {
            let raw = farm.page.sequential(span).await;
            bench
                .figures
                .note(names::RAW, Metric::P50, raw.all_but_one_in(2));
            bench
                .figures
                .note(names::RAW, Metric::P99, raw.all_but_one_in(100));
        }
        let (name, paths) = (names::one(*connections), [path("abcd", "add")]);
        let load = bench.load(&farm.at, &paths, ADD_BODY, *connections);
        bench.measure_farm(&name, &load).await;
        let name = names::bare(*connections);
        bench.measure_add(&name, &echo, *connections).await;
    }
    let rate = farm.page.pipelined(span).await;
    bench.figures.note(names::RAW_PIPELINED, Metric::Rate, rate);
}
