//! What the comforts of authors cost: schemas for arguments and results, and lines on the console
//! that nobody reads.

use serde_json::json;

use super::{Bench, address_of};
use crate::contracts::{ADD, ADD_BODY, ADD_WITH_LINE, path};
use crate::names;
use crate::support::client::Client;
use crate::support::farm::Farm;

/// The contracts' addresses.
const PLAIN: &str = "plain";
const CHECKED: &str = "checked";
const TALKATIVE: &str = "talkative";

pub(super) async fn run(bench: &mut Bench) {
    let farm = Farm::builder().start().await;
    let (at, client) = (address_of(&farm), farm.client());
    client.must_load(PLAIN, ADD).await;
    load_with_schemas(client).await;
    client.must_load(TALKATIVE, ADD_WITH_LINE).await;
    let contracts = [
        (names::PLAIN, PLAIN),
        (names::WITH_SCHEMAS, CHECKED),
        (names::WITH_LINES, TALKATIVE),
    ];
    // Warms up connections, caches and compilers.
    for (_, address) in contracts {
        let paths = [path(address, "add")];
        bench.wrk.run(&bench.load(&at, &paths, ADD_BODY, 64)).await;
    }
    for round in 1..=bench.plan.rounds {
        eprintln!("authors, round {round}:");
        let mut turns = contracts;
        // Whatever the machine does meanwhile, it does not always hit the same one.
        turns.rotate_left(round % contracts.len());
        for (name, address) in turns {
            let paths = [path(address, "add")];
            let load = bench.load(&at, &paths, ADD_BODY, 256);
            bench.measure_farm(name, &load).await;
        }
    }
    // wrk disconnects with calls in flight.
    farm.stop_ignoring_keys().await;
}

async fn load_with_schemas(client: &Client) {
    let argument = json!({
        "type": "object",
        "properties": { "number1": { "type": "number" }, "number2": { "type": "number" } },
        "required": ["number1", "number2"],
        "additionalProperties": false,
    });
    let load = json!({
        "contractAddress": CHECKED,
        "executable": ADD,
        "schemas": { "add": { "argument": argument, "result": { "type": "number" } } },
    });
    let loaded = client.post("/loadSmartContract", &load).await;
    loaded.is_no_content();
}
