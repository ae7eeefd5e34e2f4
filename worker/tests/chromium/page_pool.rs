//! Pages that are created before a contract needs them.

use std::collections::HashSet;

use execution_worker::chromium::ChromiumConfig;

use crate::driver::{config, eventually, run};
use crate::own_engine::{OwnEngine, Process};

async fn with_one_spare() -> OwnEngine {
    let own = OwnEngine::with(ChromiumConfig {
        spare_pages: 1,
        ..config()
    })
    .await;
    wait_for_spare(&own).await;
    own
}

async fn wait_for_spare(own: &OwnEngine) {
    eventually("a spare page", || own.engine.spare_pages() == 1).await;
    wait_for_renderers(own, 1).await;
}

async fn wait_for_renderers(own: &OwnEngine, count: usize) {
    let what = format!("{count} renderers");
    eventually(&what, || own.renderers().len() == count).await;
}

#[test]
fn a_contract_gets_the_page_that_was_created_ahead() {
    run(async {
        let own = with_one_spare().await;
        let spare = own.renderers();
        let mut contract = own.load("{ f: () => 1 }").await;
        assert_eq!(contract.get("f").await.unwrap(), "1");
        eventually("another spare page", || own.engine.spare_pages() == 1).await;
        wait_for_renderers(&own, 2).await;
        let others: HashSet<Process> = own.renderers().difference(&spare).cloned().collect();
        contract.close().await;
        wait_for_renderers(&own, 1).await;
        // The contract's page is gone; the remaining one is the new spare page.
        assert_eq!(own.renderers(), others);
        own.engine.shutdown().await;
    });
}

#[test]
fn a_dead_spare_page_is_not_given_to_a_contract() {
    run(async {
        let mut own = with_one_spare().await;
        for renderer in own.renderers() {
            renderer.kill();
        }
        let mut contract = own.load("{ f: () => 2 }").await;
        assert_eq!(contract.get("f").await.unwrap(), "2");
        wait_for_renderers(&own, 2).await;
        contract.close().await;

        own.browser().kill();
        own.wait_for_restart().await;
        wait_for_spare(&own).await;
        let mut contract = own.load("{ f: () => 3 }").await;
        assert_eq!(contract.get("f").await.unwrap(), "3");
        contract.close().await;
        own.engine.shutdown().await;
    });
}
