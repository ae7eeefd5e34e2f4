//! S6 to S8: what clients and contracts occupy together: texts, the store, connections and bodies.
//!
//! Each case runs on a farm with small limits, beside a neighbour. Its control is the same attack
//! on a farm whose limits are out of reach, or with complete requests, which may hold permits.

mod clients;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::attack::shown;
use crate::attack_farm::{AttackFarm, Browser};
use crate::report::Report;
use crate::support::client::{Answer, Client};
use crate::support::farm::{Builder, Farm};
use crate::support::scrape::Scrape;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// Calls in flight, of one contract and of all.
const PER_CONTRACT: usize = 32;
const IN_FLIGHT: usize = 100;
/// Connections of one api.
const CONNECTIONS: usize = 200;
/// The largest load, and what the bodies of all loads may have together.
const LOAD_BYTES: usize = 8 << 20;
const ALL_LOADS: usize = 16 << 20;
/// What all executables may take.
const STORE: usize = 4 << 20;
/// The most bytes of a failure's response, whatever it quotes.
const TEXT: usize = 20_000;

/// A contract whose calls take as long as their caller says.
const SLOW: &str = "{ ping: () => 'pong', slow: (ms) => new Promise((r) => setTimeout(r, ms)) }";

/// A farm that attackers can fill.
fn farm() -> Builder {
    Farm::builder()
        .env("MAX_IN_FLIGHT", &IN_FLIGHT.to_string())
        .env("MAX_IN_FLIGHT_PER_CONTRACT", &PER_CONTRACT.to_string())
        .env("MAX_CONNECTIONS", &CONNECTIONS.to_string())
        .env("LOAD_BODY_LIMIT_BYTES", &LOAD_BYTES.to_string())
        .env("MAX_BODY_BYTES_IN_FLIGHT", &(3 * LOAD_BYTES).to_string())
        .env("EXECUTABLES_LIMIT_BYTES", &STORE.to_string())
}

/// The same with limits that the attacks do not reach.
fn open_farm() -> Builder {
    Farm::builder()
        .env("LOAD_BODY_LIMIT_BYTES", &LOAD_BYTES.to_string())
        .env("MAX_BODY_BYTES_IN_FLIGHT", "1000000000")
}

/// Runs the cases and their controls.
pub(crate) async fn run() -> Report {
    let mut target = AttackFarm::start(farm()).await;
    texts(&mut target).await;
    store(&mut target).await;
    clients::bodies_without_end(&mut target).await;
    clients::connections(&mut target).await;
    clients::loads_without_end(&mut target).await;
    let mut report = target.end().await;
    report.join(full_redis().await);
    let mut bare = AttackFarm::bare(open_farm()).await;
    clients::controls(&mut bare).await;
    store_control(&mut bare).await;
    report.join(bare.end().await);
    report
}

/// S6: every text that leaves is cut.
async fn texts(target: &mut AttackFarm) {
    let long = "c".repeat(3_000_000);
    let load = |executable: &str| json!({ "contractAddress": "s6", "executable": executable });
    let mut with_limits = load("{ a: () => 1 }");
    with_limits["limits"] = json!({ long.as_str(): 1 });
    let mut with_engine = load("{ a: () => 1 }");
    with_engine["engine"] = json!(long);
    for (name, body) in [
        (
            "a syntax error of 3 MB",
            load(&format!("{{ a: b {long} }}")),
        ),
        ("an unknown limit of 3 MB", with_limits),
        ("an engine of 3 MB", with_engine),
        (
            "an address of 3 MB",
            json!({ "contractAddress": long, "executable": "x" }),
        ),
    ] {
        target
            .case("S6", name, Browser::Stays, async |farm| {
                let answer = farm.client().post("/loadSmartContract", &body).await;
                is_short(&answer, &[400, 422])
            })
            .await;
    }
    target
        .case("S6", "names of endpoints", Browser::Stays, async |farm| {
            let client = farm.client();
            let names = (0..60).map(|n| format!("'{}{n}': () => 1", "n".repeat(250)));
            let names: Vec<_> = names.collect();
            client
                .must_load("s6", &format!("{{ {} }}", names.join(", ")))
                .await;
            let answer = client.call("s6", &"z".repeat(5000)).await;
            client.unload("s6").await.is_no_content();
            is_short(&answer, &[404])
        })
        .await;
}

fn is_short(answer: &Answer, statuses: &[u16]) -> Result<String, String> {
    let length = answer.body.len();
    if statuses.contains(&answer.status) && length <= TEXT {
        return Ok(format!("{}, {length} bytes", answer.status));
    }
    Err(format!("{length} bytes: {}", shown(answer)))
}

/// S7: executables beyond their quota.
async fn store(target: &mut AttackFarm) {
    target
        .case(
            "S7",
            "executables beyond their quota",
            Browser::Stays,
            async |farm| {
                let client = farm.client();
                let answers = load_distinct(client).await;
                let refused = answers.iter().filter(|answer| answer.status != 204);
                let refused: Vec<_> = refused.collect();
                let sum: usize = farm
                    .redis_command(&["HGET", "exec:executables", "sum"])
                    .await;
                let small = client.load("s7", "{ a: () => 'small' }").await;
                client.unload("s7").await.is_no_content();
                let told = refused
                    .iter()
                    .all(|answer| answer.json()["code"] == "no_capacity");
                (refused.len() == 4 && told && sum <= STORE && small.status == 204)
                    .then(|| format!("4 refused, {sum} bytes"))
                    .ok_or_else(|| {
                        format!("{} refused, {sum} bytes, then {small:?}", refused.len())
                    })
            },
        )
        .await;
}

/// S7: the memory of Redis up to its limit. Its neighbour is refused as well, so there is none.
async fn full_redis() -> Report {
    let mut target = AttackFarm::bare(farm()).await;
    let start = Instant::now();
    let outcome = fill_redis(&target.farm).await;
    let control = Some(Ok("the same requests are taken before and after".to_owned()));
    target.note("S7", "a full Redis", outcome, control, start.elapsed());
    target.end().await
}

async fn fill_redis(farm: &Farm) -> Result<String, String> {
    let client = farm.client();
    client.must_load("s7", SLOW).await;
    client.call("s7", "ping").await.data();
    // A tenth of it is room enough for what goes on.
    let filler: [&str; 4] = ["SETRANGE", "filler", "50000000", "x"];
    farm.redis_command::<()>(&filler).await;
    let used = farm.used_memory().await;
    let mut seen = Vec::new();
    for (percent, expected) in [(75, [503, 200]), (90, [503, 503])] {
        let limit = used * 100 / percent;
        farm.config_set("maxmemory", &limit.to_string()).await;
        wait::until_true("the api to notice", DEFAULT_LIMIT, async || {
            let load = client.load("s7", SLOW).await.status;
            [load, client.call("s7", "ping").await.status] == expected
        })
        .await;
        seen.push(client.get("/readyz").await.json()["refuses"].clone());
    }
    let unloaded = client.unload("s7").await;
    let metrics = Scrape::of(client).await;
    farm.redis_command::<()>(&["DEL", "filler"]).await;
    farm.config_set("maxmemory", "0").await;
    wait::until_true("everything to be taken again", DEFAULT_LIMIT, async || {
        client.get("/readyz").await.json()["status"] == "ready"
    })
    .await;
    client.must_load("s7", SLOW).await;
    let told = seen == [json!(["loads"]), json!(["loads", "calls"])];
    let metric = metrics.count("execution_api_refuses{kind=\"call\"}") == 1;
    (told && metric && unloaded.status == 204)
        .then(|| "loads are refused, then calls, unloads never".to_owned())
        .ok_or_else(|| format!("{seen:?}, unload: {}", shown(&unloaded)))
}

/// Loads eight executables of a megabyte each, one after the other.
async fn load_distinct(client: &Client) -> Vec<Answer> {
    let mut answers = Vec::new();
    for number in 0..8 {
        let source = format!("{{ a: () => {number} }}//{}", "y".repeat(1_000_000));
        answers.push(client.load("s7", &source).await);
    }
    answers
}

/// The same loads where the quota is out of reach.
async fn store_control(bare: &mut AttackFarm) {
    let answers = load_distinct(bare.client()).await;
    let taken = answers.iter().filter(|answer| answer.status == 204).count();
    let control = match taken {
        8 => Ok("without the quota all are loaded".to_owned()),
        _ => Err(format!("{taken} were loaded")),
    };
    let (name, outcome) = ("executables beyond their quota", Ok(String::new()));
    bare.note("S7", name, outcome, Some(control), Duration::ZERO);
}
