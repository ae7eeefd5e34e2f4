//! What a page may compute and hold, as seen from outside of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use execution_worker::chromium::{ChromiumConfig, Layers};
use shared::config::Env;
use shared::reply::FailureCode;

use crate::driver::{config, run};
use crate::own::{Own, Process};

fn without(layer: fn(&str) -> Option<String>) -> Layers {
    Layers::from_env(Env::table(layer)).unwrap()
}

#[test]
fn a_contract_that_computes_while_nobody_calls_it_is_lost() {
    run(async {
        const BURNS: &str =
            "{ f: () => { const f = () => { for (const t = Date.now(); Date.now() - t < 20;);
            setTimeout(f) }; f() }, g: () => 1 }";
        let strict = ChromiumConfig {
            idle_cpu: Duration::from_millis(100),
            ..config()
        };
        let own = Own::with(strict.clone()).await;
        let mut quiet = own.load("{ g: () => 1 }").await;
        let mut contract = own.load(BURNS).await;
        contract.get("f").await.unwrap();
        assert_eq!(contract.lost().await, "it computed while nobody called it");
        contract.close().await;
        assert_eq!(quiet.get("g").await.unwrap(), "1");
        quiet.close().await;
        own.engine.shutdown().await;

        let layers = without(|name| name.ends_with("LAYERS_OFF").then(|| "watch".to_owned()));
        let own = Own::with(ChromiumConfig { layers, ..strict }).await;
        let mut contract = own.load(BURNS).await;
        contract.get("f").await.unwrap();
        let lost = tokio::time::timeout(Duration::from_secs(2), contract.lost()).await;
        lost.expect_err("nobody watches");
        contract.close().await;
        own.engine.shutdown().await;
    });
}

#[test]
fn memory_outside_the_heap_is_bounded() {
    run(async {
        const EATS: &str = "{ f: () => { const x = []; for (let i = 0; i < 24; i++)
            x.push(new Uint8Array(8 << 20).fill(1)); return x.length } }";
        let strict = ChromiumConfig {
            contract_mb: 96,
            ..config()
        };
        let own = Own::with(strict.clone()).await;
        let mut contract = own.load(EATS).await;
        let fate = contract.run(&[("f", None)]).await.remove(0);
        assert!(
            fate.is_lost() || fate.code() == Some(FailureCode::ExecutionFailed),
            "{fate:?}"
        );
        contract.close().await;
        own.engine.shutdown().await;

        let layers = without(|name| name.ends_with("LAYERS_OFF").then(|| "memory".to_owned()));
        let own = Own::with(ChromiumConfig { layers, ..strict }).await;
        let mut contract = own.load(EATS).await;
        assert_eq!(contract.get("f").await.unwrap(), "24");
        contract.close().await;
        own.engine.shutdown().await;
    });
}

#[test]
fn a_browser_has_a_cgroup_where_one_can_be_made() {
    run(async {
        let own = Own::with(ChromiumConfig {
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
        if let Some(group) = &group {
            // All of it, and nobody else.
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
            // Nobody may make one here: the browser serves all the same.
            contract.close().await;
            own.engine.shutdown().await;
        }
    });
}
