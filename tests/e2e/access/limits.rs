//! What keys, tenants and contracts may use, and what they have used.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::{SCOPES, of_tenant, start, stop};
use crate::support::client::{Answer, Client, send};
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

const CONTRACT: &str =
    "{ echo: (a) => a, slow: () => new Promise((done) => setTimeout(done, 700)) }";

/// A client with a new key with limits.
async fn limited(admin: &Client, limits: Value) -> Client {
    let wanted = json!({ "scopes": ["contracts:execute"], "limits": limits });
    let answer = admin.post("/keys", &wanted).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.json()["limits"], limits);
    admin.as_caller(answer.json()["key"].as_str().expect("a key"))
}

async fn limit_tenant(admin: &Client, tenant: &str, limits: &Value) -> Answer {
    send(
        admin
            .request(Method::PUT, &format!("/tenants/{tenant}"))
            .json(limits),
    )
    .await
}

/// Calls without a pause, with so many clients at once, for so long.
async fn flood(clients: Vec<&Client>, address: &str, time: Duration) -> Vec<Answer> {
    let begun = Instant::now();
    let floods = clients.iter().map(async |client| {
        let mut answers = Vec::new();
        while begun.elapsed() < time {
            answers.push(client.call(address, "echo").await);
        }
        answers
    });
    let answers = join_all(floods).await.concat();
    // Each refusal takes 100 ms, so that they cost others little.
    let tenths = usize::try_from(time.as_millis() / 100).expect("a short time");
    let most = clients.len() * (tenths + 1);
    let refused = count(&answers, 429);
    assert!(refused <= most, "{refused} refusals");
    answers
}

fn count(answers: &[Answer], status: u16) -> usize {
    answers
        .iter()
        .filter(|answer| answer.status == status)
        .count()
}

/// Checks a refusal, and returns its headers `RateLimit` and `RateLimit-Policy`.
fn refusal(answer: &Answer) -> (String, String) {
    let body = answer.error(429, "rate_limited");
    assert_eq!(body["started"], false, "{body}");
    let seconds = answer
        .header("retry-after")
        .and_then(|text| text.parse().ok());
    assert!(
        seconds.is_some_and(|seconds: u64| (1..=60).contains(&seconds)),
        "{answer:?}"
    );
    let header = |name: &str| answer.header(name).unwrap_or_default().to_owned();
    (header("ratelimit"), header("ratelimit-policy"))
}

/// The rate holds for all apis together, but for a slice each; and it is of no concern to others.
#[tokio::test]
async fn a_flood_by_one_key_is_refused_and_another_key_is_not() {
    const RATE: u32 = 40;
    let farm = start(Farm::builder().apis(2)).await;
    let [one, two] = &farm.clients[..] else {
        unreachable!("two apis were asked for")
    };
    one.must_load("abcd", CONTRACT).await;
    let key = limited(one, json!({ "callsPerSecond": RATE })).await;
    let at_two = |client: &Client| Client::at(client, two.port());
    let other_api = at_two(&key);
    let flooding: Vec<_> = (0..16)
        .map(|n| if n % 2 == 0 { &key } else { &other_api })
        .collect();
    let patient = super::caller(one, &["contracts:execute"]).await;
    let begun = Instant::now();
    let time = Duration::from_secs(4);
    let (flooded, answered) = tokio::join!(
        flood(flooding, "abcd", time),
        flood(vec![&patient], "abcd", time)
    );
    let took = begun.elapsed().as_secs_f64();
    assert_eq!(
        count(&answered, 200),
        answered.len(),
        "the other key is answered"
    );
    assert!(answered.len() > 20, "{}", answered.len());
    let let_in = count(&flooded, 200);
    let refused: Vec<_> = flooded
        .iter()
        .filter(|answer| answer.status == 429)
        .collect();
    assert_eq!(let_in + refused.len(), flooded.len());
    let (state, policy) = refusal(refused.first().expect("most calls are refused"));
    assert!(state.starts_with("\"key-calls\";r=0;t="), "{state}");
    assert_eq!(policy, "\"key-calls\";q=40;w=1");
    // A burst of a second's worth, the rate, and a slice of a tenth for each api.
    let rate = f64::from(RATE);
    #[expect(clippy::cast_precision_loss, reason = "a few hundred calls")]
    let let_in = let_in as f64;
    let most = rate + rate * took + 2.0 * rate / 10.0 + 1.0;
    assert!(let_in <= most, "{let_in} calls of {most} in {took} s");
    assert!(let_in >= rate * 3.0, "{let_in} calls in {took} s");
    let metrics = one.get("/metrics").await.body;
    let metrics = metrics + &two.get("/metrics").await.body;
    let line = "execution_api_rate_limited_total{by=\"key\",limit=\"calls\"} ";
    assert!(
        metrics
            .lines()
            .any(|l| l.strip_prefix(line).is_some_and(|n| n != "0"))
    );
    stop(farm).await;
}

#[tokio::test]
async fn calls_in_flight_are_bounded() {
    let farm = start(Farm::builder()).await;
    let admin = farm.client();
    admin.must_load("abcd", CONTRACT).await;
    let key = limited(admin, json!({ "callsInFlight": 2 })).await;
    let calls = join_all((0..5).map(|_| key.call("abcd", "slow"))).await;
    assert_eq!(count(&calls, 200), 2, "{calls:?}");
    let refused = calls
        .iter()
        .find(|answer| answer.status == 429)
        .expect("three");
    let (_, policy) = refusal(refused);
    assert_eq!(policy, "\"key-in_flight\";q=2;qu=\"concurrent-requests\"");
    key.call("abcd", "echo").await.data();
    for wrong in [
        json!({ "callsPerSecond": 0 }),
        json!({ "calls": 1 }),
        json!({ "cpuMsPerMinute": -1 }),
    ] {
        let wanted = json!({ "scopes": ["contracts:execute"], "limits": wrong });
        admin
            .post("/keys", &wanted)
            .await
            .error(400, "invalid_request");
    }
    stop(farm).await;
}

/// All keys of a tenant share its limits. Another tenant's calls are all answered meanwhile.
#[tokio::test]
async fn a_flood_by_one_tenant_is_not_felt_by_another() {
    let farm = start(Farm::builder()).await;
    let admin = farm.client();
    let [first, second] = [
        of_tenant(admin, "acme", &SCOPES).await,
        of_tenant(admin, "acme", &SCOPES).await,
    ];
    let other = of_tenant(admin, "other", &SCOPES).await;
    first.must_load("abcd", CONTRACT).await;
    other.must_load("abcd", CONTRACT).await;
    limit_tenant(
        admin,
        "acme",
        &json!({ "callsPerSecond": 20, "callsInFlight": 8 }),
    )
    .await
    .is_no_content();
    let flooding: Vec<_> = (0..32)
        .map(|n| if n % 2 == 0 { &first } else { &second })
        .collect();
    let time = Duration::from_secs(3);
    let (flooded, answered) = tokio::join!(
        flood(flooding, "abcd", time),
        flood(vec![&other, &other], "abcd", time)
    );
    assert_eq!(count(&answered, 200), answered.len());
    assert!(answered.len() > 20, "{}", answered.len());
    let let_in = count(&flooded, 200);
    assert!((20..=20 * 5).contains(&let_in), "{let_in}");
    assert_eq!(let_in + count(&flooded, 429), flooded.len());
    let refused = flooded
        .iter()
        .find(|answer| answer.status == 429)
        .expect("most");
    let (_, policy) = refusal(refused);
    assert!(policy.starts_with("\"tenant-"), "{policy}");

    let shown = admin.get("/tenants/acme").await.json();
    assert_eq!(shown["limits"]["callsPerSecond"], 20, "{shown}");
    assert_eq!(admin.get("/tenants").await.json(), json!([shown]));
    for path in ["/tenants", "/tenants/acme"] {
        first.get(path).await.error(403, "insufficient_scope");
    }
    limit_tenant(&first, "acme", &json!({}))
        .await
        .error(403, "insufficient_scope");
    limit_tenant(admin, "Acme", &json!({}))
        .await
        .error(400, "invalid_request");
    let remove = async || send(admin.request(Method::DELETE, "/tenants/acme")).await;
    remove().await.is_no_content();
    remove().await.error(404, "tenant_not_found");
    let free = flood(vec![&first, &second], "abcd", Duration::from_millis(300)).await;
    assert_eq!(count(&free, 200), free.len());
    stop(farm).await;
}

#[tokio::test]
async fn limits_are_objects_within_their_ranges() {
    let farm = start(Farm::builder().workers(0)).await;
    let admin = farm.client();
    let wanted = |limits| json!({ "scopes": ["contracts:execute"], "limits": limits });
    for limits in [
        // serde would read it as the fields in order.
        json!([null, null, null]),
        json!({ "callsPerSecond": 0 }),
        json!({ "callsInFlight": 1_000_001 }),
        json!({ "cpuMsPerMinute": 10_000_001 }),
    ] {
        let answer = admin.post("/keys", &wanted(limits)).await;
        answer.error(400, "invalid_request");
    }
    let answer = admin.post("/keys", &wanted(Value::Null)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    for limits in [
        json!([100]),
        json!({ "callsPerSecond": 1_000_001 }),
        json!({ "contracts": 0 }),
        json!({ "contracts": 1_000_001 }),
        json!({ "executableBytes": 0 }),
        json!({ "executableBytes": 1_000_000_000_001_u64 }),
    ] {
        let answer = limit_tenant(admin, "acme", &limits).await;
        answer.error(400, "invalid_request");
    }
    let most = json!({ "contracts": 1_000_000, "executableBytes": 1_000_000_000_000_u64 });
    limit_tenant(admin, "acme", &most).await.is_no_content();
    stop(farm).await;
}

/// Also where callers need no key.
#[tokio::test]
async fn a_contract_has_limits_of_its_own() {
    let farm = Farm::builder().start().await;
    let client = farm.client();
    let body = json!({ "contractAddress": "abcd", "executable": CONTRACT,
        "limits": { "callsPerSecond": 5, "callsInFlight": 3 } });
    client
        .post("/loadSmartContract", &body)
        .await
        .is_no_content();
    client.must_load("free", CONTRACT).await;
    let (limited, free) = tokio::join!(
        flood(vec![client; 8], "abcd", Duration::from_secs(2)),
        flood(vec![client; 2], "free", Duration::from_secs(2))
    );
    assert_eq!(count(&free, 200), free.len());
    let let_in = count(&limited, 200);
    assert!((5..=5 + 5 * 3).contains(&let_in), "{let_in}");
    let refused = limited
        .iter()
        .find(|answer| answer.status == 429)
        .expect("most");
    let (_, policy) = refusal(refused);
    assert!(policy.starts_with("\"contract-"), "{policy}");
    let limits = &client.contract("abcd").await["limits"];
    assert_eq!(limits["callsPerSecond"], 5, "{limits}");
    let wrong = json!({ "contractAddress": "abcd", "executable": CONTRACT,
        "limits": { "callsPerSecond": 0 } });
    client
        .post("/loadSmartContract", &wrong)
        .await
        .error(400, "invalid_request");
    stop(farm).await;
}

#[tokio::test]
async fn a_tenant_has_a_bounded_number_of_contracts_and_bytes() {
    let farm = start(Farm::builder()).await;
    let admin = farm.client();
    let acme = of_tenant(admin, "acme", &SCOPES).await;
    acme.must_load("one", "{ a() {} }").await;
    limit_tenant(admin, "acme", &json!({ "contracts": 2 }))
        .await
        .is_no_content();
    acme.must_load("two", "{ b() {} }").await;
    let refused = acme.load("three", "{ c() {} }").await;
    let body = refused.error(403, "quota_exceeded");
    assert_eq!(body["started"], false, "{body}");
    // The limit of one tenant is not that of another, and a reload is no further contract.
    admin.must_load("three", "{ c() {} }").await;
    acme.must_load("two", "{ b2() {} }").await;
    acme.unload("one").await.is_no_content();
    // Of several at once only one is let in.
    let loads = join_all(["x", "y", "z"].map(|address| acme.load(address, "{ d() {} }"))).await;
    assert!(count(&loads, 204) <= 1, "{loads:?}");
    let large = format!("{{ large() {{ return {:?} }} }}", "x".repeat(2000));
    limit_tenant(admin, "acme", &json!({ "executableBytes": 1500 }))
        .await
        .is_no_content();
    acme.load("large", &large)
        .await
        .error(403, "quota_exceeded");
    acme.must_load("small", "{ e() {} }").await;
    let usage = acme.get("/usage").await.json();
    assert_eq!(usage["limits"]["executableBytes"], 1500, "{usage}");
    assert!(
        usage["executableBytes"]
            .as_u64()
            .is_some_and(|bytes| (10..1500).contains(&bytes))
    );
    stop(farm).await;
}

#[tokio::test]
async fn use_is_shown_by_caller_and_by_contract() {
    let farm = start(Farm::builder().apis(2).env("METRICS_BY_TENANT", "true")).await;
    let admin = farm.client();
    let acme = of_tenant(admin, "acme", &SCOPES).await;
    let other = of_tenant(admin, "other", &SCOPES).await;
    let executable = "{ echo: (a) => a, fail: () => { throw new Error('no') } }";
    acme.must_load("abcd", executable).await;
    other.must_load("abcd", executable).await;
    let at_two = Client::at(&acme, farm.clients[1].port());
    for client in [&acme, &at_two, &acme] {
        client.execute("abcd", "echo", &json!(1)).await.data();
    }
    acme.call("abcd", "fail")
        .await
        .error(500, "execution_failed");
    other.execute("abcd", "echo", &json!(1)).await.data();
    let usage = wait::until("all calls to be counted", DEFAULT_LIMIT, async || {
        let usage = acme.get("/usage").await.json();
        (usage["calls"] == 4).then_some(usage)
    })
    .await;
    assert_eq!(
        (&usage["tenant"], &usage["errors"]),
        (&json!("acme"), &json!(1))
    );
    let contracts = usage["contracts"].as_array().expect("a list");
    assert_eq!(contracts.len(), 1, "{usage}");
    assert_eq!(contracts[0]["contractAddress"], "abcd", "{usage}");
    assert_eq!(contracts[0]["calls"], 4, "{usage}");
    assert_eq!(
        usage["callers"].as_array().map(Vec::len),
        Some(1),
        "{usage}"
    );
    assert_eq!(usage["loadedContracts"], 1, "{usage}");
    let metrics = admin.get("/metrics").await.body;
    let line = "execution_api_tenant_calls_total{tenant=\"other\"} 1";
    assert!(metrics.lines().any(|shown| shown == line), "{metrics}");
    let of_other = admin.get("/usage?tenant=other&days=31").await.json();
    assert_eq!(of_other["calls"], 1, "{of_other}");
    acme.get("/usage?tenant=other")
        .await
        .error(403, "insufficient_scope");
    for wrong in ["days=0", "days=32", "days=x", "limit=0"] {
        acme.get(&format!("/usage?{wrong}"))
            .await
            .error(400, "invalid_request");
    }
    stop(farm).await;
}

/// The processor time that calls have used is taken from the next ones.
#[tokio::test]
async fn processor_time_is_metered_and_bounded() {
    let farm = start(Farm::builder()).await;
    let admin = farm.client();
    let burn =
        "{ burn: () => { const end = performance.now() + 40; while (performance.now() < end); },
        idle: () => 1 }";
    admin.must_load("abcd", burn).await;
    let key = limited(admin, json!({ "cpuMsPerMinute": 400 })).await;
    let mut answered = 0_u64;
    let refused = loop {
        let answer = key.call("abcd", "burn").await;
        if answer.status == 429 {
            break answer;
        }
        answer.data();
        answered += 1;
        // A minute's worth, a slice of a tenth, and the call that goes beyond it.
        assert!(answered <= 40, "{answered} calls of 40 ms");
    };
    assert!(answered >= 3, "{answered}");
    let (state, policy) = refusal(&refused);
    assert!(state.starts_with("\"key-cpu\";r=0;t="), "{state}");
    assert_eq!(policy, "\"key-cpu\";q=400;w=60;qu=\"cpu-milliseconds\"");
    // A call that does not end is charged as well.
    let endless = "{ burn: () => { for (;;); } }";
    let body = json!({ "contractAddress": "endless", "executable": endless,
        "limits": { "timeoutMs": 300 } });
    admin
        .post("/loadSmartContract", &body)
        .await
        .is_no_content();
    let second = limited(admin, json!({ "cpuMsPerMinute": 200 })).await;
    let mut ends = Vec::new();
    for _ in 0..4 {
        ends.push(second.call("endless", "burn").await.outcome());
    }
    assert_eq!(ends.first().map(String::as_str), Some("execution_timeout"));
    assert_eq!(
        ends.last().map(String::as_str),
        Some("rate_limited"),
        "{ends:?}"
    );
    // What it has used is shown, and another key may go on.
    admin.call("abcd", "burn").await.data();
    let usage = wait::until("all calls to be counted", DEFAULT_LIMIT, async || {
        let usage = admin.get("/usage").await.json();
        (usage["calls"].as_u64() > Some(answered)).then_some(usage)
    })
    .await;
    let used = usage["cpuMs"].as_u64().unwrap_or_default();
    assert!(used >= 100, "{usage}");
    stop(farm).await;
}
