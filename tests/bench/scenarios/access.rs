//! What keys cost: calls with and without them, with 10,000 of them, and beside a key that floods
//! the farm over its rate.

use futures::StreamExt;
use futures::stream::iter;
use serde_json::{Value, json};

use super::{Bench, address_of};
use crate::contracts::{ADD, ADD_BODY, path};
use crate::names;
use crate::support::client::{Answer, Client};
use crate::support::farm::Farm;
use crate::support::process::Process;
use crate::support::programs;
use crate::support::wait::DEFAULT_LIMIT;
use crate::wrk::Load;

/// How many keys a farm of many has.
const MANY_KEYS: usize = 10_000;

/// Keys that are created at once.
const AT_ONCE: usize = 16;

/// The calls a second of the key that floods. Its calls take a small part of the farm.
const FLOOD_RATE: u32 = 200;

/// The connections of the flood.
const FLOOD: u32 = 64;

/// The connections of the callers beside it.
const CALLERS: u32 = 4;

/// A farm whose callers need a key.
struct Guarded {
    farm: Farm,
    at: String,
    admin: Client,
    key: String,
}

pub(super) async fn run(bench: &mut Bench) {
    let open = Farm::builder().start().await;
    open.client().must_load("abcd", ADD).await;
    let open_at = address_of(&open);
    let (few, many) = (Guarded::start().await, Guarded::start().await);
    many.create_keys(bench.plan.is_quick()).await;
    let paths = [path("abcd", "add")];
    let flooding = few.create(json!({ "callsPerSecond": FLOOD_RATE })).await;
    // Warms up connections, caches and compilers.
    for (at, key) in [
        (&open_at, None),
        (&few.at, Some(few.key.as_str())),
        (&many.at, Some(many.key.as_str())),
    ] {
        bench.wrk.run(&with(bench, at, &paths, 64, key)).await;
    }
    for round in 1..=bench.plan.rounds {
        eprintln!("access, round {round}:");
        let mut turns = [
            (names::OPEN, &open_at, None),
            (names::WITH_KEYS, &few.at, Some(few.key.as_str())),
            (names::WITH_MANY_KEYS, &many.at, Some(many.key.as_str())),
        ];
        // Whatever the machine does meanwhile, it does not always hit the same one.
        let count = turns.len();
        turns.rotate_left(round % count);
        for (name, at, key) in turns {
            let load = with(bench, at, &paths, 256, key);
            bench.measure(name, &load).await;
        }
        let calls = with(bench, &few.at, &paths, CALLERS, Some(&few.key));
        bench.measure(names::KEY_ALONE, &calls).await;
        // Nearly all of its calls are refused, as they should be.
        let flood = with(bench, &few.at, &paths, FLOOD, Some(&flooding));
        let (_, calls) = tokio::join!(bench.wrk.run(&flood), bench.wrk.run(&calls));
        bench.figures.note_run(names::KEY_BESIDE_FLOOD, &calls);
    }
    for farm in [few.farm, many.farm, open] {
        // wrk disconnects with calls in flight.
        farm.stop_ignoring_keys().await;
    }
}

fn with<'a>(
    bench: &Bench,
    at: &'a str,
    paths: &'a [String],
    connections: u32,
    key: Option<&'a str>,
) -> Load<'a> {
    Load {
        key,
        ..bench.load(at, paths, ADD_BODY, connections)
    }
}

impl Guarded {
    async fn start() -> Self {
        let farm = Farm::builder().env("AUTH", "keys").start().await;
        let mut command = programs::api();
        command
            .env("REDIS_URL", farm.redis.url())
            .env("REDIS_PREFIX", farm.prefix())
            .args(["keys", "create", "--admin"]);
        let mut process = Process::start("keys", command, farm.folder());
        let status = process.end(DEFAULT_LIMIT).await;
        let printed = process.log();
        assert!(status.success(), "{printed}");
        let admin = farm.client().as_caller(printed.trim());
        admin.must_load("abcd", ADD).await;
        let mut guarded = Self {
            at: address_of(&farm),
            farm,
            admin,
            key: String::new(),
        };
        guarded.key = guarded.create(json!({})).await;
        guarded
    }

    /// A key that may call contracts.
    async fn create(&self, limits: Value) -> String {
        let wanted = json!({ "scopes": ["contracts:execute"], "limits": limits });
        let created: Answer = self.admin.post("/keys", &wanted).await;
        assert_eq!(created.status, 201, "{created:?}");
        let key = created.json()["key"].as_str().map(str::to_owned);
        key.expect("the response has the key")
    }

    async fn create_keys(&self, is_quick: bool) {
        let count = if is_quick { MANY_KEYS / 20 } else { MANY_KEYS };
        let keys = iter(0..count).map(|_| self.create(json!({})));
        let created = keys.buffer_unordered(AT_ONCE).count().await;
        assert_eq!(created, count);
    }
}
