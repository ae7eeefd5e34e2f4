//! S12: what the authors of contracts may bring along for the api, schemas and source maps, and what
//! their contracts write to the console. The api and Redis are shared by everybody, so their memory
//! and their time are what these aim at.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::attack::Expect::{self, Any, Fails, Says};
use crate::attack::shown;
use crate::attack_farm::{AttackFarm, Browser, rss_kib};
use crate::support::client::{Answer, Client, send, try_send};
use crate::support::wait;

/// No call that is refused takes longer, on a machine that is busy with the attack.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the api may keep of an attack, in KiB.
const KEPT_KIB: u64 = 200 << 10;

const CHECKED: Expect = Any(&[Says("1"), Fails(422, "argument_invalid")]);

/// Runs the group.
pub(crate) async fn run(target: &mut AttackFarm) {
    for (name, schema, argument) in checks() {
        let name = format!("a schema: {name}");
        target
            .case("S12", &name, Browser::Stays, async |farm| {
                judged(farm.client(), &schema, &argument).await
            })
            .await;
    }
    let name = "100 calls whose checks explode, beside a neighbour's";
    target
        .case("S12", name, Browser::Stays, async |farm| {
            crowd(farm.client()).await
        })
        .await;
    kept_schemas(target).await;
    map_beside_executable(target).await;
    map_within_executable(target).await;
    console(target).await;
    kept_console(target).await;
}

/// Schemas and arguments whose check takes more than anybody has, or reaches out.
#[expect(clippy::too_many_lines, reason = "a list of attacks")]
fn checks() -> Vec<(&'static str, Value, String)> {
    let next = |index: usize| json!({ "$ref": format!("#/$defs/a{}", index + 1) });
    let twice = |index| json!({ "allOf": [next(index), next(index)] });
    let mut defs: Map<String, Value> = (0..60)
        .map(|index| (format!("a{index}"), twice(index)))
        .collect();
    defs.insert("a60".to_owned(), json!({ "type": "number" }));
    let doubled = json!({ "$ref": "#/$defs/a0", "$defs": defs });
    let chain: Map<String, Value> = (0..900)
        .map(|index| (format!("a{index}"), next(index)))
        .collect();
    let both = json!({ "properties": { "a": { "$ref": "#" } } });
    let deep = |depth| (0..depth).fold(json!(1), |inner, _| json!({ "a": inner }));
    let nested = (0..1000).fold(json!({}), |inner, _| json!({ "items": inner }));
    let text = json!("x".repeat(1_000_000));
    // As text: to drop such a value takes more stack than a thread of a test has.
    let deepest = format!("{}1{}", r#"{"a":"#.repeat(5000), "}".repeat(5000));
    let checks = vec![
        ("2^60 subschemas", doubled, json!(1)),
        (
            "a chain of references",
            json!({ "$ref": "#/$defs/a0", "$defs": chain }),
            json!(1),
        ),
        ("a reference to itself", json!({ "$ref": "#" }), json!(1)),
        (
            "twice at each level",
            json!({ "allOf": [both.clone(), both] }),
            deep(60),
        ),
        ("nested 1000 deep", nested, json!(1)),
        (
            "another host",
            json!({ "$ref": "http://169.254.169.254/latest" }),
            json!(1),
        ),
        ("a file", json!({ "$ref": "file:///etc/passwd" }), json!(1)),
        (
            "a base of another host",
            json!({ "$id": "http://127.0.0.1/", "$ref": "a" }),
            json!(1),
        ),
        (
            "a meta-schema elsewhere",
            json!({ "$schema": "http://127.0.0.1/" }),
            json!(1),
        ),
        (
            "a pattern that backtracks",
            json!({ "pattern": "^(x+x+)+y$" }),
            text.clone(),
        ),
        (
            "a pattern with many states",
            json!({ "pattern": "(a|x)*f.{90}g" }),
            text.clone(),
        ),
        (
            "a pattern that is huge",
            json!({ "pattern": "((a{99}){99}){99}" }),
            text,
        ),
        (
            "a pattern that knows no shortcut",
            json!({ "items": { "pattern": "(x{1,30}){1,20}y" } }),
            json!(vec!["x".repeat(1000); 900]),
        ),
        (
            "400 violations that name all elements",
            json!({ "allOf": vec![json!({ "unevaluatedItems": false }); 400] }),
            json!(vec!["x".repeat(1000); 900]),
        ),
        (
            "an old keyword that hides references",
            json!({ "dependencies": { "a": { "$ref": "#" } } }),
            json!({ "a": 1 }),
        ),
        (
            "800 alternatives of 400,000 elements",
            json!({ "items": { "anyOf": vec![json!({ "const": 1 }); 800] } }),
            json!(vec![2; 400_000]),
        ),
        (
            "a million bytes",
            json!({ "description": "x".repeat(1 << 20) }),
            json!(1),
        ),
    ];
    let mut checks: Vec<_> = checks
        .into_iter()
        .map(|(name, schema, argument)| (name, schema, argument.to_string()))
        .collect();
    let any_object = json!({ "type": "object" });
    checks.push(("an argument nested 5000 deep", any_object, deepest));
    checks
}

async fn load(client: &Client, address: &str, schema: &Value) -> Result<bool, String> {
    let body = json!({
        "contractAddress": address,
        "executable": "{ f: (a) => 1 }",
        "schemas": { "f": { "argument": schema } },
    });
    let answer = client.post("/loadSmartContract", &body).await;
    match answer.status {
        204 => Ok(true),
        400 => Ok(false),
        _ => Err(shown(&answer)),
    }
}

/// 100 checks that explode: they are answered, and those of another contract do not wait for them.
async fn crowd(client: &Client) -> Result<String, String> {
    let strings: Vec<_> = (0..4000).map(|index| format!("v{index}")).collect();
    load(client, "schemas", &json!({ "items": { "enum": strings } })).await?;
    load(client, "beside", &json!({ "items": { "type": "number" } })).await?;
    let argument = json!(vec!["v3999"; 20_000]);
    let calls = (0..100).map(|_| client.execute("schemas", "f", &argument));
    let hostile = futures::future::join_all(calls);
    let neighbour = async {
        // Large enough to be checked apart from calls.
        let argument = json!(vec![1; 20_000]);
        let mut longest = Duration::ZERO;
        for _ in 0..5 {
            let begun = Instant::now();
            let answer = client.execute("beside", "f", &argument).await;
            if answer.status != 200 {
                return Err(shown(&answer));
            }
            longest = longest.max(begun.elapsed());
        }
        Ok(longest)
    };
    let (answers, longest) = futures::future::join(hostile, neighbour).await;
    client.unload("schemas").await;
    client.unload("beside").await;
    let longest = longest?;
    for answer in answers {
        let expected = Any(&[CHECKED, Fails(503, "overloaded")]);
        if let Some(wrong) = expected.mismatch(&answer) {
            return Err(wrong);
        }
    }
    if longest > PATIENCE {
        return Err(format!("the neighbour waited {longest:?}"));
    }
    Ok(format!(
        "answered; the neighbour waited {longest:?} at most"
    ))
}

/// Many different schemas of the largest kinds: the api keeps a bounded part of them.
async fn kept_schemas(target: &mut AttackFarm) {
    let patterns = |round: usize| {
        let pattern = |index: usize| format!("([a-z]{{1,30}}){{1,15}}{round}-{index}");
        let of = |index: usize| (index.to_string(), json!({ "pattern": pattern(index) }));
        json!({ "properties": (0..20).map(of).collect::<Map<_, _>>() })
    };
    let properties = |round: usize| {
        let name = |index: usize| format!("a-property-{round}-{index}-with-a-long-name");
        let of = |index| (name(index), json!({ "type": "number" }));
        json!({ "properties": (0..900).map(of).collect::<Map<_, _>>() })
    };
    let texts = (0..20).map(|index| (index.to_string(), json!("x".repeat(100))));
    let argument = Value::Object(texts.collect());
    target
        .case(
            "S12",
            "60 contracts' largest schemas",
            Browser::Stays,
            async |farm| {
                let client = farm.client();
                let before = rss_kib(farm.apis[0].pid());
                for schema in (0..30).flat_map(|round| [patterns(round), properties(round)]) {
                    if !load(client, "schemas", &schema).await? {
                        return Err(format!("refused: {schema:.100}"));
                    }
                    let answer = client.execute("schemas", "f", &argument).await;
                    if let Some(wrong) = CHECKED.mismatch(&answer) {
                        return Err(wrong);
                    }
                }
                client.unload("schemas").await;
                let kept = rss_kib(farm.apis[0].pid()).saturating_sub(before);
                if kept > KEPT_KIB {
                    return Err(format!("the api keeps {kept} KiB"));
                }
                Ok(format!("the api keeps {kept} KiB"))
            },
        )
        .await;
}

/// The schema is refused, or the call is: in both cases soon.
async fn judged(client: &Client, schema: &Value, argument: &str) -> Result<String, String> {
    let begun = Instant::now();
    if !load(client, "schemas", schema).await? {
        return match begun.elapsed() {
            took if took < PATIENCE => Ok("refused at load".to_owned()),
            took => Err(format!("refused after {took:?}")),
        };
    }
    let begun = Instant::now();
    let answer = client.post_text("/execute/schemas/f", argument).await;
    let took = begun.elapsed();
    client.unload("schemas").await;
    if took > PATIENCE {
        return Err(format!("{took:?}: {}", shown(&answer)));
    }
    CHECKED.mismatch(&answer).map_or(Ok(shown(&answer)), Err)
}

/// What the maps are of.
const CODE: &str = "var f = () => { throw new Error('x') };\nvar init = () => ({ f });";

/// A source map that is larger than what is read.
async fn map_beside_executable(target: &mut AttackFarm) {
    target
        .case(
            "S12",
            "a source map of 100 MB beside the executable",
            Browser::Stays,
            async |farm| {
                let mappings = ";".repeat(100 << 20);
                let body = json!({
                    "contractAddress": "maps",
                    "executable": CODE,
                    "sourceMap": { "version": 3, "mappings": mappings },
                });
                let request = farm
                    .client()
                    .request(Method::POST, "/loadSmartContract")
                    .json(&body);
                match try_send(request).await {
                    Ok(answer) => {
                        let refused = Fails(413, "payload_too_large");
                        refused.mismatch(&answer).map_or(Ok(shown(&answer)), Err)
                    }
                    // The api closes the connection while the client still sends.
                    Err(_) => Ok("closed".to_owned()),
                }
            },
        )
        .await;
}

/// The same in the executable, which may be larger.
async fn map_within_executable(target: &mut AttackFarm) {
    target
        .case(
            "S12",
            "a source map of 60 MB within the executable",
            Browser::Stays,
            async |farm| {
                let client = farm.client();
                let before = rss_kib(farm.apis[0].pid());
                let map = "A".repeat(60 << 20);
                let comment = "//# sourceMappingURL=data:application/json;base64,";
                let body = json!({
                    "contractAddress": "maps",
                    "executable": format!("{CODE}\n{comment}{map}\n"),
                });
                let request = client
                    .request(Method::POST, "/loadSmartContract")
                    .json(&body);
                let loaded = send(request).await;
                if loaded.status != 204 {
                    return Err(shown(&loaded));
                }
                for _ in 0..20 {
                    let answer = client.call("maps", "f").await;
                    let wrong = Fails(500, "execution_failed").mismatch(&answer);
                    if let Some(wrong) = wrong {
                        return Err(wrong);
                    }
                }
                client.unload("maps").await;
                let kept = rss_kib(farm.apis[0].pid()).saturating_sub(before);
                if kept > KEPT_KIB {
                    return Err(format!("the api keeps {kept} KiB"));
                }
                Ok(format!("the api keeps {kept} KiB"))
            },
        )
        .await;
}

/// What contracts write to their console, while a caller asks for it.
async fn console(target: &mut AttackFarm) {
    const FLOODS: [(&str, &str); 8] = [
        (
            "a flood of lines",
            "for (let i = 0; i < 1e5; i += 1) console.log(i)",
        ),
        (
            "a line of 16 MB",
            "console.log('x'.repeat(1 << 24), { a: 'x'.repeat(1 << 24) })",
        ),
        (
            "getters that print",
            "console.log({ get a() { console.log(this); return this } })",
        ),
        (
            "a list that explodes",
            "let d = [1]; for (let i = 0; i < 99; i += 1) d = [d, d]; console.log(d)",
        ),
        (
            "a console that is replaced",
            "console = { get log() { throw 1 } }; console.log(1)",
        ),
        (
            "methods that are replaced",
            "console.log = () => { throw 1 }; JSON.stringify = Array.prototype.push = null; console.info(1)",
        ),
        (
            "a hundred thousand timers",
            "for (let i = 0; i < 1e5; i += 1) console.time(i)",
        ),
        ("lone surrogates", "console.log('\\ud800'.repeat(9999))"),
    ];
    for (name, body) in FLOODS {
        let name = format!("console: {name}");
        target
            .case("S12", &name, Browser::Stays, async |farm| {
                let client = farm.client();
                let executable = format!("{{ f() {{ {body}; throw Error('end') }} }}");
                client.must_load("console", &executable).await;
                let request = client.request(Method::POST, "/execute/console/f");
                let answer = send(request.header("Call-Logs", "100")).await;
                client.unload("console").await;
                let logs = answer.json()["logs"].clone();
                let lines = logs.as_array().map_or(0, Vec::len);
                let characters: usize = logs.to_string().chars().count();
                if answer.status != 500 || lines > 101 || characters > 40_000 {
                    return Err(format!("{lines} lines, {characters}: {}", shown(&answer)));
                }
                Ok(format!("{lines} lines, {characters} characters"))
            })
            .await;
    }
}

/// The lines that are kept, once no more are on their way: the pages of a response that is read
/// meanwhile have some that are not kept any more.
async fn all_kept(client: &Client) -> Answer {
    let read = async || client.get("/contracts/console/logs").await;
    let mut last = read().await;
    wait::until("the last line", wait::DEFAULT_LIMIT, async || {
        let next = read().await;
        let before = std::mem::replace(&mut last, next.clone());
        (before.body == next.body).then_some(next)
    })
    .await
}

/// What a contract keeps of its output in Redis, which nobody reads.
async fn kept_console(target: &mut AttackFarm) {
    const FLOODS: [(&str, &str); 2] = [
        ("of long lines", "console.log('x'.repeat(1e4))"),
        (
            "after an await, in many calls at once",
            "await undefined; console.log('x'.repeat(1e4))",
        ),
    ];
    for (name, body) in FLOODS {
        let name = format!("console: a flood that is kept, {name}");
        target
            .case("S12", &name, Browser::Stays, async |farm| {
                let client = farm.client();
                let executable =
                    format!("{{ async f() {{ for (let i = 0; i < 100; i += 1) {{ {body} }} }} }}");
                let load = json!({
                    "contractAddress": "console", "executable": executable, "logs": "keep",
                });
                client
                    .post("/loadSmartContract", &load)
                    .await
                    .is_no_content();
                for _ in 0..10 {
                    let calls = (0..20).map(|_| client.call("console", "f"));
                    futures::future::join_all(calls).await;
                }
                let kept = all_kept(client).await;
                client.unload("console").await.is_no_content();
                let lines = kept.body.matches("event: line").count();
                // 256 KiB are kept, and what is around each line has 200 bytes at most.
                let most = (256 << 10) + lines * 200;
                if kept.status != 200 || !(1..=1000).contains(&lines) || kept.body.len() > most {
                    return Err(format!("{lines} lines: {}", shown(&kept)));
                }
                Ok(format!("{lines} lines, {} bytes", kept.body.len()))
            })
            .await;
    }
}
