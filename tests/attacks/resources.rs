//! R: contracts that use too many resources. Each row states the expected answer and whether the
//! contract must be recreated.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::Value;

use crate::attack::Expect::{Any, Fails, Says};
use crate::attack::{Expect, contract, shown};
use crate::attack_farm::{AttackFarm, Browser, NEIGHBOUR_LATENCY, address};
use crate::support::client::Client;
use crate::support::farm::{Builder, Farm};
use crate::support::wait::{self, DEFAULT_LIMIT};

/// A farm with small limits that are reached soon.
pub(crate) fn farm() -> Builder {
    Farm::builder()
        .env("EXECUTE_TIMEOUT_MS", "600")
        .env("LOAD_TIMEOUT_MS", "1500")
        .env("CHROMIUM_HEAP_MB", "64")
        .env("CHROMIUM_CONTRACT_MB", "256")
        .env("CHROMIUM_BROWSER_MB", "384")
        .env("IDLE_CPU_MS", "300")
}

/// One way to use too many resources.
#[derive(Debug, Clone, Copy)]
struct Overuse {
    row: &'static str,
    name: &'static str,
    code: &'static str,
    expect: Expect,
    after: After,
}

/// What happens to the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// It keeps its page.
    Kept,
    /// It is recreated.
    Recreated,
    /// Both are allowed.
    Either,
}

const TIMEOUT: Expect = Fails(504, "execution_timeout");
const CRASH: Expect = Fails(500, "contract_crashed");
const THROWS: Expect = Fails(500, "execution_failed");
const TOO_LARGE: Expect = Fails(500, "result_too_large");
const NOT_JSON: Expect = Fails(500, "result_not_json");
/// Whichever limit is reached first.
const STOPPED: Expect = Any(&[TIMEOUT, CRASH, THROWS, TOO_LARGE]);
const HARMLESS: Expect = Any(&[Says("\"done\""), TIMEOUT, CRASH, THROWS]);
const DONE: Expect = Says("\"done\"");

const fn overuse(
    row: &'static str,
    name: &'static str,
    code: &'static str,
    expect: Expect,
    after: After,
) -> Overuse {
    Overuse {
        row,
        name,
        code,
        expect,
        after,
    }
}

const ALL: &[Overuse] = &[
    overuse("R1", "endless loop", "for (;;) {}", TIMEOUT, After::Recreated),
    overuse("R2", "endless microtasks", "for (;;) await 0", TIMEOUT, After::Recreated),
    overuse("R2", "endless microtasks after the answer",
        "(async () => { for (;;) await 0 })(); return 'done'", HARMLESS, After::Either),
    overuse("R3", "endless loop in a worker",
        "const w = new Worker(URL.createObjectURL(new Blob(['postMessage(1); for (;;) {}'])));
         return await new Promise((r) => { w.onmessage = () => r('ran'); w.onerror = () => r('done'); setTimeout(r, 300, 'done') })", DONE, After::Kept),
    overuse("R4", "a timer that burns after the answer",
        "const f = () => { for (const t = Date.now(); Date.now() - t < 30;); setTimeout(f) }; f(); return 'done'", DONE, After::Recreated),
    overuse("R4", "messages that burn after the answer",
        "const c = new MessageChannel(); c.port1.onmessage = () => { for (let i = 0; i < 1e6; i++); c.port2.postMessage(0) }; c.port2.postMessage(0); return 'done'", DONE, After::Recreated),
    overuse("R4", "the engine's own threads",
        "const k = await crypto.subtle.importKey('raw', new Uint8Array(9), 'PBKDF2', false, ['deriveBits']);
         for (let i = 0; i < 8; i++) crypto.subtle.deriveBits({ name: 'PBKDF2', hash: 'SHA-512', salt: new Uint8Array(9), iterations: 2e7 }, k, 256); return 'done'", DONE, After::Recreated),
    overuse("R5", "a hundred workers",
        "for (let i = 0; i < 100; i++) try { new Worker(URL.createObjectURL(new Blob(['for (;;) {}']))) } catch {} return 'done'", DONE, After::Either),
    overuse("R6", "arrays", "const x = []; for (;;) x.push(new Array(1e4).fill(1.5))", STOPPED, After::Either),
    overuse("R6", "strings", "let s = 'x'; const all = []; for (;;) { s += s + all.length; all.push(s.split('').join('')) }", STOPPED, After::Either),
    overuse("R6", "maps", "const m = new Map(); for (let i = 0; ; i++) m.set(i, { i })", STOPPED, After::Either),
    overuse("R6", "array buffers",
        "const x = []; for (let i = 0; i < 200; i++) x.push(new Uint8Array(16 << 20).fill(1)); return 'done'", STOPPED, After::Either),
    overuse("R6", "WebAssembly memory",
        "const x = []; for (let i = 0; i < 100; i++) { const m = new WebAssembly.Memory({ initial: 512 }); new Uint8Array(m.buffer).fill(1); x.push(m) } return 'done'", STOPPED, After::Either),
    overuse("R6", "canvases",
        "const x = []; for (let i = 0; i < 100; i++) { const c = document.createElement('canvas'); c.width = c.height = 4096; const g = c.getContext('2d'); g.fillRect(0, 0, 4096, 4096); g.getImageData(0, 0, 4096, 4096); x.push(c, g) } return 'done'", HARMLESS, After::Either),
    overuse("R6", "blobs in the browser",
        "globalThis.x = []; const b = new Uint8Array(8 << 20).fill(7); for (let i = 0; i < 200; i++) { x.push(new Blob([b])); await new Promise((r) => setTimeout(r)) } return 'done'", HARMLESS, After::Either),
    overuse("R6", "window.name", "for (let i = 0; i < 20; i++) { window.name = 'n'.repeat(1 << 26) + i; await 0 } return 'done'", HARMLESS, After::Either),
    overuse("R7", "stack overflow", "const f = () => f() + 1; return f()", THROWS, After::Kept),
    overuse("R7", "catastrophic expression", "return /^(a+)+$/.test('a'.repeat(40) + 'b')", TIMEOUT, After::Recreated),
    overuse("R7", "a huge number", "let n = 3n; for (;;) n *= n", STOPPED, After::Either),
    overuse("R7", "JSON of 50 MB", "JSON.parse('[' + '1,'.repeat(25e6) + '1]'); return 'done'", HARMLESS, After::Either),
    overuse("R7", "a sort that never agrees", "const x = []; for (let i = 0; i < 3e6; i++) x.push(i); x.sort(() => Math.random() - 0.5); return 'done'", HARMLESS, After::Either),
    overuse("R8", "dialogs", "alert(1); confirm(2); prompt(3); print(); onbeforeunload = () => 'stay'; return 'done'", DONE, After::Kept),
    overuse("R8", "debugger", "debugger; return 'done'", DONE, After::Kept),
    overuse("R9", "a result of 100 MB", "return 'x'.repeat(1e8)", Any(&[TOO_LARGE, CRASH]), After::Either),
    overuse("R9", "nested 100,000 deep", "let x = []; for (let i = 0; i < 1e5; i++) x = [x]; return x", Any(&[NOT_JSON, THROWS]), After::Kept),
    overuse("R9", "a graph that explodes on paper", "let x = ['xxxxxxxx']; for (let i = 0; i < 40; i++) x = [x, x]; return x", TOO_LARGE, After::Kept),
    overuse("R9", "1 GB on the console", "const s = 'x'.repeat(1e5); for (let i = 0; i < 1e4; i++) console.log(s, i); return 'done'", HARMLESS, After::Either),
    overuse("R10", "a promise that never settles", "return new Promise(() => {})", TIMEOUT, After::Recreated),
    overuse("R10", "10,000 promises that never settle", "globalThis.x = []; for (let i = 0; i < 1e4; i++) x.push(new Promise(() => {})); return Promise.all(x)", TIMEOUT, After::Recreated),
    overuse("R12", "close, reload, back", "close(); location.reload(); history.back(); history.go(-9); stop(); return 'done'", HARMLESS, After::Either),
    overuse("R12", "document.open", "document.open(); document.write('<b>x</b>'); document.close(); document.documentElement.remove(); return 'done'", HARMLESS, After::Either),
    overuse("R13", "graphics", "const had = []; for (const kind of ['webgl', 'webgl2', 'experimental-webgl']) for (const c of [document.createElement('canvas'), new OffscreenCanvas(9, 9)])
         try { if (c.getContext(kind)) had.push(kind) } catch {}
         try { if (await navigator.gpu.requestAdapter()) had.push('gpu') } catch {} return had.length === 0 ? 'done' : had", DONE, After::Kept),
    overuse("R13", "audio and video", "for (let i = 0; i < 50; i++) try { const c = new OfflineAudioContext(2, 44100 * 60, 44100); c.createOscillator().start(); c.startRendering().catch(() => 0) } catch {}
         try { const d = new VideoDecoder({ output() {}, error() {} }); d.configure({ codec: 'vp8' }); for (let i = 0; i < 99; i++) d.decode(new EncodedVideoChunk({ type: 'key', timestamp: i, data: new Uint8Array(99) })) } catch {} return 'done'", HARMLESS, After::Either),
    overuse("R14", "a document of a million elements", "const b = document.documentElement; for (let i = 0; i < 1e6; i++) b.append(document.createElement('p')); return 'done'", HARMLESS, After::Either),
    overuse("R14", "innerHTML of 1 GB", "document.documentElement.innerHTML = '<p>\\u0100'.repeat(1.3e8); return 'done'", STOPPED, After::Either),
    overuse("R15", "crash addresses", "for (const u of ['chrome://crash', 'chrome://kill', 'chrome://hang', 'chrome://gpucrash', 'about:crash']) try { location = u } catch {} await new Promise((r) => setTimeout(r, 100)); return 'done'", HARMLESS, After::Either),
    overuse("R15", "traps of WebAssembly", "const m = new WebAssembly.Module(new Uint8Array([0,97,115,109,1,0,0,0,1,4,1,96,0,0,3,2,1,0,7,5,1,1,102,0,0,10,5,1,3,0,0,11])); new WebAssembly.Instance(m).exports.f()", THROWS, After::Kept),
];

/// A thousand frames are a thousand navigations in the process that all pages share. Only here and
/// beside floods may a neighbour wait longer. `docs/security.md` does not promise more.
const FRAMES_BOUND: Duration = Duration::from_secs(1);

/// How long the attacking contract may be without a page.
const FRAMES_REST: Duration = Duration::from_secs(10);

const FRAMES: Overuse = overuse(
    "R14",
    "frames",
    "for (let i = 0; i < 500; i++) { const f = document.createElement('iframe'); f.srcdoc = '<iframe srcdoc=x></iframe>'; document.documentElement.append(f) } return 'done'",
    HARMLESS,
    After::Either,
);

/// R14, on a farm whose calls may take longer.
pub(crate) async fn frames(target: &mut AttackFarm) {
    target.latency_limit = FRAMES_BOUND;
    target
        .case(FRAMES.row, FRAMES.name, Browser::Stays, async |farm| {
            run_overuse(farm.client(), &FRAMES, FRAMES_REST).await
        })
        .await;
    target.latency_limit = NEIGHBOUR_LATENCY;
}

/// Rows that only `make attack` runs, because they are slow and similar to others.
const SLOW: [&str; 7] = [
    "maps",
    "canvases",
    "JSON of 50 MB",
    "a sort that never agrees",
    "a document of a million elements",
    "innerHTML of 1 GB",
    "audio and video",
];

/// Runs the group.
pub(crate) async fn run(target: &mut AttackFarm, quick: bool) {
    for overuse in ALL {
        if quick && SLOW.contains(&overuse.name) {
            continue;
        }
        // Attacks that fill the browser process may crash it.
        let browser = match overuse.name {
            "blobs in the browser" | "window.name" => Browser::MayGo,
            _ => Browser::Stays,
        };
        target
            .case(overuse.row, overuse.name, browser, async |farm| {
                run_overuse(farm.client(), overuse, Duration::ZERO).await
            })
            .await;
    }
    honest_timer(target).await;
    idle(target).await;
    pending(target).await;
    loads(target).await;
}

async fn run_overuse(client: &Client, overuse: &Overuse, rest: Duration) -> Result<String, String> {
    let address = address(overuse.row, overuse.name);
    client.must_load(&address, &contract(overuse.code)).await;
    let before = client.generation(&address).await;
    let answer = client.execute(&address, "attack", &Value::Null).await;
    if let Some(wrong) = overuse.expect.mismatch(&answer) {
        return Err(wrong);
    }
    if overuse.after == After::Recreated {
        recreated(client, &address, before).await;
    }
    let start = Instant::now();
    let mut well = client.call(&address, "ping").await;
    while well.status == 503 && start.elapsed() < rest {
        wait::pass(Duration::from_millis(50)).await;
        well = client.call(&address, "ping").await;
    }
    let generation = well.status == 200;
    client.unload(&address).await.is_no_content();
    if !generation {
        return Err(format!("{}, then {}", shown(&answer), shown(&well)));
    }
    let generation = well.generation();
    if overuse.after == After::Kept && generation != before {
        return Err(format!("it was recreated: {}", shown(&answer)));
    }
    Ok(format!("{}; then generation {generation}", shown(&answer)))
}

/// Waits until a contract has another page than in this generation. A page that is idle for a second
/// is frozen. On a busy machine it has not used too much by then, so it is woken again and again.
async fn recreated(client: &Client, address: &str, before: u64) {
    const AWAKE: Duration = Duration::from_secs(2);
    let mut woken = Instant::now();
    wait::until_true("the contract to be recreated", DEFAULT_LIMIT, async || {
        if woken.elapsed() > AWAKE {
            client.call(address, "ping").await;
            woken = Instant::now();
        }
        client.generation(address).await > before
    })
    .await;
}

/// R4: the small amount of time that a contract may use between calls.
async fn honest_timer(target: &mut AttackFarm) {
    target
        .case("R4", "an honest timer lives on", Browser::Stays, async |farm| {
            let client = farm.client();
            let source = "let n = 0;
                function init() { return { ping: () => n, start: () => { setInterval(() => n++, 20) } } }";
            client.must_load("honest", source).await;
            let before = client.generation("honest").await;
            client.call("honest", "start").await.data();
            wait::pass(Duration::from_secs(2)).await;
            let answer = client.call("honest", "ping").await;
            client.unload("honest").await.is_no_content();
            let ticked = answer.status == 200 && answer.generation() == before && answer.data() != 0;
            ticked.then(|| shown(&answer)).ok_or_else(|| shown(&answer))
        })
        .await;
}

/// L: a contract that used too much time is recreated, and then uses next to none.
async fn idle(target: &mut AttackFarm) {
    const SPAN: Duration = Duration::from_secs(2);
    /// A tick is a hundredth of a second: 5 % of a core.
    const ALLOWED: u64 = 10;
    const BURNS: &str = "const f = () => { for (const t = Date.now(); Date.now() - t < 30;); setTimeout(f) }; f(); return 'done'";
    target
        .case("R4", "idle after burning", Browser::Stays, async |farm| {
            let client = farm.client();
            let before: Vec<_> = farm.renderers(0).iter().map(|seen| seen.pid).collect();
            client.must_load("burner", &contract(BURNS)).await;
            let generation = client.generation("burner").await;
            client.call("burner", "attack").await.data();
            recreated(client, "burner", generation).await;
            // Its page and the spare page. All other renderers were there before.
            let young = farm.renderers(0);
            let young: Vec<_> = young
                .iter()
                .filter(|seen| !before.contains(&seen.pid))
                .collect();
            // The answer shows that the pages have started, so their start is not measured.
            client.call("burner", "ping").await.data();
            let start: u64 = young.iter().map(|seen| seen.ticks()).sum();
            wait::pass(SPAN).await;
            let used = young
                .iter()
                .map(|seen| seen.ticks())
                .sum::<u64>()
                .saturating_sub(start);
            client.unload("burner").await.is_no_content();
            let seen = format!("{} renderers used {used} ticks in {SPAN:?}", young.len());
            if !young.is_empty() && used <= ALLOWED {
                Ok(seen)
            } else {
                Err(seen)
            }
        })
        .await;
}

/// R10: many promises at once that never settle.
async fn pending(target: &mut AttackFarm) {
    target
        .case(
            "R10",
            "1,200 calls that never settle",
            Browser::Stays,
            async |farm| {
                let client = farm.client();
                client
                    .must_load("pending", &contract("return new Promise(() => {})"))
                    .await;
                let start = Instant::now();
                let calls = (0..1200).map(|_| client.call("pending", "attack"));
                let answers = join_all(calls).await;
                let took = start.elapsed();
                client.unload("pending").await.is_no_content();
                let mut codes = BTreeMap::new();
                for answer in &answers {
                    let code = answer.json()["code"].as_str().map(str::to_owned);
                    *codes.entry(code.unwrap_or_default()).or_insert(0) += 1;
                }
                let seen = format!("{codes:?} in {took:.0?}");
                // These are more calls than one contract may have in flight, so some are refused at
                // once. The first overrun costs the page that all the others wait in. Then each of
                // them runs alone, as long as its caller waits.
                let expected = ["execution_timeout", "overloaded"];
                let is_met = expected.iter().all(|code| codes.contains_key(*code));
                let known = ["contract_crashed", "execution_timeout", "overloaded"];
                let is_known = codes.keys().all(|code| known.contains(&code.as_str()));
                (is_met && is_known).then_some(seen.clone()).ok_or(seen)
            },
        )
        .await;
}

/// R11: attacks at load.
async fn loads(target: &mut AttackFarm) {
    let many: Vec<_> = (0..100_000).map(|n| format!("e{n}: () => {n},")).collect();
    let many = many.concat();
    let large = format!("/* {} */ {{ ping: () => 'pong' }}", "x".repeat(50 << 20));
    let cases = [
        ("a loop at the top level", "for (;;) {}".to_owned(), Fails(422, "invalid_executable")),
        ("microtasks at the top level", "(async () => { for (;;) await 0 })(); function init() { return { ping: () => 'pong' } }".to_owned(), Fails(422, "invalid_executable")),
        ("a bomb at the top level", "const x = []; for (;;) x.push(new Array(1e4).fill(1.5))".to_owned(), Fails(422, "invalid_executable")),
        ("a flood of the console after a failure", "const s = 'x'.repeat(1e5); setInterval(() => { for (let i = 0; i < 1e3; i++) console.log(s, i) }); throw new Error('no')".to_owned(), Fails(422, "invalid_executable")),
        ("50 MB of source", large, Any(&[Says("\"pong\""), Fails(422, "invalid_executable")])),
        ("100,000 endpoints", format!("{{ ping: () => 'pong', {many} }}"), Says("\"pong\"")),
    ];
    for (name, source, expect) in cases {
        target
            .case("R11", name, Browser::Stays, async |farm| {
                let client = farm.client();
                let loaded = client.judge("loads", &source).await;
                let answer = match loaded.status {
                    204 => client.call("loads", "ping").await,
                    _ => loaded,
                };
                client.unload("loads").await.is_no_content();
                expect.mismatch(&answer).map_or(Ok(shown(&answer)), Err)
            })
            .await;
    }
}
