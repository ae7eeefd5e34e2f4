//! A contract reaches neither another contract nor the network.

use crate::driver::{Contract, run};

#[test]
fn contracts_share_nothing() {
    run(async {
        let source = "{
            put: (a) => { globalThis.x = a; Object.prototype.y = a;
                try { localStorage.z = a } catch (e) { return e.name } },
            get: () => [typeof x, typeof ({}).y],
            broadcast: () => { try { new BroadcastChannel('c').postMessage(1); return 'sent' } catch (e) { return e.name } },
            origin: () => { try { return document.cookie } catch (e) { return [origin, e.name] } },
        }";
        let mut one = Contract::load(source).await;
        let mut other = Contract::load(source).await;
        assert_eq!(one.call("put", "1").await.unwrap(), "\"SecurityError\"");
        assert_eq!(one.get("get").await.unwrap(), r#"["number","number"]"#);
        assert_eq!(
            other.get("get").await.unwrap(),
            r#"["undefined","undefined"]"#
        );
        for contract in [&mut one, &mut other] {
            assert_eq!(
                contract.get("origin").await.unwrap(),
                r#"["null","SecurityError"]"#
            );
        }
        one.close().await;
        other.close().await;
    });
}

#[test]
fn state_is_kept_between_calls() {
    run(async {
        let mut contract = Contract::load("let n = 0; const init = () => ({ f: () => ++n })").await;
        for expected in ["1", "2", "3"] {
            assert_eq!(contract.get("f").await.unwrap(), expected);
        }
        contract.close().await;
    });
}

#[test]
fn no_request_leaves_the_page() {
    run(async {
        // Requests to this listener may be refused or aborted, but must never connect.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let source = "{
            fetch: (u) => fetch(u).then(() => 'done', (e) => e.name),
            xhr: (u) => { const x = new XMLHttpRequest(); x.open('GET', u, false);
                try { x.send(); return 'done' } catch (e) { return e.name } },
            socket: (u) => new Promise((r) => { try { const s = new WebSocket(u.replace('http', 'ws'));
                s.onopen = () => r('done'); s.onerror = () => r('Error') } catch (e) { r(e.name) } }),
            image: (u) => new Promise((r) => { const i = new Image(); i.onload = () => r('done');
                i.onerror = () => r('Error'); i.src = u }),
            script: (u) => new Promise((r) => { const s = document.createElement('script');
                s.onload = () => r('done'); s.onerror = () => r('Error'); s.src = u; document.documentElement.append(s) }),
            load: (u) => import(u).then(() => 'done', (e) => e.name),
            beacon: (u) => { try { navigator.sendBeacon(u, 'x') } catch {} return 'Error' },
            navigate: (u) => { location = u; return 'Error' },
        }";
        let mut contract = Contract::load(source).await;
        for method in [
            "fetch", "xhr", "socket", "image", "script", "load", "beacon", "navigate",
        ] {
            for host in ["127.0.0.1", "localhost", "[::1]"] {
                let url = format!("\"http://{host}:{port}/\"");
                let result = contract.call(method, &url).await.unwrap();
                assert_ne!(result, "\"done\"", "{method} {url}");
            }
        }
        contract.close().await;
        let connection =
            tokio::time::timeout(std::time::Duration::from_millis(300), listener.accept());
        assert!(connection.await.is_err(), "a request connected");
    });
}

#[test]
fn no_feature_is_allowed() {
    run(async {
        let source = "{ f: () => document.featurePolicy.allowedFeatures(),
            known: () => document.featurePolicy.features().length > 50 }";
        let mut contract = Contract::load(source).await;
        assert_eq!(contract.get("f").await.unwrap(), "[]");
        // Without known features the empty list would prove nothing.
        assert_eq!(contract.get("known").await.unwrap(), "true");
        contract.close().await;
    });
}

#[test]
fn a_web_worker_does_not_run() {
    run(async {
        let source = "{ f: () => new Promise((r) => { try {
            const w = new Worker(URL.createObjectURL(new Blob(['postMessage(1)'])));
            w.onmessage = () => r('ran'); w.onerror = () => r('Error') } catch (e) { r(e.name) } }) }";
        let mut contract = Contract::load(source).await;
        assert_ne!(contract.get("f").await.unwrap(), "\"ran\"");
        contract.close().await;
    });
}
