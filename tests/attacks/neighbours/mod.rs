//! P: contracts share nothing with each other or with earlier contracts.

mod crowd;

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use serde_json::Value;

use crate::attack::Expect::{Says, SaysNot};
use crate::attack::{Expect, contract, shown};
use crate::attack_farm::{AttackFarm, Browser, message};
use crate::support::client::{Answer, Client};

pub(crate) use self::crowd::crowded;

/// One contract that leaves something, and one that looks for it.
pub(crate) struct Pair {
    row: &'static str,
    name: &'static str,
    timing: Timing,
    /// The code of the first contract. Its result is the second one's argument.
    plant: &'static str,
    /// The code of the second contract.
    probe: &'static str,
    /// What the first contract observes afterwards, if that is the question.
    look: Option<&'static str>,
    expect: Expect,
    control: Control,
}

/// When the two contracts are loaded.
#[derive(Debug, Clone, Copy)]
enum Timing {
    /// They are loaded at the same time.
    Together,
    /// The second is loaded at the same address after the first was unloaded.
    After,
    /// The second replaces the first.
    Next,
}

/// How the case shows that there is something to find.
#[derive(Debug, Clone, Copy)]
enum Control {
    /// The first contract finds it itself.
    Within(Expect),
    /// The second finds it where contexts and origins are shared.
    Shared(Expect),
    /// Another case shows it.
    Elsewhere(&'static str),
}

const STORE: &str = "const tries = {
        local: () => localStorage.setItem('k', 'v'), session: () => sessionStorage.setItem('k', 'v'),
        cookie: () => { document.cookie = 'k=v; secure; max-age=600' },
        database: () => new Promise((yes, no) => { const r = indexedDB.open('k'); r.onsuccess = yes; r.onerror = no }),
        cache: async () => (await caches.open('k')).put('/k', new Response('v')),
        files: async () => (await navigator.storage.getDirectory()).getFileHandle('k', { create: true }),
    };
    for (const name in tries) try { await tries[name]() } catch {}";

const FIND: &str = "const had = [];
    const tries = {
        local: () => localStorage.getItem('k') === 'v', session: () => sessionStorage.getItem('k') === 'v',
        cookie: () => document.cookie.includes('k=v'),
        database: async () => (await indexedDB.databases()).length > 0,
        cache: async () => (await caches.keys()).length > 0,
        files: async () => { for await (const _ of (await navigator.storage.getDirectory()).keys()) return true },
    };
    for (const name in tries) try { if (await tries[name]()) had.push(name) } catch {}
    return had";

const NOTHING: &str = "[]";
const SOON: &str = "await new Promise((r) => setTimeout(r, 100));";

const PAIRS: [Pair; 16] = [
    Pair {
        row: "P1",
        name: "window globals",
        timing: Timing::Together,
        plant: "globalThis.secret = 1; globalThis.name = 'secret'; document.title = 'secret'",
        probe: "return [typeof secret, name, document.title]",
        look: None,
        expect: Says(r#"["undefined","",""]"#),
        control: Control::Within(Says(r#"["number","secret","secret"]"#)),
    },
    Pair {
        row: "P2",
        name: "storage",
        timing: Timing::Together,
        plant: STORE,
        probe: FIND,
        look: None,
        expect: Says(NOTHING),
        control: Control::Shared(SaysNot(NOTHING)),
    },
    Pair {
        row: "P3",
        name: "broadcast channel",
        timing: Timing::Together,
        plant: "globalThis.heard = []; try { new BroadcastChannel('c').onmessage = (e) => heard.push(e.data) } catch {}",
        probe: "try { new BroadcastChannel('c').postMessage('x') } catch {}",
        look: Some("await new Promise((r) => setTimeout(r, 100)); return heard"),
        expect: Says(NOTHING),
        control: Control::Shared(Says(r#"["x"]"#)),
    },
    Pair {
        row: "P3",
        name: "storage events",
        timing: Timing::Together,
        plant: "globalThis.heard = []; addEventListener('storage', (e) => heard.push(e.key))",
        probe: "try { localStorage.setItem('event', String(Math.random())) } catch {}",
        look: Some("await new Promise((r) => setTimeout(r, 100)); return heard"),
        expect: Says(NOTHING),
        control: Control::Shared(Says(r#"["event"]"#)),
    },
    Pair {
        row: "P3",
        name: "web locks",
        timing: Timing::Together,
        plant: "try { navigator.locks.request('l', () => new Promise(() => {})).catch(() => {}) } catch {}",
        probe: "try { return (await navigator.locks.query()).held.map((l) => l.name) } catch { return [] }",
        look: None,
        expect: Says(NOTHING),
        control: Control::Shared(Says(r#"["l"]"#)),
    },
    Pair {
        row: "P3",
        name: "service worker",
        timing: Timing::Together,
        plant: "return 0",
        probe: "try { await navigator.serviceWorker.getRegistrations(); return ['had'] } catch { return [] }",
        look: None,
        expect: Says(NOTHING),
        control: Control::Shared(Says(r#"["had"]"#)),
    },
    Pair {
        row: "P3",
        name: "shared worker",
        timing: Timing::Together,
        plant: "return 0",
        probe: "try { new SharedWorker(URL.createObjectURL(new Blob(['onconnect=0']))); return ['had'] } catch { return [] }",
        look: None,
        expect: Says(NOTHING),
        control: Control::Elsewhere("N8: it runs where layers are off"),
    },
    Pair {
        row: "P4",
        name: "opener, windows and frames",
        timing: Timing::Together,
        plant: "name = 'victim'",
        probe: "let opened = null; try { opened = open('', 'victim') } catch {}
            for (const w of [opened, window.opener, parent === window ? null : parent, top === window ? null : top, ...Array.from({ length: frames.length }, (_, i) => frames[i])])
                try { w.postMessage('x', '*') } catch {}
            return [opened === null, window.opener === null, frames.length, parent === window, top === window]",
        look: None,
        expect: Says("[true,true,0,true,true]"),
        control: Control::Within(SaysNot("[true,true,0,true,true]")),
    },
    Pair {
        row: "P4",
        name: "messages to every window",
        timing: Timing::Together,
        plant: "globalThis.heard = []; onmessage = (e) => heard.push(e.data); name = 'victim'",
        probe: "for (const find of [() => open('', 'victim'), () => opener, () => parent, () => top, () => frames[0], () => self])
                try { find().postMessage('x', '*') } catch {}",
        look: Some("await new Promise((r) => setTimeout(r, 100)); return heard"),
        expect: Says(NOTHING),
        // The list includes its own window.
        control: Control::Within(SaysNot(NOTHING)),
    },
    Pair {
        row: "P5",
        name: "shared memory of WebAssembly",
        timing: Timing::Together,
        plant: "return 0",
        probe: "const pass = (x) => { try { new MessageChannel().port1.postMessage(x); return 'passed' } catch (e) { return e.name } };
            let shared = null; try { shared = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }).buffer } catch {}
            return [pass(new ArrayBuffer(1)), shared === null ? 'none' : pass(shared)]",
        look: None,
        // The memory can be created but cannot be passed on.
        expect: Says(r#"["passed","DataCloneError"]"#),
        control: Control::Elsewhere("in the case itself: memory that is not shared is passed"),
    },
    Pair {
        row: "P5",
        name: "shared memory",
        timing: Timing::Together,
        plant: "globalThis.SharedArrayBuffer = function () {}",
        probe: "return [typeof SharedArrayBuffer, crossOriginIsolated]",
        look: None,
        expect: Says(r#"["undefined",false]"#),
        control: Control::Within(Says(r#"["function",false]"#)),
    },
    Pair {
        row: "P7",
        name: "prototype pollution",
        timing: Timing::Together,
        plant: "Object.prototype.polluted = 1; Array.prototype.map = 1; Function.prototype.polluted = 1",
        probe: "return [({}).polluted === undefined, typeof [].map, (() => {}).polluted === undefined]",
        look: None,
        expect: Says(r#"[true,"function",true]"#),
        control: Control::Within(Says(r#"[false,"number",false]"#)),
    },
    Pair {
        row: "P8",
        name: "a contract before this one",
        timing: Timing::After,
        plant: STORE,
        probe: FIND,
        look: None,
        expect: Says(NOTHING),
        control: Control::Shared(SaysNot(NOTHING)),
    },
    Pair {
        row: "P9",
        name: "a generation before this one",
        timing: Timing::Next,
        plant: STORE,
        probe: FIND,
        look: None,
        expect: Says(NOTHING),
        control: Control::Shared(SaysNot(NOTHING)),
    },
    Pair {
        row: "P10",
        name: "blob addresses of another",
        timing: Timing::Together,
        plant: "return globalThis.kept = URL.createObjectURL(new Blob(['secret']))",
        probe: "try { return await (await fetch(a)).text() } catch { return 'none' }",
        look: None,
        expect: Says("\"none\""),
        control: Control::Shared(Says("\"secret\"")),
    },
    Pair {
        row: "P10",
        name: "window name and history",
        timing: Timing::Next,
        plant: "name = 'n'.repeat(1e6); for (let i = 0; i < 20; i++) try { history.pushState(i, '', '#' + i) } catch {}",
        probe: "return [name.length, history.length, history.state]",
        look: None,
        expect: Says("[0,1,null]"),
        control: Control::Within(SaysNot("[0,1,null]")),
    },
];

/// Runs the group.
pub(crate) async fn run(target: &mut AttackFarm) {
    for pair in &PAIRS {
        target
            .case(pair.row, pair.name, Browser::Stays, async |farm| {
                let answer = play(farm.client(), pair).await;
                pair.expect
                    .mismatch(&answer)
                    .map_or(Ok(shown(&answer)), Err)
            })
            .await;
        let control = match pair.control {
            Control::Within(expect) => {
                let answer = within(target.client(), pair).await;
                Some(expect.mismatch(&answer).map_or(Ok(shown(&answer)), Err))
            }
            Control::Elsewhere(why) => Some(Ok(why.to_owned())),
            Control::Shared(_) => None,
        };
        if control.is_some()
            && let Some(entry) = target.report.entries.last_mut()
        {
            entry.control = control;
        }
    }
    crowd::fifty(target).await;
}

/// The controls, on a farm whose contracts share contexts and origins.
pub(crate) async fn controls(target: &mut AttackFarm) {
    for pair in &PAIRS {
        if let Control::Shared(expect) = pair.control {
            let start = std::time::Instant::now();
            let played = AssertUnwindSafe(play(target.client(), pair))
                .catch_unwind()
                .await;
            let control = match played {
                Ok(answer) => expect.mismatch(&answer).map_or(Ok(shown(&answer)), Err),
                Err(panic) => Err(message(panic.as_ref())),
            };
            let outcome = Ok(String::new());
            target.note(pair.row, pair.name, outcome, Some(control), start.elapsed());
        }
    }
    crowd::control(target).await;
}

async fn play(client: &Client, pair: &Pair) -> Answer {
    let first = format!(
        "{{ plant: async () => {{ {} }}, look: async () => {{ {} }} }}",
        pair.plant,
        pair.look.unwrap_or_default()
    );
    let second = contract(pair.probe);
    client.must_load("victim", &first).await;
    let planted = client.call("victim", "plant").await.data();
    let at = match pair.timing {
        Timing::Together => "spy",
        Timing::After => {
            client.unload("victim").await.is_no_content();
            "victim"
        }
        Timing::Next => "victim",
    };
    client.must_load(at, &second).await;
    let probed = client.execute(at, "attack", &planted).await;
    let answer = match pair.look {
        Some(_) => client.call("victim", "look").await,
        None => probed,
    };
    for address in ["victim", "spy"] {
        client.unload(address).await.is_no_content();
    }
    answer
}

async fn within(client: &Client, pair: &Pair) -> Answer {
    let source = format!(
        "{{ attack: async (a) => {{ {}; {SOON} {}; {} }} }}",
        pair.plant,
        // A single contract can only open a frame of its own.
        pair.probe.replace(
            "let opened",
            "document.documentElement.append(document.createElement('iframe')); let opened"
        ),
        pair.look.unwrap_or_default()
    );
    client.must_load("victim", &source).await;
    let answer = client.execute("victim", "attack", &Value::Null).await;
    client.unload("victim").await.is_no_content();
    answer
}
