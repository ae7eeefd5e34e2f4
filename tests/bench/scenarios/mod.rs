//! The scenarios, in groups. Each group has its own farm. In each round, every comparison is
//! measured next to its reference.

mod access;
mod authors;
mod concurrency;
mod docker;
mod idle;
mod many;
mod memory;
mod neighbours;
mod pace;
mod payloads;
pub(crate) mod peers;
mod timer;
mod workers;

use std::time::Duration;

use crate::contracts::{ADD, ADD_BODY, path};
use crate::echo::Echo;
use crate::figures::{Figures, Metric};
use crate::names;
use crate::plan::Plan;
use crate::processor::{KINDS, Times};
use crate::raw_cdp::RawPage;
use crate::support::farm::Farm;
use crate::wrk::{Load, Run, Wrk};

/// Capacity for all contracts of a scenario.
const CAPACITY: &str = "256";

/// The context of every scenario.
pub(crate) struct Bench {
    pub(crate) plan: Plan,
    pub(crate) figures: Figures,
    wrk: Wrk,
    echo: Echo,
}

/// A farm of one api and one worker with the contract `abcd`, and a raw page for comparison.
struct Javascript {
    farm: Farm,
    page: RawPage,
    /// The api's `HOST:PORT`.
    at: String,
}

impl Bench {
    /// Runs all scenarios of the plan.
    pub(crate) async fn run(plan: Plan) -> Self {
        let mut bench = Self {
            plan,
            figures: Figures::default(),
            wrk: Wrk::new(),
            echo: Echo::start().await,
        };
        if bench.plan.has("memory") {
            memory::run(&mut bench).await;
        }
        if bench.plan.has("javascript") {
            bench.javascript().await;
        }
        if bench.plan.has("access") {
            access::run(&mut bench).await;
        }
        if bench.plan.has("authors") {
            authors::run(&mut bench).await;
        }
        if bench.plan.has("workers") {
            workers::run(&mut bench).await;
        }
        if bench.plan.has("docker") {
            docker::run(&mut bench).await;
        }
        if bench.plan.has("peers") {
            peers::run(&mut bench).await;
        }
        bench
    }

    async fn javascript(&mut self) {
        let farm = Farm::builder().env("WORKER_CAPACITY", CAPACITY);
        let farm = farm.start().await;
        farm.client().must_load("abcd", ADD).await;
        let farm = Javascript {
            at: address_of(&farm),
            page: RawPage::start(&farm).await,
            farm,
        };
        self.warm_up(&farm).await;
        for round in 1..=self.plan.rounds {
            eprintln!("javascript, round {round}:");
            concurrency::run(self, &farm).await;
            many::run(self, &farm).await;
            neighbours::run(self, &farm).await;
            payloads::run(self, &farm).await;
            timer::run(self, &farm).await;
            idle::run(self, &farm).await;
            pace::run(self, &farm).await;
        }
        farm.page.stop().await;
        farm.farm.client().unload("abcd").await.is_no_content();
        // wrk disconnects with calls in flight. Their large arguments stay until they expire.
        farm.farm.stop_ignoring_keys().await;
    }

    /// Warms up connections, caches and compilers, because first calls are slower.
    async fn warm_up(&self, farm: &Javascript) {
        for at in [&farm.at, &self.echo.at] {
            let paths = [path("abcd", "add")];
            self.wrk.run(&self.load(at, &paths, ADD_BODY, 64)).await;
        }
        farm.page.sequential(Duration::from_secs(1)).await;
    }

    /// A load that lasts as long as the plan says.
    fn load<'a>(
        &self,
        at: &'a str,
        paths: &'a [String],
        body: &'a str,
        connections: u32,
    ) -> Load<'a> {
        Load {
            at,
            paths,
            body,
            connections,
            span: self.plan.span,
            key: None,
        }
    }

    /// Runs a load and records its result.
    async fn measure(&mut self, name: &str, load: &Load<'_>) {
        let run: Run = self.wrk.run(load).await;
        self.figures.note_run(name, &run);
    }

    /// The same for a load of a farm, with the processor time that it uses.
    async fn measure_farm(&mut self, name: &str, load: &Load<'_>) {
        let before = Times::now();
        let run: Run = self.wrk.run(load).await;
        let times = before.until(&Times::now());
        self.figures.note_run(name, &run);
        for (kind, time) in KINDS.iter().zip(times) {
            let name = names::processor(name, kind);
            self.figures
                .note(&name, Metric::Processor, time / run.calls);
        }
    }

    /// Calls `add` of `abcd`, on a farm or on the echo server.
    async fn measure_add(&mut self, name: &str, at: &str, connections: u32) {
        let paths = [path("abcd", "add")];
        let load = self.load(at, &paths, ADD_BODY, connections);
        self.measure(name, &load).await;
    }
}

/// The `HOST:PORT` of a farm's first api.
fn address_of(farm: &Farm) -> String {
    farm.client()
        .url("")
        .trim_start_matches("http://")
        .to_owned()
}
