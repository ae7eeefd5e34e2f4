//! R: contracts that take more than is theirs. Each row says what the call is answered, and whether
//! the contract must be made anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::Value;

use crate::arena::{Arena, Browser, NEIGHBOURLY, address};
use crate::attack::Expect::{Any, Fails, Says};
use crate::attack::{Expect, contract, shown};
use crate::support::client::Client;
use crate::support::farm::{Builder, Farm};
use crate::support::wait::{self, DEFAULT_LIMIT};

/// What is attacked: small limits, so that they are soon reached.
pub(crate) fn farm() -> Builder {
    Farm::builder()
        .env("EXECUTE_TIMEOUT_MS", "600")
        .env("LOAD_TIMEOUT_MS", "1500")
        .env("CHROMIUM_HEAP_MB", "64")
        .env("CHROMIUM_CONTRACT_MB", "256")
        .env("CHROMIUM_BROWSER_MB", "384")
        .env("IDLE_CPU_MS", "300")
}

/// One way to take too much.
#[derive(Debug, Clone, Copy)]
struct Greed {
    row: &'static str,
    name: &'static str,
    code: &'static str,
    expect: Expect,
    after: After,
}

/// What becomes of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// It lives on as it is.
    Lives,
    /// It is made anew.
    Anew,
    /// Either is well.
    Either,
}

const TIMEOUT: Expect = Fails(504, "execution_timeout");
const CRASH: Expect = Fails(500, "contract_crashed");
const THROWS: Expect = Fails(500, "execution_failed");
const TOO_LARGE: Expect = Fails(500, "result_too_large");
const NOT_JSON: Expect = Fails(500, "result_not_json");
/// Whichever limit is met first.
const STOPPED: Expect = Any(&[TIMEOUT, CRASH, THROWS, TOO_LARGE]);
const HARMLESS: Expect = Any(&[Says("\"done\""), TIMEOUT, CRASH, THROWS]);
const DONE: Expect = Says("\"done\"");

const fn greed(
    row: &'static str,
    name: &'static str,
    code: &'static str,
    expect: Expect,
    after: After,
) -> Greed {
    Greed {
        row,
        name,
        code,
        expect,
        after,
    }
}

const ALL: &[Greed] = &[
    greed("R1", "endless loop", "for (;;) {}", TIMEOUT, After::Anew),
    greed("R2", "endless microtasks", "for (;;) await 0", TIMEOUT, After::Anew),
    greed("R2", "endless microtasks after the answer",
        "(async () => { for (;;) await 0 })(); return 'done'", HARMLESS, After::Either),
    greed("R3", "endless loop in a worker",
        "const w = new Worker(URL.createObjectURL(new Blob(['postMessage(1); for (;;) {}'])));
         return await new Promise((r) => { w.onmessage = () => r('ran'); w.onerror = () => r('done'); setTimeout(r, 300, 'done') })", DONE, After::Lives),
    greed("R4", "a timer that burns after the answer",
        "const f = () => { for (const t = Date.now(); Date.now() - t < 30;); setTimeout(f) }; f(); return 'done'", DONE, After::Anew),
    greed("R4", "messages that burn after the answer",
        "const c = new MessageChannel(); c.port1.onmessage = () => { for (let i = 0; i < 1e6; i++); c.port2.postMessage(0) }; c.port2.postMessage(0); return 'done'", DONE, After::Anew),
    greed("R4", "the engine's own threads",
        "const k = await crypto.subtle.importKey('raw', new Uint8Array(9), 'PBKDF2', false, ['deriveBits']);
         for (let i = 0; i < 8; i++) crypto.subtle.deriveBits({ name: 'PBKDF2', hash: 'SHA-512', salt: new Uint8Array(9), iterations: 2e7 }, k, 256); return 'done'", DONE, After::Anew),
    greed("R5", "a hundred workers",
        "for (let i = 0; i < 100; i++) try { new Worker(URL.createObjectURL(new Blob(['for (;;) {}']))) } catch {} return 'done'", DONE, After::Either),
    greed("R6", "arrays", "const x = []; for (;;) x.push(new Array(1e4).fill(1.5))", STOPPED, After::Either),
    greed("R6", "strings", "let s = 'x'; const all = []; for (;;) { s += s + all.length; all.push(s.split('').join('')) }", STOPPED, After::Either),
    greed("R6", "maps", "const m = new Map(); for (let i = 0; ; i++) m.set(i, { i })", STOPPED, After::Either),
    greed("R6", "array buffers",
        "const x = []; for (let i = 0; i < 200; i++) x.push(new Uint8Array(16 << 20).fill(1)); return 'done'", STOPPED, After::Either),
    greed("R6", "WebAssembly memory",
        "const x = []; for (let i = 0; i < 100; i++) { const m = new WebAssembly.Memory({ initial: 512 }); new Uint8Array(m.buffer).fill(1); x.push(m) } return 'done'", STOPPED, After::Either),
    greed("R6", "canvases",
        "const x = []; for (let i = 0; i < 100; i++) { const c = document.createElement('canvas'); c.width = c.height = 4096; const g = c.getContext('2d'); g.fillRect(0, 0, 4096, 4096); g.getImageData(0, 0, 4096, 4096); x.push(c, g) } return 'done'", HARMLESS, After::Either),
    greed("R6", "blobs in the browser",
        "globalThis.x = []; const b = new Uint8Array(8 << 20).fill(7); for (let i = 0; i < 200; i++) { x.push(new Blob([b])); await new Promise((r) => setTimeout(r)) } return 'done'", HARMLESS, After::Either),
    greed("R6", "window.name", "for (let i = 0; i < 20; i++) { window.name = 'n'.repeat(1 << 26) + i; await 0 } return 'done'", HARMLESS, After::Either),
    greed("R7", "stack overflow", "const f = () => f() + 1; return f()", THROWS, After::Lives),
    greed("R7", "catastrophic expression", "return /^(a+)+$/.test('a'.repeat(40) + 'b')", TIMEOUT, After::Anew),
    greed("R7", "a huge number", "let n = 3n; for (;;) n *= n", STOPPED, After::Either),
    greed("R7", "JSON of 50 MB", "JSON.parse('[' + '1,'.repeat(25e6) + '1]'); return 'done'", HARMLESS, After::Either),
    greed("R7", "a sort that never agrees", "const x = []; for (let i = 0; i < 3e6; i++) x.push(i); x.sort(() => Math.random() - 0.5); return 'done'", HARMLESS, After::Either),
    greed("R8", "dialogs", "alert(1); confirm(2); prompt(3); print(); onbeforeunload = () => 'stay'; return 'done'", DONE, After::Lives),
    greed("R8", "debugger", "debugger; return 'done'", DONE, After::Lives),
    greed("R9", "a result of 100 MB", "return 'x'.repeat(1e8)", Any(&[TOO_LARGE, CRASH]), After::Either),
    greed("R9", "nested 100,000 deep", "let x = []; for (let i = 0; i < 1e5; i++) x = [x]; return x", Any(&[NOT_JSON, THROWS]), After::Lives),
    greed("R9", "a graph that explodes on paper", "let x = ['xxxxxxxx']; for (let i = 0; i < 40; i++) x = [x, x]; return x", TOO_LARGE, After::Lives),
    greed("R9", "1 GB on the console", "const s = 'x'.repeat(1e5); for (let i = 0; i < 1e4; i++) console.log(s, i); return 'done'", HARMLESS, After::Either),
    greed("R10", "a promise that never settles", "return new Promise(() => {})", TIMEOUT, After::Anew),
    greed("R10", "10,000 promises that never settle", "globalThis.x = []; for (let i = 0; i < 1e4; i++) x.push(new Promise(() => {})); return Promise.all(x)", TIMEOUT, After::Anew),
    greed("R12", "close, reload, back", "close(); location.reload(); history.back(); history.go(-9); stop(); return 'done'", HARMLESS, After::Either),
    greed("R12", "document.open", "document.open(); document.write('<b>x</b>'); document.close(); document.documentElement.remove(); return 'done'", HARMLESS, After::Either),
    greed("R13", "graphics", "const had = []; for (const kind of ['webgl', 'webgl2', 'experimental-webgl']) for (const c of [document.createElement('canvas'), new OffscreenCanvas(9, 9)])
         try { if (c.getContext(kind)) had.push(kind) } catch {}
         try { if (await navigator.gpu.requestAdapter()) had.push('gpu') } catch {} return had.length === 0 ? 'done' : had", DONE, After::Lives),
    greed("R13", "audio and video", "for (let i = 0; i < 50; i++) try { const c = new OfflineAudioContext(2, 44100 * 60, 44100); c.createOscillator().start(); c.startRendering().catch(() => 0) } catch {}
         try { const d = new VideoDecoder({ output() {}, error() {} }); d.configure({ codec: 'vp8' }); for (let i = 0; i < 99; i++) d.decode(new EncodedVideoChunk({ type: 'key', timestamp: i, data: new Uint8Array(99) })) } catch {} return 'done'", HARMLESS, After::Either),
    greed("R14", "a document of a million elements", "const b = document.documentElement; for (let i = 0; i < 1e6; i++) b.append(document.createElement('p')); return 'done'", HARMLESS, After::Either),
    greed("R14", "innerHTML of 1 GB", "document.documentElement.innerHTML = '<p>\\u0100'.repeat(1.3e8); return 'done'", STOPPED, After::Either),
    greed("R15", "crash addresses", "for (const u of ['chrome://crash', 'chrome://kill', 'chrome://hang', 'chrome://gpucrash', 'about:crash']) try { location = u } catch {} await new Promise((r) => setTimeout(r, 100)); return 'done'", HARMLESS, After::Either),
    greed("R15", "traps of WebAssembly", "const m = new WebAssembly.Module(new Uint8Array([0,97,115,109,1,0,0,0,1,4,1,96,0,0,3,2,1,0,7,5,1,1,102,0,0,10,5,1,3,0,0,11])); new WebAssembly.Instance(m).exports.f()", THROWS, After::Lives),
];

/// A thousand frames are a thousand navigations in the process that all pages share: the one case in
/// which a neighbour waits for longer. `docs/security.md` does not promise more.
const FRAMES_BOUND: Duration = Duration::from_secs(1);

/// And for which its contract may have no page.
const FRAMES_REST: Duration = Duration::from_secs(10);

const FRAMES: Greed = greed(
    "R14",
    "frames",
    "for (let i = 0; i < 500; i++) { const f = document.createElement('iframe'); f.srcdoc = '<iframe srcdoc=x></iframe>'; document.documentElement.append(f) } return 'done'",
    HARMLESS,
    After::Either,
);

/// R14, on a farm whose calls may take longer than that.
pub(crate) async fn frames(arena: &mut Arena) {
    arena.neighbourly = FRAMES_BOUND;
    arena
        .case(FRAMES.row, FRAMES.name, Browser::Stays, async |farm| {
            take(farm.client(), &FRAMES, FRAMES_REST).await
        })
        .await;
    arena.neighbourly = NEIGHBOURLY;
}

/// Rows that `make test` leaves to `make attack`: slow, and of a kind with others.
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
pub(crate) async fn run(arena: &mut Arena, quick: bool) {
    for greed in ALL {
        if quick && SLOW.contains(&greed.name) {
            continue;
        }
        // What fills the browser itself may cost it its life.
        let browser = match greed.name {
            "blobs in the browser" | "window.name" => Browser::MayGo,
            _ => Browser::Stays,
        };
        arena
            .case(greed.row, greed.name, browser, async |farm| {
                take(farm.client(), greed, Duration::ZERO).await
            })
            .await;
    }
    honest_timer(arena).await;
    idle(arena).await;
    pending(arena).await;
    loads(arena).await;
}

async fn take(client: &Client, greed: &Greed, rest: Duration) -> Result<String, String> {
    let address = address(greed.row, greed.name);
    client.must_load(&address, &contract(greed.code)).await;
    let answer = client.execute(&address, "attack", &Value::Null).await;
    if let Some(wrong) = greed.expect.complaint(&answer) {
        return Err(wrong);
    }
    if greed.after == After::Anew {
        // A watch looks only now and then.
        let anew = async || client.generation(&address).await > 1;
        wait::until_true("the contract to be made anew", DEFAULT_LIMIT, anew).await;
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
    if greed.after == After::Lives && generation != 1 {
        return Err(format!("it was made anew: {}", shown(&answer)));
    }
    Ok(format!("{}; then generation {generation}", shown(&answer)))
}

/// R4: what little a contract may use while nobody calls it.
async fn honest_timer(arena: &mut Arena) {
    arena
        .case("R4", "an honest timer lives on", Browser::Stays, async |farm| {
            let client = farm.client();
            let source = "let n = 0;
                function init() { return { ping: () => n, start: () => { setInterval(() => n++, 20) } } }";
            client.must_load("honest", source).await;
            client.call("honest", "start").await.data();
            wait::pass(Duration::from_secs(2)).await;
            let answer = client.call("honest", "ping").await;
            client.unload("honest").await.is_no_content();
            let ticked = answer.status == 200 && answer.generation() == 1 && answer.data() != 0;
            ticked.then(|| shown(&answer)).ok_or_else(|| shown(&answer))
        })
        .await;
}

/// L: a contract that has burnt is made anew, and uses next to nothing then.
async fn idle(arena: &mut Arena) {
    const SPAN: Duration = Duration::from_secs(2);
    /// Ticks are a hundredth of a second: 5 % of a core.
    const ALLOWED: u64 = 10;
    const BURNS: &str = "const f = () => { for (const t = Date.now(); Date.now() - t < 30;); setTimeout(f) }; f(); return 'done'";
    arena
        .case("R4", "idle after burning", Browser::Stays, async |farm| {
            let client = farm.client();
            let before: Vec<_> = farm.renderers(0).iter().map(|seen| seen.pid).collect();
            client.must_load("burner", &contract(BURNS)).await;
            client.call("burner", "attack").await.data();
            let anew = async || client.generation("burner").await > 1;
            wait::until_true("the contract to be made anew", DEFAULT_LIMIT, anew).await;
            // Its page, and that which waits for the next contract; all else was there before.
            let young = farm.renderers(0);
            let young: Vec<_> = young
                .iter()
                .filter(|seen| !before.contains(&seen.pid))
                .collect();
            // What it takes to make the pages is over when they have answered.
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

/// R10: promises that never settle, many at once.
async fn pending(arena: &mut Arena) {
    arena
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
                // More than one contract may have under way, so that some are refused at once. The first one
                // that runs over its limit costs the page that all the others wait in; each of them has its
                // turn alone, for as long as its caller waits.
                let expected = ["execution_timeout", "overloaded"];
                let is_met = expected.iter().all(|code| codes.contains_key(*code));
                let known = ["contract_crashed", "execution_timeout", "overloaded"];
                let is_known = codes.keys().all(|code| known.contains(&code.as_str()));
                (is_met && is_known).then_some(seen.clone()).ok_or(seen)
            },
        )
        .await;
}

/// R11: at load.
async fn loads(arena: &mut Arena) {
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
        arena
            .case("R11", name, Browser::Stays, async |farm| {
                let client = farm.client();
                let loaded = client.load("loads", &source).await;
                let answer = match loaded.status {
                    204 => client.call("loads", "ping").await,
                    _ => loaded,
                };
                client.unload("loads").await.is_no_content();
                expect.complaint(&answer).map_or(Ok(shown(&answer)), Err)
            })
            .await;
    }
}
