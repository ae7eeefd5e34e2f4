//! H3, H4, H8: a contract that reads files through its document, leaves it, or breaks out of the
//! text that it is inserted into. Each needs more than the answer of one call.

use std::fs::FileTimes;
use std::time::SystemTime;

use serde_json::json;

use crate::attack::Expect::{Any, Fails, Says};
use crate::attack::shown;
use crate::attack_farm::{AttackFarm, Browser, once};
use crate::support::client::Client;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// Runs these cases.
pub(super) async fn run(target: &mut AttackFarm) {
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
