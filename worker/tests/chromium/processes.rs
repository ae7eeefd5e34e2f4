//! The processes behind the contracts: which there are, and that none is left. That they are
//! confined is in `confinement`.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use execution_worker::sandbox::LossCause;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::protocol::job::Limits;

use crate::driver::{Contract, config, eventually, run};
use crate::own_engine::{OwnEngine, Process};

#[test]
fn every_contract_has_its_own_renderer_which_ends_with_it() {
    run(async {
        let own = OwnEngine::start().await;
        let mut contracts = Vec::new();
        for count in 1..=4 {
            contracts.push(own.load("{ f: () => 1 }").await);
            // A renderer that a navigation left behind may take a moment to end.
            eventually("one renderer each", || own.renderers().len() == count).await;
        }
        for count in (0..4).rev() {
            contracts.pop().unwrap().close().await;
            assert_eq!(own.renderers().len(), count);
        }
        own.engine.shutdown().await;
    });
}

#[test]
fn a_contract_that_is_dropped_or_refused_leaves_no_renderer() {
    run(async {
        let own = OwnEngine::start().await;
        drop(own.load("{ f: () => 1 }").await);
        for source in ["{}", "{ f: ) }", "throw 1"] {
            Contract::try_load(&own.engine, Limits::default(), source)
                .await
                .map(drop)
                .unwrap_err();
        }
        eventually("no renderer is left", || own.renderers().is_empty()).await;
        own.engine.shutdown().await;
    });
}

#[test]
fn a_page_stuck_in_the_engine_does_not_outlive_its_contract() {
    run(async {
        let own = OwnEngine::start().await;
        let none = own.renderers();
        let source =
            "{ sort: () => { const a = []; for (let i = 0; i < 4e6; i++) a.push((i * 7919) % 1e7);
            a.sort((x, y) => 0); for (;;) a.sort() } }";
        let mut contract = own.load(source).await;
        contract.submit(&[("sort", None)]);
        let renderer = own.renderers().difference(&none).next().cloned().unwrap();
        drop(tokio::time::timeout(Duration::from_millis(300), contract.lost()).await);
        contract.close().await;
        eventually("the renderer is gone", || !renderer.is_alive()).await;
        own.engine.shutdown().await;
    });
}

#[test]
fn a_killed_renderer_loses_its_contract_and_no_other() {
    run(async {
        let own = OwnEngine::start().await;
        let mut other = own.load("{ f: () => 1 }").await;
        let before = own.renderers();
        let mut contract = own.load("{ f: () => new Promise(() => {}) }").await;
        contract.submit(&[("f", None)]);
        own.renderers().difference(&before).for_each(Process::kill);
        let reason = contract.lost().await;
        assert_eq!(reason, "its process ended");
        assert_eq!(contract.cause, Some(LossCause::Crash));
        assert_eq!(other.get("f").await.unwrap(), "1");
        contract.close().await;
        other.close().await;
        own.engine.shutdown().await;
    });
}

#[test]
fn a_killed_browser_is_replaced() {
    run(async {
        let mut own = OwnEngine::start().await;
        for victim in [OwnEngine::browser as fn(&OwnEngine) -> Process, |own| {
            own.guard.clone()
        }] {
            let tree = own.tree();
            let profile = own.profile();
            let mut contract = own.load("{ f: () => new Promise(() => {}) }").await;
            contract.submit(&[("f", None)]);
            victim(&own).kill();
            assert_eq!(contract.lost().await, "its browser ended");
            assert_eq!(contract.cause, Some(LossCause::Crash));
            contract.close().await;

            let mut next = own.load("{ f: () => 1 }").await;
            assert_eq!(next.get("f").await.unwrap(), "1");
            next.close().await;
            eventually("the old browser is gone", || {
                !tree.iter().any(Process::is_alive)
            })
            .await;
            assert!(!profile.exists());
            own.wait_for_restart().await;
        }
        own.engine.shutdown().await;
    });
}

/// A browser that runs but does not reply counts as dead.
#[test]
fn a_browser_that_does_not_reply_is_replaced() {
    run(async {
        let mut own = OwnEngine::start().await;
        let tree = own.tree();
        // No call is in flight: it would run over its limit before the heartbeat fails.
        let mut contract = own.load("{ f: () => 1 }").await;
        own.browser().stop();
        assert_eq!(contract.lost().await, "its browser stopped replying");
        // The machine may have been too busy.
        assert_eq!(contract.cause, Some(LossCause::Unresponsive));
        contract.close().await;
        own.wait_for_restart().await;
        assert!(!tree.iter().any(Process::is_alive));
        own.engine.shutdown().await;
    });
}

#[test]
fn after_shutdown_no_process_and_no_file_is_left() {
    run(async {
        let own = OwnEngine::start().await;
        let idle = own.load("{ f: () => 1 }").await;
        let mut busy = own.load("{ f: () => { for (;;) {} } }").await;
        busy.submit(&[("f", None)]);
        let (tree, profile) = (own.tree(), own.profile());
        assert!(tree.len() > 5 && profile.exists());
        own.engine.shutdown().await;
        assert!(!tree.iter().any(Process::is_alive));
        assert!(!profile.exists());
        // The end of the engine's tasks was expected.
        assert!(!own.life.has_failed());
        assert_eq!(busy.lost().await, "its browser ended");
        // Closing a page that is already gone is a no-op.
        idle.close().await;
        busy.close().await;
    });
}

#[test]
fn when_the_owner_of_the_guard_is_killed_no_process_and_no_file_is_left() {
    run(async {
        // Like a worker, the owner holds only the pipe.
        let mut owner = Command::new("sleep")
            .arg("1000")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let profile = std::env::temp_dir().join(format!("guard-test-{}", std::process::id()));
        let mut guard = Command::new(config().guard)
            .args(["browser-guard", profile.to_str().unwrap(), "60800-61055"])
            .arg(execution_worker::chromium::find(None).unwrap())
            .args(["--headless", "--remote-debugging-pipe=cbor", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(owner.stdout.take().unwrap())
            .stdout(OwnedFd::from(theirs))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let guard_pid = i32::try_from(guard.id()).unwrap();
        let is_up = || {
            Process::tree(guard_pid)
                .iter()
                .any(|p| p.is("--type=renderer"))
        };
        eventually("the browser is up", is_up).await;
        let tree = Process::tree(guard_pid);
        assert!(profile.exists());

        // The guard ignores termination signals: only its input ends it.
        kill(Pid::from_raw(guard_pid), Signal::SIGTERM).unwrap();
        kill(Pid::from_raw(guard_pid), Signal::SIGINT).unwrap();
        owner.kill().unwrap();
        owner.wait().unwrap();
        assert!(guard.wait().unwrap().success());
        assert!(!tree.iter().any(Process::is_alive));
        assert!(!profile.exists());
    });
}
