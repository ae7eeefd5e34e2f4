//! S12: the source maps that authors of contracts may bring along for the api, and what their
//! contracts write to the console. The api and Redis are shared by everybody, so their memory and
//! their time are what these aim at.

use reqwest::Method;
use serde_json::json;

use crate::attack::Expect::Fails;
use crate::attack::shown;
use crate::attack_farm::{AttackFarm, Browser, rss_kib};
use crate::support::client::{send, try_send};

/// What the api may keep of an attack, in KiB.
const KEPT_KIB: u64 = 200 << 10;

/// Runs the group.
pub(crate) async fn run(target: &mut AttackFarm) {
    map_beside_executable(target).await;
    map_within_executable(target).await;
    console(target).await;
    kept_console(target).await;
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
                let kept = client.get("/contracts/console/logs").await;
                client.unload("console").await.is_no_content();
                let lines = kept.body.matches("event: line").count();
                // A line has 1,024 bytes, and what is around it 200 at most.
                if kept.status != 200 || lines == 0 || lines > 256 || kept.body.len() > 320 << 10 {
                    return Err(format!("{lines} lines: {}", shown(&kept)));
                }
                Ok(format!("{lines} lines, {} bytes", kept.body.len()))
            })
            .await;
    }
}
