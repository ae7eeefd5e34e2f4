//! H: attacks on the host and the browser's runtime from within a page.

use std::fs::FileTimes;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::attack::Control::{Elsewhere, Inherent, Planted, Without};
use crate::attack::Expect::{Any, Fails, Says, SaysNot};
use crate::attack::{Attack, shown};
use crate::attack_farm::{AttackFarm, Browser, once};
use crate::support::client::Client;
use crate::support::wait::{self, DEFAULT_LIMIT};

const NOTHING: &str = "[]";

/// Each attack tries a list of things and returns the names of those that succeeded.
pub(crate) const ATTACKS: [Attack; 17] = [
    Attack {
        row: "H1",
        name: "globals of other runtimes",
        code: "return ['require', 'process', 'global', 'module', 'exports', '__dirname', '__filename', 'Deno', 'Bun']
            .filter((name) => (0, eval)('typeof ' + name) !== 'undefined')",
        expect: Says(NOTHING),
        control: Planted("globalThis.process = {}; globalThis.require = 1", Says(r#"["require","process"]"#)),
    },
    Attack {
        row: "H2",
        name: "dynamic import",
        code: "const had = [];
            for (const from of ['fs', 'node:fs', 'file:///etc/passwd', 'http://127.0.0.1/x.js', 'data:text/javascript,0'])
                try { await import(from); had.push(from) } catch {}
            return had",
        expect: Says(NOTHING),
        control: Without(Says(r#"["data:text/javascript,0"]"#)),
    },
    Attack {
        row: "H3",
        name: "fetch and XHR of other schemes",
        code: "const had = [];
            for (const url of ['file:///etc/passwd', 'view-source:file:///etc/passwd', 'chrome://version', 'devtools://devtools/bundled/x.html', 'data:,x']) {
                try { await fetch(url); had.push('fetch ' + url) } catch {}
                try { const x = new XMLHttpRequest(); x.open('GET', url, false); x.send(); had.push('xhr ' + url) } catch {}
            }
            return had",
        expect: Says(NOTHING),
        control: Without(SaysNot(NOTHING)),
    },
    Attack {
        row: "H3",
        name: "frames of other schemes",
        code: "const had = [];
            for (const url of ['file:///etc/passwd', 'view-source:https://x/', 'chrome://version', 'devtools://devtools/bundled/x.html']) {
                const f = document.createElement('iframe'); f.src = url; document.documentElement.append(f);
                await new Promise((r) => { f.onload = r; setTimeout(r, 100) });
                try { if (f.contentDocument.body.textContent !== '') had.push(url) } catch {}
                f.remove();
            }
            { const f = document.createElement('iframe'); f.srcdoc = a; document.documentElement.append(f);
              await new Promise((r) => { f.onload = r; setTimeout(r, 100) });
              try { if (f.contentDocument.body.textContent !== '') had.push('srcdoc') } catch {} }
            return had",
        expect: Says(NOTHING),
        control: Without(Says(r#"["srcdoc"]"#)),
    },
    Attack {
        row: "H5",
        name: "the debugger's port",
        code: "const url = 'http://127.0.0.1:' + a + '/json/version';
            const tries = { fetch: () => fetch(url, { mode: 'no-cors' }),
                socket: () => new Promise((yes, no) => { const s = new WebSocket('ws://127.0.0.1:' + a + '/devtools/browser/x'); s.onopen = yes; s.onerror = no }) };
            const had = [];
            for (const name in tries)
                try { await Promise.race([tries[name](), new Promise((_, no) => setTimeout(no, 300))]); had.push(name) } catch {}
            return had",
        expect: Says(NOTHING),
        control: Elsewhere("H5 another port of the loopback"),
    },
    Attack {
        row: "H6",
        name: "the harness through callers and stacks",
        code: "const had = [];
            const sloppy = new Function('const c = arguments.callee.caller; try { return c.caller } catch { return null }');
            try { if (sloppy() !== null) had.push('caller') } catch {}
            Error.prepareStackTrace = (_, frames) => frames;
            for (const f of new Error().stack.slice(1)) if (f.getFunction() || f.getThis()) had.push('frame');
            delete Error.prepareStackTrace;
            if (/harness|callFunctionOn|at run /.test(new Error().stack)) had.push('stack');
            return had",
        expect: Says(NOTHING),
        control: Elsewhere("H6 sloppy callers see each other"),
    },
    Attack {
        row: "H6",
        name: "the harness through globals",
        code: "const before = Object.getOwnPropertyNames(document.createElement('iframe').ownerDocument.defaultView);
            return before.filter((name) => /^(harness|contract|endpoints|devtools|cdp|binding)/i.test(name))",
        expect: Says(NOTHING),
        control: Planted("globalThis.harness = 1", Says(r#"["harness"]"#)),
    },
    Attack {
        row: "H6",
        name: "sloppy callers see each other",
        code: "const f = new Function('g', 'return g()'); const g = new Function('return typeof arguments.callee.caller');
            return f(g)",
        expect: Says("\"function\""),
        control: Inherent,
    },
    Attack {
        row: "H7",
        name: "forging with JSON",
        code: "JSON.stringify = () => '\"forged\"'; JSON.parse = () => [[0, 'forged']];
            return { honest: 1, own: JSON.stringify(1) }",
        expect: Says(r#"{"honest":1,"own":"\"forged\""}"#),
        control: Inherent,
    },
    Attack {
        row: "H7",
        name: "forging with promises and iterators",
        code: "Promise.prototype.then = function () { return 'forged' }; Promise.resolve = () => 'forged';
            Array.prototype[Symbol.iterator] = function* () { yield 'forged' }; Reflect.apply = () => 'forged';
            return { honest: 1, own: [...[1, 2]] }",
        expect: Says(r#"{"honest":1,"own":["forged"]}"#),
        control: Inherent,
    },
    Attack {
        row: "H7",
        name: "forging with toJSON",
        code: "Object.prototype.toJSON = function () { throw new Error('forged') }; return {}",
        expect: Fails(500, "result_not_json"),
        control: Inherent,
    },
    Attack {
        row: "H8",
        name: "code from strings stays in the page",
        code: "return [new Function('return this')() === globalThis, (0, eval)('this') === globalThis,
            new Function('o', 'with (o) { return x }')({ x: 7 }), (async () => {}).constructor('return typeof require')().constructor.name]",
        expect: Says(r#"[true,true,7,"Promise"]"#),
        control: Inherent,
    },
    Attack {
        row: "H9",
        name: "features that the document is allowed",
        code: "return document.featurePolicy.allowedFeatures()",
        expect: Says(NOTHING),
        control: Without(SaysNot(NOTHING)),
    },
    Attack {
        row: "H9",
        name: "devices and permissions",
        code: "const had = []; const n = navigator;
            const tries = {
                geolocation: () => new Promise((yes, no) => n.geolocation.getCurrentPosition(yes, no)),
                camera: () => n.mediaDevices.getUserMedia({ video: true, audio: true }),
                screen: () => n.mediaDevices.getDisplayMedia(),
                read: () => n.clipboard.readText(), write: () => n.clipboard.writeText('x'),
                notify: async () => { if (await Notification.requestPermission() !== 'granted') throw 1 },
                usb: () => n.usb.requestDevice({ filters: [] }), hid: () => n.hid.requestDevice({ filters: [] }),
                bluetooth: () => n.bluetooth.requestDevice({ acceptAllDevices: true }), serial: () => n.serial.requestPort(),
                midi: () => n.requestMIDIAccess(), fonts: () => queryLocalFonts(), file: () => showOpenFilePicker(),
                folder: () => showDirectoryPicker(), lock: () => n.wakeLock.request('screen'),
                sensor: () => new Promise((yes, no) => { const s = new Accelerometer(); s.onreading = yes; s.onerror = no; s.start() }),
            };
            for (const name in tries)
                try { await Promise.race([tries[name](), new Promise((_, no) => setTimeout(no, 60))]); had.push(name) } catch {}
            return had",
        expect: Says(NOTHING),
        control: Elsewhere("H9 features that the document is allowed"),
    },
    Attack {
        row: "H9",
        name: "states of permissions",
        code: "const had = [];
            for (const name of ['geolocation', 'camera', 'microphone', 'notifications', 'midi', 'clipboard-read', 'screen-wake-lock', 'accelerometer', 'local-fonts', 'storage-access'])
                try { if ((await navigator.permissions.query({ name })).state === 'granted') had.push(name) } catch {}
            return had",
        expect: Says(NOTHING),
        control: Elsewhere("H9 features that the document is allowed"),
    },
    Attack {
        row: "H4",
        name: "navigation to javascript: and file:",
        code: "for (const url of ['file:///etc/passwd', 'javascript:globalThis.hit=1', 'data:text/html,x', 'chrome://version', 'view-source:https://x/']) {
                try { location = url } catch {} await new Promise((r) => setTimeout(r, 30)) }
            return [location.protocol, globalThis.hit === undefined || 'ran']",
        expect: Says(r#"["https:",true]"#),
        control: Elsewhere("H4 navigation to about:blank"),
    },
    Attack {
        row: "H10",
        name: "names of the host",
        code: "let seen = '';
            for (const get of [() => new Error('x').stack, () => JSON.stringify(navigator.userAgentData), () => navigator.userAgent,
                () => navigator.platform, () => document.URL, () => location.href, () => document.baseURI, () => Object.keys(globalThis).join(),
                () => Intl.DateTimeFormat().resolvedOptions().timeZone, () => { try { null.x } catch (e) { return e.stack } }])
                try { seen += get() + '\\n' } catch {}
            return a.filter((name) => seen.includes(name))",
        expect: Says(NOTHING),
        control: Planted("globalThis[a[0]] = 1", SaysNot(NOTHING)),
    },
];

/// The argument of an attack: the debugger's port, a frame's content, or names of the host.
pub(crate) fn argument(target: &AttackFarm, attack: &Attack) -> Value {
    match attack.row {
        "H3" => json!("<body>x</body>"),
        "H5" => json!(debugger_port(target)),
        "H10" => json!(names_of_host()),
        _ => Value::Null,
    }
}

/// The usual port of a debugger. The browser has none: it would have written it to a file.
fn debugger_port(target: &AttackFarm) -> u16 {
    for profile in target.farm.profiles() {
        let path = format!("{profile}/DevToolsActivePort");
        assert!(!std::path::Path::new(&path).exists(), "{path}");
    }
    9222
}

/// Names that a page has no way to know.
fn names_of_host() -> Vec<String> {
    let read = |path| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let variable = |name| std::env::var(name).unwrap_or_default();
    let names = [
        read("/proc/sys/kernel/hostname"),
        variable("HOME"),
        variable("CARGO_MANIFEST_DIR"),
        "execution-worker-chromium".to_owned(),
        // The users that the browser and the worker run as.
        "nobody".to_owned(),
        user(),
        "/usr/lib/chromium".to_owned(),
        read("/etc/timezone"),
    ];
    // Short names also occur as parts of other words.
    names
        .into_iter()
        .filter(|name| name.len() > 2 && name != "Etc/UTC")
        .collect()
}

fn user() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    user.ok()
        .flatten()
        .map_or_else(String::new, |user| user.name)
}

/// Runs the group.
pub(crate) async fn run(target: &mut AttackFarm) {
    for attack in &ATTACKS {
        let argument = argument(target, attack);
        target.attack(attack, &argument).await;
    }
    unread(target).await;
    leaves(target).await;
    breaks_out(target).await;
}

/// Every way to load a file. The one that leaves the document comes last.
const READS: &str = "const add = (tag, fields) => { const e = document.createElement(tag);
        Object.assign(e, fields); document.documentElement.append(e); return e };
    const quietly = (f) => { try { const p = f(); if (p && p.catch) p.catch(() => 0) } catch {} };
    for (const u of [a, 'view-source:' + a, 'filesystem:' + a]) {
        add('iframe', { src: u }); add('frame', { src: u }); add('object', { data: u }); add('embed', { src: u });
        add('img', { src: u }); add('script', { src: u }); add('link', { rel: 'stylesheet', href: u }); add('video', { src: u });
        add('style', { textContent: `@import '${u}'; html { background: url(${u}) }` });
        quietly(() => fetch(u)); quietly(() => import(u)); quietly(() => new Worker(u)); quietly(() => open(u));
        quietly(() => { const x = new XMLHttpRequest(); x.open('GET', u, false); x.send() });
        add('a', { href: u, download: 'x' }).click(); add('form', { action: u, target: '_blank' }).submit();
    }
    await new Promise((r) => setTimeout(r, 200)); location = a; await new Promise((r) => setTimeout(r, 100)); return 'tried'";

/// H3: a page cannot see the content of a frame of another origin. So this case checks on the
/// file's side whether it was read.
async fn unread(target: &mut AttackFarm) {
    const LONG_AGO: SystemTime = SystemTime::UNIX_EPOCH;
    let name = "a file of the host, as the host sees it";
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    std::fs::write(file.path(), "<script>1</script>").expect("the file can be written");
    let times = FileTimes::new().set_accessed(LONG_AGO);
    file.as_file().set_times(times).expect("the file is ours");
    let public = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(file.path(), public).expect("the file is ours");
    let read = || {
        let metadata = file.as_file().metadata().expect("the file is there");
        metadata.accessed().is_ok_and(|time| time != LONG_AGO)
    };
    let url = json!(format!("file://{}", file.path().display()));
    target
        .case("H3", name, Browser::Stays, async |farm| {
            let answer = once(farm.client(), "reader", READS, &url).await?;
            let harmless = Any(&[Says("\"tried\""), Fails(500, "contract_crashed")]);
            match harmless.mismatch(&answer) {
                _ if read() => Err(format!("it was read: {}", shown(&answer))),
                None => Ok(format!("it was not read: {}", shown(&answer))),
                Some(wrong) => Err(wrong),
            }
        })
        .await;
    let seen = std::fs::read(file.path()).map_err(|error| error.to_string());
    control(target, seen.map(|_| read()), |seen| *seen);
}

/// H4: a contract that leaves its document is recreated, and nothing else happens.
async fn leaves(target: &mut AttackFarm) {
    for (name, go) in [
        ("about:blank", "location = 'about:blank'"),
        (
            "a blob",
            "location = URL.createObjectURL(new Blob(['x'], { type: 'text/html' }))",
        ),
    ] {
        let name = format!("navigation to {name}");
        target
            .case("H4", &name, Browser::Stays, async |farm| {
                let [before, after] = leave(farm.client(), go).await?;
                (after > before)
                    .then(|| "recreated".to_owned())
                    .ok_or_else(|| "the page was not recreated".to_owned())
            })
            .await;
        // A contract that stays is not recreated, so leaving was the cause.
        let stayed = leave(target.client(), "location.hash = 'x'").await;
        control(target, stayed, |[before, after]| before == after);
    }
}

/// Makes a contract navigate, and returns its generations before and afterwards.
async fn leave(client: &Client, go: &str) -> Result<[u64; 2], String> {
    let source = format!("{{ ping: () => 'pong', go: () => {{ {go} }} }}");
    client.must_load("leaver", &source).await;
    let before = client.generation("leaver").await;
    let left = client.call("leaver", "go").await;
    if left.status == 200 && !go.starts_with("location.hash") {
        // The document was left after the answer.
        let gone = async || client.generation("leaver").await > before;
        wait::until_true("a new page", DEFAULT_LIMIT, gone).await;
    }
    let again = client.call("leaver", "ping").await;
    client.unload("leaver").await.is_no_content();
    (again.status == 200)
        .then(|| [before, again.generation()])
        .ok_or_else(|| format!("{}, then {}", shown(&left), shown(&again)))
}

/// Records the result of the last case's control.
fn control<T: std::fmt::Debug>(
    target: &mut AttackFarm,
    seen: Result<T, String>,
    is_right: impl FnOnce(&T) -> bool,
) {
    let control = seen.and_then(|seen| {
        let shown = format!("{seen:?}");
        if is_right(&seen) {
            Ok(shown)
        } else {
            Err(shown)
        }
    });
    if let Some(entry) = target.report.entries.last_mut() {
        entry.control = Some(control);
    }
}

/// H8: sources that close the text they are inserted into. The last part is a naive wrapper in
/// which the source `a` breaks out.
const BREAKERS: [(&str, &str, &str); 5] = [
    (
        "closing brace",
        "{ attack: () => 1 } }); globalThis.out = 1; ({",
        "(0, eval)(`(function () { return ${a} })`); return globalThis.out === 1",
    ),
    (
        "closing parenthesis",
        "{ attack: () => 1 }), (globalThis.out = 1",
        "(0, eval)(`(${a})`); return globalThis.out === 1",
    ),
    (
        "template",
        "{ attack: () => 1 }` + 1 + `",
        "return (0, eval)('`' + a + '`') !== a",
    ),
    (
        "closing script",
        "{ attack: () => 1 }</script><script>",
        "const t = document.createElement('template'); t.innerHTML = `<script>${a}</` + 'script>';
         return t.content.querySelectorAll('script').length === 2",
    ),
    (
        "return",
        "return { attack: () => 1 }",
        "return new Function(a)().attack() === 1",
    ),
];

async fn breaks_out(target: &mut AttackFarm) {
    for (name, source, naive) in BREAKERS {
        target
            .case("H8", name, Browser::Stays, async |farm| {
                let answer = farm.client().load("breaker", source).await;
                Fails(422, "invalid_executable")
                    .mismatch(&answer)
                    .map_or(Ok(shown(&answer)), Err)
            })
            .await;
        let broken = once(target.client(), "breaker", naive, &json!(source)).await;
        let broken = broken.map(|answer| (answer.status, answer.body));
        control(target, broken, |(status, body)| {
            *status == 200 && body.contains("true")
        });
    }
}
