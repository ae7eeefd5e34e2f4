//! The processes behind the contracts: who they are, that they are confined, and that none stays.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use execution_worker::chromium::{Chromium, ChromiumConfig};
use execution_worker::sandbox::LossCause;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use shared::protocol::job::Limits;
use shared::service::lifecycle::Lifecycle;

use crate::driver::{Contract, config, eventually, run};
use crate::own::{Own, Process};

/// Everything that the browser is told, but for its folder and its pages' heap. Whoever changes it
/// changes it here, too, and has read `docs/security.md`.
const COMMAND_LINE: [&str; 31] = [
    "--headless",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-component-update",
    "--disable-sync",
    "--disable-domain-reliability",
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--disable-3d-apis",
    "--mute-audio",
    "--disable-extensions",
    "--disable-breakpad",
    "--disable-notifications",
    "--disable-speech-api",
    "--disable-presentation-api",
    "--disable-remote-playback-api",
    "--disable-file-system",
    "--log-level=3",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=http://127.0.0.1:9",
    "--proxy-bypass-list=<-loopback>",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--disable-quic",
    "--no-pings",
    "--dns-prefetch-disable",
    "--site-per-process",
    "--disable-features=WebRtcHideLocalIpsWithMdns,FedCm,WebTransport,Prerender2,FetchLaterAPI,\
     MediaRouter,DialMediaRouteProvider,OptimizationHints,SpareRendererForSitePerProcess,\
     IsolateSandboxedIframes",
];

/// What would take protections away, whoever is told it.
const FORBIDDEN: [&str; 13] = [
    "--no-sandbox",
    "--disable-setuid-sandbox",
    "--disable-seccomp-filter-sandbox",
    "--disable-namespace-sandbox",
    "--single-process",
    "--no-zygote",
    "--in-process-gpu",
    "--disable-web-security",
    "--disable-site-isolation-trials",
    "--disable-popup-blocking",
    "--disable-ipc-flooding-protection",
    "--remote-debugging-address",
    "--remote-allow-origins",
];

#[test]
fn a_browser_is_confined() {
    run(async {
        let own = Own::start().await;
        let contract = own.load("{ f: () => 1 }").await;
        let browser = own.browser();
        let heap = "--js-flags=--max-old-space-size=128".to_owned();
        let profile = format!("--user-data-dir={}", own.profile().display());
        let mut expected: Vec<_> = COMMAND_LINE.map(str::to_owned).into();
        expected.extend([heap, profile]);
        let small = "--disable-dev-shm-usage";
        let mut line: Vec<_> = browser.command.iter().skip(1).cloned().collect();
        line.retain(|argument| argument != small);
        line.sort_unstable();
        expected.sort_unstable();
        assert_eq!(line, expected);
        for process in own.tree() {
            for argument in &process.command {
                // The guard's own process has the browser's whole line, too.
                let name = argument.split('=').next().unwrap_or_default();
                assert!(!FORBIDDEN.contains(&name), "{argument}");
            }
            // What draws has nothing to draw with: no page may fill it.
            let draws = process.is("--type=gpu-process");
            assert!(!draws || process.is("--use-gl=disabled"), "{process:?}");
        }
        let expected = if geteuid().is_root() {
            User::from_name("nobody").unwrap().unwrap().uid
        } else {
            geteuid()
        };
        for process in own.tree().iter().filter(|p| **p != own.guard) {
            let uids = process.status("Uid");
            assert!(
                uids.split_whitespace().all(|u| u == expected.to_string()),
                "{process:?}: {uids}"
            );
            assert!(!geteuid().is_root() || process.status("Groups").is_empty());
        }
        for renderer in own.renderers() {
            assert_eq!(renderer.status("Seccomp"), "2");
            assert_eq!(renderer.status("CapEff"), "0000000000000000");
            assert_ne!(namespace(&renderer, "net"), namespace(&browser, "net"));
        }
        let environment = fs::read_to_string(format!("/proc/{}/environ", browser.pid)).unwrap();
        let names: HashSet<_> = environment
            .split_terminator('\0')
            .filter_map(|v| v.split('=').next())
            .collect();
        assert_eq!(
            names,
            HashSet::from(["PATH", "LANG", "TZ", "HOME", "TMPDIR"])
        );
        let mode = PermissionsExt::mode(&fs::metadata(own.profile()).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700);
        contract.close().await;
        own.engine.shutdown().await;
    });
}

fn namespace(process: &Process, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{}/ns/{kind}", process.pid)).unwrap()
}

#[test]
fn every_contract_has_a_renderer_of_its_own_and_takes_it_along() {
    run(async {
        let own = Own::start().await;
        let mut contracts = Vec::new();
        for count in 1..=4 {
            contracts.push(own.load("{ f: () => 1 }").await);
            // A process that a navigation left behind may take a moment to go.
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
        let own = Own::start().await;
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
        let own = Own::start().await;
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
fn a_killed_renderer_is_a_lost_contract_and_only_that() {
    run(async {
        let own = Own::start().await;
        let mut other = own.load("{ f: () => 1 }").await;
        let before = own.renderers();
        let mut contract = own.load("{ f: () => new Promise(() => {}) }").await;
        contract.submit(&[("f", None)]);
        own.renderers().difference(&before).for_each(Process::kill);
        let reason = contract.lost().await;
        assert!(reason.starts_with("its process ended: "), "{reason}");
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
        let mut own = Own::start().await;
        for victim in [Own::browser as fn(&Own) -> Process, |own| own.guard.clone()] {
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
            own.again().await;
        }
        own.engine.shutdown().await;
    });
}

/// A browser that is there and says nothing is as good as dead.
#[test]
fn a_browser_that_does_not_answer_is_replaced() {
    run(async {
        let mut own = Own::start().await;
        let tree = own.tree();
        // No call is under way: that would be over its limit first.
        let mut contract = own.load("{ f: () => 1 }").await;
        own.browser().stop();
        assert_eq!(contract.lost().await, "its browser stopped replying");
        // The machine may have been too busy.
        assert_eq!(contract.cause, Some(LossCause::Unresponsive));
        contract.close().await;
        own.again().await;
        assert!(!tree.iter().any(Process::is_alive));
        own.engine.shutdown().await;
    });
}

#[test]
fn after_shutdown_nothing_is_left() {
    run(async {
        let own = Own::start().await;
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
        // Closing what is gone already does no harm.
        idle.close().await;
        busy.close().await;
    });
}

#[test]
fn when_the_owner_of_the_guard_is_killed_nothing_is_left() {
    run(async {
        // The owner holds nothing but the pipe, like a worker.
        let mut owner = Command::new("sleep")
            .arg("1000")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let profile = std::env::temp_dir().join(format!("guard-test-{}", std::process::id()));
        let mut guard = Command::new(config().guard)
            .args(["browser-guard", profile.to_str().unwrap(), "nobody"])
            .arg(execution_worker::chromium::find(None).unwrap())
            .args(["--headless", "--remote-debugging-port=0", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(owner.stdout.take().unwrap())
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

        // What is asked of the guard by signal it leaves to its owner.
        kill(Pid::from_raw(guard_pid), Signal::SIGTERM).unwrap();
        kill(Pid::from_raw(guard_pid), Signal::SIGINT).unwrap();
        owner.kill().unwrap();
        owner.wait().unwrap();
        assert!(guard.wait().unwrap().success());
        assert!(!tree.iter().any(Process::is_alive));
        assert!(!profile.exists());
    });
}

/// A protection taken away, to see that it was the one that mattered.
#[test]
fn an_installation_that_cannot_work_is_refused_with_a_reason() {
    run(async {
        let nonsense = ChromiumConfig {
            executable: Some("/bin/false".into()),
            ..config()
        };
        let error = Chromium::start(nonsense, Lifecycle::new())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("Chromium ended while it was started"),
            "{error}"
        );
        if geteuid().is_root() {
            for (user, expected) in [
                ("root", "must not run as root"),
                ("no such", "does not exist"),
            ] {
                let config = ChromiumConfig {
                    user: user.to_owned(),
                    ..config()
                };
                let error = Chromium::start(config, Lifecycle::new())
                    .await
                    .unwrap_err()
                    .to_string();
                assert!(error.contains(expected), "{error}");
            }
        }
    });
}

/// Where the kernel lets nobody make a namespace, no contract is ever served.
#[test]
fn without_its_sandbox_no_browser_is_used() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let barred = Barred::start(folder.path());
        let config = ChromiumConfig {
            guard: barred.guard.clone(),
            ..config()
        };
        let error = Chromium::start(config, Lifecycle::new())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("Chromium's sandbox cannot start: unprivileged user namespaces"),
            "{error}"
        );
    });
}

/// A namespace of users in which no further one may be made, and a guard that runs in there. Nothing
/// changes for others: the limit is that namespace's own.
struct Barred {
    holder: std::process::Child,
    guard: PathBuf,
}

impl Barred {
    fn start(folder: &std::path::Path) -> Self {
        let program = config().guard;
        let bar = "echo 0 >/proc/sys/user/max_user_namespaces";
        let guard = folder.join("guard");
        let (script, holder) = if geteuid().is_root() {
            // Identities stay as they are, so that the guard can give up root in there.
            let holder = Command::new("unshare")
                .args(["--user", "sleep", "1000"])
                .spawn()
                .unwrap();
            let pid = holder.id();
            let others = || {
                let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
                of(&pid.to_string()) != of("self")
            };
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while !others() {
                assert!(std::time::Instant::now() < deadline, "no namespace");
                std::thread::yield_now();
            }
            for map in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{pid}/{map}"), "0 0 65536\n").unwrap();
            }
            let enter = format!("exec nsenter --target {pid} --user sh -c");
            (format!("{enter} '{bar}; exec \"$0\" \"$@\"'"), holder)
        } else {
            let enter = "exec unshare --map-current-user --keep-caps sh -c";
            let holder = Command::new("true").spawn().unwrap();
            (format!("{enter} '{bar}; exec \"$0\" \"$@\"'"), holder)
        };
        let script = format!("#!/bin/sh\n{script} {} \"$@\"\n", program.display());
        fs::write(&guard, script).unwrap();
        fs::set_permissions(&guard, fs::Permissions::from_mode(0o755)).unwrap();
        Self { holder, guard }
    }
}

impl Drop for Barred {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.holder.kill();
        _ = self.holder.wait();
    }
}
