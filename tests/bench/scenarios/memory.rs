//! The memory that contracts and calls need. Each round has its own farm, because earlier
//! measurements would affect it.

use std::time::{Duration, Instant};

use chromiumoxide::cdp::browser_protocol::target::{
    CreateBrowserContextParams, CreateTargetParams,
};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Bench, address_of};
use crate::contracts::{LATER, add};
use crate::figures::Metric;
use crate::memory::{rss_kib, tree_pss_mib};
use crate::names;
use crate::raw_cdp;
use crate::support::browser::Browser;
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::wait;

/// The number of contracts, and of pages to compare them with.
const PAGES: u32 = 20;

/// Calls in flight, each on its own connection.
const CALLS: u16 = 500;

/// The length of each call: all must be in flight at some time, and none may overrun its limit.
const CALL_MS: u64 = 1500;

/// How long processes may take to become idle.
const REST: Duration = Duration::from_secs(1);

pub(super) async fn run(bench: &mut Bench) {
    for round in 1..=bench.plan.rounds {
        eprintln!("memory, round {round}:");
        let farm = Farm::start().await;
        contracts(bench, &farm).await;
        calls(bench, &farm).await;
        let arguments = raw_cdp::arguments(&farm);
        farm.stop().await;
        pages(bench, &arguments).await;
    }
}

/// The additional memory of a worker, including its browser, for each further contract.
async fn contracts(bench: &mut Bench, farm: &Farm) {
    let worker = farm.workers[0].pid();
    farm.client().must_load("first", &add(0)).await;
    wait::pass(REST).await;
    let before = tree_pss_mib(worker);
    for number in 1..=PAGES {
        let address = format!("c{number}");
        let executable = format!("{{ add: (a) => a + {number} }}");
        farm.client().must_load(&address, &executable).await;
    }
    wait::pass(REST).await;
    note_each(bench, names::CONTRACT_MEMORY, before, tree_pss_mib(worker));
    let figures = &mut bench.figures;
    let mib = rss_kib(farm.apis[0].pid()) / 1024.0;
    figures.note(names::API_MEMORY, Metric::Mib, mib);
    figures.note(names::WORKER_MEMORY, Metric::Mib, rss_kib(worker) / 1024.0);
}

/// The additional memory of a browser for each further page in its own context and process.
async fn pages(bench: &mut Bench, arguments: &[String]) {
    let browser = raw_cdp::browser(arguments).await;
    let pid = browser.process.pid();
    open_apart(&browser).await;
    wait::pass(REST).await;
    let before = tree_pss_mib(pid);
    for _ in 0..PAGES {
        open_apart(&browser).await;
    }
    wait::pass(REST).await;
    note_each(bench, names::PAGE_MEMORY, before, tree_pss_mib(pid));
    browser.stop().await;
}

async fn open_apart(browser: &Browser) {
    let context = CreateBrowserContextParams::default();
    let context = browser.cdp.execute(context).await;
    let mut page = CreateTargetParams::new("about:blank");
    page.browser_context_id = Some(context.expect("a context").result.browser_context_id);
    browser.cdp.new_page(page).await.expect("a page");
}

fn note_each(bench: &mut Bench, name: &str, before: Option<f64>, after: Option<f64>) {
    match (before, after) {
        (Some(before), Some(after)) => {
            let each = (after - before) / f64::from(PAGES);
            bench.figures.note(name, Metric::Mib, each);
        }
        _ => bench.figures.skip(&format!(
            "{name}: only root may see what Chromium's processes have"
        )),
    }
}

/// The additional memory of an api for connections, and then for a call in flight on each. The api
/// is new, because an allocator reuses what it kept, which would hide the difference.
async fn calls(bench: &mut Bench, farm: &Farm) {
    let (client, api) = (farm.client(), farm.apis[0].pid());
    let at = address_of(farm);
    let port = at.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let port = port.expect("it is HOST:PORT");
    client.must_load("later", LATER).await;
    client.execute("later", "later", &json!(1)).await.data();
    let before = rss_kib(api);
    let callers: Vec<Client> = (0..CALLS).map(|_| Client::new(port)).collect();
    for caller in &callers {
        caller.get("/healthz").await;
    }
    let connected = rss_kib(api);
    let mut calls = JoinSet::new();
    for client in callers {
        calls.spawn(async move {
            let answer = client.execute("later", "later", &json!(CALL_MS)).await;
            answer.data();
        });
    }
    let mut most = connected;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(CALL_MS) {
        wait::pass(Duration::from_millis(50)).await;
        most = most.max(rss_kib(api));
    }
    calls.join_all().await;
    let each = |more: f64| more / f64::from(CALLS);
    let figures = &mut bench.figures;
    figures.note(
        names::CONNECTION_MEMORY,
        Metric::Kib,
        each(connected - before),
    );
    figures.note(names::CALL_MEMORY, Metric::Kib, each(most - connected));
}
