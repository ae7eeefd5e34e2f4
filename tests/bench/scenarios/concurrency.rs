//! One contract, with few callers and with many: beside the ceiling, and a lone caller beside the floor.

use super::{Bench, Javascript};
use crate::figures::Metric;
use crate::names;

pub(super) async fn run(bench: &mut Bench, farm: &Javascript) {
    let span = bench.plan.span;
    for connections in bench.plan.connections {
        let echo = bench.echo.at.clone();
        if *connections == 1 {
            let raw = farm.page.in_turn(span).await;
            bench
                .figures
                .note(names::RAW, Metric::P50, raw.all_but_one_in(2));
            bench
                .figures
                .note(names::RAW, Metric::P99, raw.all_but_one_in(100));
        }
        let name = names::one(*connections);
        bench.measure_add(&name, &farm.at, *connections).await;
        let name = names::bare(*connections);
        bench.measure_add(&name, &echo, *connections).await;
    }
    let rate = farm.page.pipelined(span).await;
    bench.figures.note(names::RAW_PIPELINED, Metric::Rate, rate);
}
