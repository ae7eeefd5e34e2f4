//! H: attacks on the host and the browser's runtime from within a page.

mod document;

use serde_json::{Value, json};

use crate::attack::Attack;
use crate::attack::Control::{Elsewhere, Inherent, Planted, Without};
use crate::attack::Expect::{Fails, Says, SaysNot};
use crate::attack_farm::AttackFarm;

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
    document::run(target).await;
}
