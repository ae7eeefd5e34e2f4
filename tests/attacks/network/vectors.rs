//! The ways out of a page that are tried. Each is the body of an async function. It knows `hosts`
//! (of every kind), `urls` (the same with a port of the case's own), `port`, and `add(tag,
//! fields)`, which creates an element and inserts it into the document.

/// One way out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vector {
    pub(super) row: &'static str,
    pub(super) name: &'static str,
    pub(super) code: &'static str,
    /// Why nothing leaves even without layers, if that is so.
    pub(super) ineffective: Option<&'static str>,
}

/// The start of every vector.
pub(super) const PREAMBLE: &str = "
    const hosts = a.hosts, port = a.port, urls = hosts.map((h) => `https://${h}:${port}/`);
    const add = (tag, fields) => { const e = document.createElement(tag);
        Object.assign(e, fields); document.documentElement.append(e); return e };
    const quietly = (f) => { try { const p = f(); if (p && p.catch) p.catch(() => 0) } catch {} };
    const blob = (text) => URL.createObjectURL(new Blob([text], { type: 'text/javascript' }));
    ";

/// The end of every vector: it waits, so that what was started can take effect.
pub(super) const WAIT: &str = "; await new Promise((r) => setTimeout(r, 350)); return 'tried'";

/// The case whose events have no name of its own.
pub(super) const MULTICAST: &str = "names by multicast";

const fn vector(row: &'static str, name: &'static str, code: &'static str) -> Vector {
    Vector {
        row,
        name,
        code,
        ineffective: None,
    }
}

const fn ineffective(
    row: &'static str,
    name: &'static str,
    code: &'static str,
    why: &'static str,
) -> Vector {
    Vector {
        row,
        name,
        code,
        ineffective: Some(why),
    }
}

pub(super) const VECTORS: &[Vector] = &[
    vector("N1", "fetch, every method",
        "for (const u of urls) for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'])
            for (const mode of ['cors', 'no-cors']) quietly(() => fetch(u, { method, mode }))"),
    vector("H5", "another port of the loopback",
        "for (const h of ['127.0.0.1', '[::1]', 'localhost']) { const u = `http://${h}:${port}/`; quietly(() => fetch(u, { mode: 'no-cors' })); new Image().src = u; quietly(() => { new WebSocket(u.replace('http', 'ws')) }) }"),
    vector("N1", "XHR",
        "for (const u of urls) for (const m of ['GET', 'POST', 'PUT']) quietly(() => { const x = new XMLHttpRequest(); x.open(m, u); x.send('x') })"),
    vector("N1", "XHR, synchronous",
        "for (const u of urls.slice(1, 3)) quietly(() => { const x = new XMLHttpRequest(); x.open('GET', u, false); x.send() })"),
    // After failed sockets Chromium delays further sockets of a process for about a second.
    vector("N2", "WebSocket", "for (const u of urls) quietly(() => { new WebSocket(u.replace('https', 'wss')) }); await new Promise((r) => setTimeout(r, 1200))"),
    vector("N2", "WebSocketStream",
        // The streams are held, because an unreferenced stream may be collected before it connects.
        "globalThis.held = []; for (const u of urls) quietly(() => { const s = new WebSocketStream(u.replace('https', 'wss')); held.push(s); return s.opened }); await new Promise((r) => setTimeout(r, 1200))"),
    vector("N2", "WebSocketStream from a worker",
        "quietly(() => new Worker(blob(`globalThis.held = []; for (const u of ${JSON.stringify(urls)}) { const s = new WebSocketStream(u.replace('https', 'wss')); held.push(s); s.opened.catch(() => 0) }`))); await new Promise((r) => setTimeout(r, 1200))"),
    vector("N2", "WebSocket and fetch from a worker",
        "quietly(() => new Worker(blob(`for (const u of ${JSON.stringify(urls)}) { new WebSocket(u.replace('https', 'wss')); fetch(u).catch(() => 0) }`)))"),
    vector("N3", "STUN",
        "for (const h of hosts) quietly(async () => { const c = new RTCPeerConnection({ iceServers: [{ urls: `stun:${h}:${port}` }] });
            c.createDataChannel('x'); await c.setLocalDescription(await c.createOffer()) })"),
    vector("N3", "TURN over UDP",
        "for (const h of hosts) quietly(async () => { const c = new RTCPeerConnection({ iceServers: [{ urls: `turn:${h}:${port}?transport=udp`, username: 'u', credential: 'p' }] });
            c.createDataChannel('x'); await c.setLocalDescription(await c.createOffer()) })"),
    vector("N3", "TURN over TCP",
        "for (const h of hosts) quietly(async () => { const c = new RTCPeerConnection({ iceTransportPolicy: 'relay', iceServers: [{ urls: `turns:${h}:${port}?transport=tcp`, username: 'u', credential: 'p' }, { urls: `turn:${h}:${port}?transport=tcp`, username: 'u', credential: 'p' }] });
            c.createDataChannel('x'); await c.setLocalDescription(await c.createOffer()) })"),
    vector("N3", "data channel to a candidate",
        "quietly(async () => { const c = new RTCPeerConnection(), d = new RTCPeerConnection(); c.createDataChannel('x');
            await c.setLocalDescription(await c.createOffer()); await d.setRemoteDescription(c.localDescription);
            await d.setLocalDescription(await d.createAnswer()); await c.setRemoteDescription(d.localDescription);
            for (const h of [hosts[1], hosts[4], hosts[5]]) c.addIceCandidate({ candidate: `candidate:1 1 udp 2122260223 ${h} ${port} typ host`, sdpMid: '0' }) })"),
    vector("N4", "WebTransport", "for (const u of urls) quietly(() => new WebTransport(u).ready)"),
    vector("N4", "EventSource", "for (const u of urls) quietly(() => { new EventSource(u) })"),
    vector("N4", "sendBeacon", "for (const u of urls) quietly(() => navigator.sendBeacon(u, 'x'))"),
    vector("N4", "keepalive fetch", "for (const u of urls) quietly(() => fetch(u, { method: 'POST', body: 'x', keepalive: true, mode: 'no-cors' }))"),
    vector("N4", "at unload",
        "const go = () => { for (const u of urls) { quietly(() => navigator.sendBeacon(u, 'x')); quietly(() => fetch(u, { keepalive: true, mode: 'no-cors' })); quietly(() => { new Image().src = u }) } };
         for (const e of ['pagehide', 'visibilitychange', 'unload', 'beforeunload', 'freeze']) { addEventListener(e, go); document.addEventListener(e, go) }"),
    vector("N4", "fetchLater", "for (const u of urls) quietly(() => fetchLater(u, { activateAfter: 0 }))"),
    vector("N5", "images",
        "for (const u of urls) { add('img', { src: u }); add('img', { srcset: u + ' 2x' }); new Image().src = u; add('input', { type: 'image', src: u }); add('video', { poster: u });
            const p = add('picture', {}); p.innerHTML = `<source srcset='${u}'><img src='${u}'>`; add('body', { background: u }) }"),
    vector("N5", "scripts", "for (const u of urls) { add('script', { src: u }); add('script', { type: 'module', src: u }); add('script', { type: 'module', textContent: `import '${u}'` }) }"),
    vector("N5", "styles",
        "for (const u of urls) { add('link', { rel: 'stylesheet', href: u }); add('style', { textContent: `@import '${u}'; html { background: url(${u}); cursor: url(${u}), auto } :root { list-style-image: url(${u}) } @font-face { font-family: f; src: url(${u}) } html { font-family: f }` });
            document.documentElement.append('text') }"),
    vector("N5", "fonts", "for (const u of urls) quietly(() => new FontFace('g', `url(${u})`).load())"),
    vector("N5", "media", "for (const u of urls) { add('video', { src: u, preload: 'auto' }).load(); add('audio', { src: u, preload: 'auto' }).load(); quietly(() => new Audio(u).play());
            const v = add('video', { src: u }); v.innerHTML = `<source src='${u}'><track default src='${u}'>` }"),
    vector("N5", "objects and frames", "for (const u of urls) { add('object', { data: u }); add('embed', { src: u }); add('iframe', { src: u }); add('frame', { src: u }) }"),
    vector("N5", "SVG", "for (const u of urls) document.documentElement.insertAdjacentHTML('beforeend', `<svg><image href='${u}'/><use href='${u}#x'/><feImage href='${u}'/><script href='${u}'/></svg>`)"),
    ineffective("N5", "favicon and manifest", "for (const u of urls) { add('link', { rel: 'icon', href: u }); add('link', { rel: 'manifest', href: u }); add('link', { rel: 'apple-touch-icon', href: u }) }",
        "headless-shell loads neither"),
    ineffective("N6", "dns-prefetch", "for (const u of urls) add('link', { rel: 'dns-prefetch', href: u })", "headless-shell does not act on it"),
    ineffective("N6", "preconnect", "for (const u of urls) add('link', { rel: 'preconnect', href: u })", "headless-shell does not act on it"),
    vector("N6", "prefetch", "for (const u of urls) add('link', { rel: 'prefetch', href: u })"),
    vector("N6", "preload and modulepreload", "for (const u of urls) { add('link', { rel: 'modulepreload', href: u }); for (const as of ['fetch', 'image', 'script', 'style', 'font']) add('link', { rel: 'preload', as, href: u }) }"),
    vector("N6", "prerender and speculation rules",
        "for (const u of urls) add('link', { rel: 'prerender', href: u });
         for (const kind of ['prefetch', 'prerender']) add('script', { type: 'speculationrules', textContent: JSON.stringify({ [kind]: [{ source: 'list', urls, eagerness: 'immediate' }] }) })"),
    vector("N7", "form", "const u = urls[0]; for (const method of ['post', 'get']) { const f = add('form', { action: u, method }); f.submit() }"),
    vector("N7", "form in a new window", "const f = add('form', { action: urls[1], method: 'post', target: '_blank' }); f.submit(); add('iframe', { name: 'n' }); const g = add('form', { action: urls[0], target: 'n' }); g.submit()"),
    vector("N7", "location", "location = urls[1]"),
    vector("N7", "a link", "const l = add('a', { href: urls[1] }); l.click()"),
    vector("N7", "a download", "const l = add('a', { href: urls[1], download: 'x' }); l.click()"),
    vector("N7", "a ping", "const l = add('a', { href: '#x', ping: urls.join(' ') }); l.click()"),
    vector("N7", "meta refresh", "add('meta', { httpEquiv: 'refresh', content: '0;url=' + urls[1] })"),
    vector("N7", "windows", "open(urls[1]); add('a', { href: urls[1], target: '_blank' }).click(); open(urls[0], '_self')"),
    vector("N7", "history", "history.pushState(1, '', '#1'); location.assign(urls[1]); history.back(); history.forward(); history.go(0); history.replaceState(2, '', '#2'); location.replace(urls[1]); history.go(-2)"),
    vector("N7", "document.write", "document.open(); document.write(`<img src='${urls[1]}'><script src='${urls[0]}'></` + 'script>'); document.close()"),
    vector("N8", "dedicated worker", "for (const u of urls) { quietly(() => new Worker(u)); quietly(() => new Worker(u, { type: 'module' })) }
            quietly(() => new Worker(blob(`importScripts('${urls[1]}')`))); quietly(() => new Worker(blob(`import '${urls[1]}'`), { type: 'module' }))"),
    vector("N8", "shared worker", "quietly(() => new SharedWorker(blob(`fetch('${urls[1]}').catch(() => 0); importScripts('${urls[0]}')`)))"),
    ineffective("N8", "service worker", "for (const u of urls) quietly(() => navigator.serviceWorker.register(u))", "a script of another origin is refused before it is fetched"),
    vector("N8", "worklets", "for (const u of urls) { quietly(() => new OfflineAudioContext(1, 1, 44100).audioWorklet.addModule(u)); quietly(() => CSS.paintWorklet.addModule(u)); quietly(() => sharedStorage.worklet.addModule(u)) }"),
    ineffective("N9", "reports",
        "add('meta', { httpEquiv: 'Content-Security-Policy', content: `img-src 'none'; report-uri ${urls[1]}; report-to x` }); add('meta', { httpEquiv: 'Report-To', content: JSON.stringify({ group: 'x', max_age: 9, endpoints: [{ url: urls[1] }] }) });
         add('meta', { httpEquiv: 'NEL', content: '{}' }); add('img', { src: 'data:,x' }); quietly(() => { new ReportingObserver(() => 0).observe() })",
        "a page cannot set the headers that ask for reports"),
    vector("N10", "FedCM, passkeys and payment",
        "for (const u of urls) { quietly(() => navigator.credentials.get({ identity: { mode: 'passive', providers: [{ configURL: u, clientId: 'x' }] } }));
            quietly(() => new PaymentRequest([{ supportedMethods: u }], { total: { label: 'x', amount: { currency: 'EUR', value: '1' } } }).canMakePayment());
            quietly(() => navigator.credentials.get({ publicKey: { challenge: new Uint8Array(9), rpId: hosts[0] } }));
            quietly(() => document.requestStorageAccessFor(u)); quietly(() => navigator.login.setStatus('logged-in')) }"),
    vector("N10", "names alone", "const [h] = hosts; for (let i = 0; i < 5; i++) { const u = `https://x${i}.${h}:${port}/`; add('link', { rel: 'dns-prefetch', href: u }); add('link', { rel: 'preconnect', href: u }); quietly(() => fetch(u)) }"),
    // This is apart from the other WebRTC vectors, because their multicast queries cannot be told
    // apart.
    vector("N3", MULTICAST,
        "quietly(async () => { const c = new RTCPeerConnection(), d = new RTCPeerConnection(); c.createDataChannel('x');
            await c.setLocalDescription(await c.createOffer()); await d.setRemoteDescription(c.localDescription);
            d.addIceCandidate({ candidate: `candidate:1 1 udp 2122260223 ${hosts[7]} ${port} typ host`, sdpMid: '0' });
            d.addIceCandidate({ candidate: `candidate:1 1 udp 2122260223 ${crypto.randomUUID()}.local ${port} typ host`, sdpMid: '0' }) })"),
];
