//! Contracts that are loaded but not called: records in Redis that must not slow down the one
//! contract that is called. They have no pages. As after a restart of all workers, each waits for
//! its next call to be assigned. Pages for a thousand contracts would measure the machine's memory
//! instead.

use futures::StreamExt;
use futures::stream::iter;
use redis::{cmd, pipe};

use super::{Bench, Javascript};
use crate::contracts::{ADD, ADD_BODY, path};
use crate::names;
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::wrk::Load;

const CONTRACTS: usize = 1000;

/// Concurrent unloads.
const CONCURRENT_LOADS: usize = 16;

/// Alone, twice with the idle contracts, alone: so a slow drift affects both cases equally.
pub(super) async fn run(bench: &mut Bench, farm: &Javascript) {
    let paths = [path("abcd", "add")];
    let load = bench.load(&farm.at, &paths, ADD_BODY, 64);
    let first = bench.wrk.run(&load).await;
    fill(&farm.farm).await;
    twice(bench, names::REGISTRY_FULL, &load).await;
    clear(farm.farm.client()).await;
    let last = bench.wrk.run(&load).await;
    bench
        .figures
        .note_run(names::REGISTRY_EMPTY, &first.and(&last));
}

async fn twice(bench: &mut Bench, name: &str, load: &Load<'_>) {
    let first = bench.wrk.run(load).await;
    let last = bench.wrk.run(load).await;
    bench.figures.note_run(name, &first.and(&last));
}

fn address(number: usize) -> String {
    format!("idle-{number}")
}

/// Loads one contract normally and copies its record in Redis, without the owner.
async fn fill(farm: &Farm) {
    let client = farm.client();
    client.must_load("idle", ADD).await;
    let digest = client.contract("idle").await["digest"].clone();
    let digest = digest.as_str().expect("a digest is text");
    let prefix = farm.prefix();
    let mut connection = farm.redis.connection().await;
    let load = cmd("HGET")
        .arg(format!("{prefix}{{c:idle}}"))
        .arg("load")
        .query_async::<String>(&mut connection)
        .await
        .expect("the farm's Redis answers");
    let mut commands = pipe();
    for address in (0..CONTRACTS).map(address) {
        let record = format!("{prefix}{{c:{address}}}");
        let model = format!("{prefix}{{c:idle}}");
        commands.cmd("COPY").arg(model).arg(&record).ignore();
        commands
            .cmd("HSET")
            .arg(record)
            .arg(&["owner", ""])
            .ignore();
        let referrers = format!("{prefix}{{blob:{digest}}}:refs");
        let reference = format!("{address}@{load}");
        commands.cmd("SADD").arg(referrers).arg(reference).ignore();
        let registry = format!("{prefix}contracts");
        commands
            .cmd("ZADD")
            .arg(registry)
            .arg(0)
            .arg(&address)
            .ignore();
    }
    let done = commands.query_async::<()>(&mut connection).await;
    done.expect("the farm's Redis answers");
    client.unload("idle").await.is_no_content();
    let loaded = client.contracts().await.len();
    assert_eq!(loaded, CONTRACTS + 1, "the idle ones and the hot one");
}

async fn clear(client: &Client) {
    iter(0..CONTRACTS)
        .map(async |number| client.unload(&address(number)).await.is_no_content())
        .buffer_unordered(CONCURRENT_LOADS)
        .collect::<()>()
        .await;
}
