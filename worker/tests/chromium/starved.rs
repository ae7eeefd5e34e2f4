//! Contracts whose processes get no processor time: the machine is to blame, not the contract.
//!
//! A stopped process stands for one that a crowded machine leaves without a turn.

use std::time::Duration;

use execution_worker::chromium::ChromiumConfig;
use execution_worker::sandbox::{LossCause, StartError};
use shared::protocol::job::Limits;

use crate::driver::{Contract, Outcome, config, eventually, run, within_ms};
use crate::own_engine::{OwnEngine, Process};

/// No call can be blamed, since none of them replies.
#[test]
fn a_page_that_gets_no_processor_time_has_not_crashed() {
    run(async {
        let own = OwnEngine::start().await;
        let limits = within_ms(200);
        let loading = Contract::try_load(&own.engine, limits, "{ f: (a) => a }").await;
        let mut contract = loading.unwrap();
        own.renderers().iter().for_each(Process::stop);
        let outcomes = contract.run(&[("f", Some("1")), ("f", Some("2"))]).await;
        assert!(outcomes.iter().all(Outcome::is_lost), "{outcomes:?}");
        assert_eq!(contract.cause, Some(LossCause::Timeout));
        contract.close().await;
        own.engine.shutdown().await;
    });
}

/// Also for an executable that would compute for ever: it is blamed for what it used.
#[test]
fn an_executable_without_processor_time_is_not_refused_as_invalid() {
    run(async {
        let own = OwnEngine::with(ChromiumConfig {
            load_limit: Duration::from_secs(8),
            ..config()
        })
        .await;
        let loading = Contract::try_load(&own.engine, Limits::default(), "for (;;) {}");
        let stopping = async {
            // More than the creation of a page takes, and far less than the half of the limit.
            let has_begun = |ticks| ticks > 80;
            eventually("the executable is evaluated", || {
                own.renderers().iter().any(|page| has_begun(page.ticks()))
            })
            .await;
            own.renderers().iter().for_each(Process::stop);
        };
        let (loaded, ()) = tokio::join!(loading, stopping);
        match loaded.map(drop) {
            Err(StartError::Unavailable(reason)) => {
                let begin = "The executable was not evaluated within 8000 ms, in which it got ";
                assert!(reason.starts_with(begin), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        eventually("the page is gone", || own.renderers().is_empty()).await;
        own.engine.shutdown().await;
    });
}

/// A spare page that is stuck delays a load, but does not fail it.
#[test]
fn a_stuck_page_is_replaced_during_a_load() {
    run(async {
        let own = OwnEngine::with(ChromiumConfig {
            spare_pages: 1,
            ..config()
        })
        .await;
        eventually("a spare page is ready", || own.engine.spare_pages() == 1).await;
        own.renderers().iter().for_each(Process::stop);
        let mut contract = own.load("{ f: () => 1 }").await;
        assert_eq!(contract.get("f").await.unwrap(), "1");
        contract.close().await;
        own.engine.shutdown().await;
    });
}
