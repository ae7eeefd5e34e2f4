//! The limits of a page's processor time and memory, which are enforced from outside the page.

use std::fs;
use std::path::Path;
use std::time::Duration;

use execution_worker::chromium::{ChromiumConfig, Layers};
use execution_worker::sandbox::LossCause;
use shared::protocol::job::Limits;
use shared::protocol::reply::FailureCode;
use shared::service::config::Env;

use crate::driver::{Contract, config, patient, run};
use crate::own_engine::{OwnEngine, Process};

fn layers_from(variables: fn(&str) -> Option<String>) -> Layers {
    Layers::from_env(Env::table(variables)).unwrap()
}

#[test]
fn a_contract_that_computes_while_idle_is_lost() {
    run(async {
        const BURNS: &str =
            "{ f: () => { const f = () => { for (const t = Date.now(); Date.now() - t < 20;);
            setTimeout(f) }; f() }, g: () => 1 }";
        let strict = ChromiumConfig {
            idle_cpu: Duration::from_millis(100),
            ..config()
        };
        let own = OwnEngine::with(strict.clone()).await;
        let mut quiet = own.load("{ g: () => 1 }").await;
        let mut contract = own.load(BURNS).await;
        contract.get("f").await.unwrap();
        assert_eq!(
            contract.lost().await,
            "it used too much processor time while idle"
        );
        assert_eq!(contract.cause, Some(LossCause::Crash));
        contract.close().await;
        assert_eq!(quiet.get("g").await.unwrap(), "1");
        quiet.close().await;
        own.engine.shutdown().await;

        let layers = layers_from(|name| name.ends_with("LAYERS_OFF").then(|| "watch".to_owned()));
        let own = OwnEngine::with(ChromiumConfig { layers, ..strict }).await;
        let mut contract = own.load(BURNS).await;
        contract.get("f").await.unwrap();
        let lost = tokio::time::timeout(Duration::from_secs(2), contract.lost()).await;
        lost.expect_err("the watchdog is off");
        contract.close().await;
        own.engine.shutdown().await;
    });
}

#[test]
fn memory_outside_the_heap_is_limited() {
    run(async {
        const EATS: &str = "{ f: () => { const x = []; for (let i = 0; i < 24; i++)
            x.push(new Uint8Array(8 << 20).fill(1)); return x.length } }";
        let strict = ChromiumConfig {
            contract_mb: 96,
            ..config()
        };
        let own = OwnEngine::with(strict.clone()).await;
        let mut contract = own.load(EATS).await;
        let outcome = contract.run(&[("f", None)]).await.remove(0);
        assert!(
            outcome.is_lost() || outcome.code() == Some(FailureCode::ExecutionFailed),
            "{outcome:?}"
        );
        contract.close().await;
        own.engine.shutdown().await;

        let layers = layers_from(|name| name.ends_with("LAYERS_OFF").then(|| "memory".to_owned()));
        let own = OwnEngine::with(ChromiumConfig { layers, ..strict }).await;
        let mut contract = own.load(EATS).await;
        assert_eq!(contract.get("f").await.unwrap(), "24");
        contract.close().await;
        own.engine.shutdown().await;
    });
}

#[test]
fn a_browser_has_a_cgroup_where_the_system_allows_it() {
    run(async {
        let own = OwnEngine::with(ChromiumConfig {
            cgroup_mb: 2048,
            ..config()
        })
        .await;
        let contract = own.load("{ f: () => 1 }").await;
        let name = own
            .profile()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let groups = |process: &Process| {
            fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default()
        };
        let group = groups(&own.browser())
            .lines()
            .find(|line| line.contains(&name))
            .map(str::to_owned);
        assert!(
            group.is_some() || !can_create_cgroups(),
            "the browser has no cgroup"
        );
        if let Some(group) = &group {
            // The browser's processes are in it, and no others.
            for process in own.tree() {
                assert_eq!(
                    groups(&process).contains(&name),
                    process != own.guard,
                    "{process:?}"
                );
            }
            let path = group.rsplit(':').next().unwrap();
            let places = [
                format!("/sys/fs/cgroup/memory{path}"),
                format!("/sys/fs/cgroup{path}"),
            ];
            let place = places
                .iter()
                .map(Path::new)
                .find(|place| place.exists())
                .unwrap();
            let limits = ["memory.limit_in_bytes", "memory.max"];
            let limit = limits
                .iter()
                .find_map(|file| fs::read_to_string(place.join(file)).ok());
            assert_eq!(limit.unwrap().trim(), (2048_u64 << 20).to_string());
            contract.close().await;
            own.engine.shutdown().await;
            assert!(!place.exists());
        } else {
            // The system allows no cgroup here; the browser must work without one.
            eprintln!("SKIPPED: no memory cgroup can be created here");
            contract.close().await;
            own.engine.shutdown().await;
        }
    });
}

/// Whether this process can create a memory cgroup of version 1 below its own. With version 2 the
/// answer is always no, so the tests accept a browser without a cgroup there.
fn can_create_cgroups() -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let is_memory = controllers.split(',').any(|name| name == "memory");
        is_memory.then(|| format!("/sys/fs/cgroup/memory{path}"))
    });
    let probe = path.map(|path| Path::new(&path).join(format!("probe-{}", std::process::id())));
    probe.is_some_and(|probe| fs::create_dir(&probe).is_ok() && fs::remove_dir(&probe).is_ok())
}

#[test]
fn a_contract_that_fills_the_cgroup_is_killed_by_the_kernel() {
    if !can_create_cgroups() {
        eprintln!("SKIPPED: no memory cgroup can be created here");
        return;
    }
    run(async {
        const EATS: &str = "{ f: () => { globalThis.x = []; for (let i = 0; i < 100; i++)
            x.push(new Uint8Array(8 << 20).fill(1)); return x.length } }";
        // With this layer on, the renderer's own limit would apply first.
        let layers = layers_from(|name| name.ends_with("LAYERS_OFF").then(|| "memory".to_owned()));
        let own = OwnEngine::with(ChromiumConfig {
            layers,
            cgroup_mb: 512,
            ..config()
        })
        .await;
        let browser = own.browser();
        let mut quiet = own.load("{ f: () => 1 }").await;
        let mut contract = own.load(EATS).await;
        let outcome = contract.run(&[("f", None)]).await.remove(0);
        assert!(outcome.is_lost(), "{outcome:?}");
        assert_eq!(quiet.get("f").await.unwrap(), "1");
        assert!(browser.is_alive());
        contract.close().await;
        quiet.close().await;
        own.engine.shutdown().await;
    });
}

/// The browser's process holds blobs, so no limit of the page applies to them.
const BLOBS: &str =
    "{ f: async () => { globalThis.x = []; const b = new Uint8Array(8 << 20).fill(7);
    for (let i = 0; i < 30; i++) { x.push(new Blob([b])); await new Promise((r) => setTimeout(r)) }
    for (const t = Date.now(); Date.now() - t < 3000;) await new Promise((r) => setTimeout(r, 5));
    return x.length }, g: () => 1 }";

#[test]
fn a_contract_that_fills_the_browser_is_lost_and_no_other() {
    run(async {
        let roomy = ChromiumConfig {
            // 240 MB in blobs plus the browser's own need: above this limit, but below one and a
            // half times as much.
            browser_mb: 200,
            calls: patient(),
            ..config()
        };
        let own = OwnEngine::with(roomy.clone()).await;
        let browser = own.browser();
        let mut quiet = own.load("{ g: () => 1 }").await;
        let mut contract = own.load(BLOBS).await;
        contract.submit(&[("f", None)]);
        assert_eq!(
            contract.lost().await,
            "its browser held too much memory, and it was the busiest page"
        );
        contract.close().await;
        assert_eq!(quiet.get("g").await.unwrap(), "1");
        assert!(browser.is_alive());
        quiet.close().await;
        own.engine.shutdown().await;

        let layers = layers_from(|name| name.ends_with("LAYERS_OFF").then(|| "watch".to_owned()));
        let own = OwnEngine::with(ChromiumConfig { layers, ..roomy }).await;
        let before = own.browser().resident_mb();
        let mut contract = own.load(BLOBS).await;
        assert_eq!(contract.get("f").await.unwrap(), "30");
        let grown = own.browser().resident_mb() - before;
        assert!(grown > 200, "the browser has grown by only {grown} MB");
        contract.close().await;
        own.engine.shutdown().await;
    });
}

#[test]
fn a_contract_may_have_a_lower_memory_limit() {
    run(async {
        const EATS: &str = "{ f: () => { const x = []; for (let i = 0; i < 24; i++)
            x.push(new Uint8Array(8 << 20).fill(1)); return x.length } }";
        let own = OwnEngine::start().await;
        let limits = |memory_mb| Limits {
            memory_mb,
            ..Limits::default()
        };
        for (memory_mb, fits) in [(None, true), (Some(96), false)] {
            let contract = Contract::try_load(&own.engine, limits(memory_mb), EATS).await;
            let mut contract = contract.unwrap();
            let outcome = contract.run(&[("f", None)]).await.remove(0);
            assert_eq!(
                outcome.result() == Some("24"),
                fits,
                "{memory_mb:?}: {outcome:?}"
            );
            contract.close().await;
        }
        own.engine.shutdown().await;
    });
}
