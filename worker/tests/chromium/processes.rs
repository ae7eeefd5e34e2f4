//! The processes behind the contracts: who they are, that they are confined, and that none stays.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use execution_worker::chromium::{Chromium, ChromiumConfig, Layers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use shared::config::Env;
use shared::job::Limits;
use shared::reply::FailureCode;

use crate::driver::{Contract, config, eventually, run};

/// A process as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Process {
    pid: i32,
    parent: i32,
    born: String,
    command: Vec<String>,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if fields[0] == "Z" {
            return None;
        }
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command);
        let command = command.trim_end_matches('\0');
        // Chromium's own children write their whole line over the first argument.
        let separator = if command.contains('\0') { '\0' } else { ' ' };
        let command: Vec<String> = command.split(separator).map(str::to_owned).collect();
        Some(Self {
            pid,
            parent: fields[1].parse().ok()?,
            born: fields[19].to_owned(),
            command,
        })
    }

    fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").unwrap();
        entries
            .filter_map(|e| Self::read(e.ok()?.file_name().to_str()?.parse().ok()?))
            .collect()
    }

    /// This process and everything that came of it.
    fn tree(root: i32) -> Vec<Self> {
        let all = Self::all();
        let mut tree: Vec<Self> = all.iter().filter(|p| p.pid == root).cloned().collect();
        let mut next = 0;
        while next < tree.len() {
            let parent = tree[next].pid;
            tree.extend(all.iter().filter(|p| p.parent == parent).cloned());
            next += 1;
        }
        tree
    }

    fn is(&self, kind: &str) -> bool {
        self.command.iter().any(|argument| argument == kind)
    }

    fn is_alive(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.born == self.born)
    }

    fn kill(&self) {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).unwrap();
    }

    fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    }
}

/// An engine with one browser of its own, and that browser's processes.
struct Own {
    engine: Chromium,
    /// The guard's program under a name of its own, which tells its processes from other engines'.
    program: PathBuf,
    guard: Process,
    _folder: tempfile::TempDir,
}

impl Own {
    async fn start() -> Self {
        Self::with(config()).await
    }

    async fn with(config: ChromiumConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("worker");
        symlink(&config.guard, &program).unwrap();
        let config = ChromiumConfig {
            guard: program.clone(),
            ..config
        };
        let engine = Chromium::start(config).await.unwrap();
        let guard = Self::find_guard(&program).unwrap();
        Self {
            engine,
            program,
            guard,
            _folder: folder,
        }
    }

    fn find_guard(program: &Path) -> Option<Process> {
        Process::all()
            .into_iter()
            .find(|p| Path::new(&p.command[0]) == program)
    }

    /// Waits for the browser after the one that died.
    async fn again(&mut self) {
        let (program, old) = (&self.program, &self.guard);
        let is_new = || Self::find_guard(program).filter(|guard| guard != old);
        eventually("another guard is there", || is_new().is_some()).await;
        self.guard = is_new().unwrap();
    }

    fn tree(&self) -> Vec<Process> {
        Process::tree(self.guard.pid)
    }

    fn browser(&self) -> Process {
        let tree = self.tree();
        tree.into_iter()
            .find(|p| p.parent == self.guard.pid)
            .unwrap()
    }

    fn renderers(&self) -> HashSet<Process> {
        self.tree()
            .into_iter()
            .filter(|p| p.is("--type=renderer"))
            .collect()
    }

    fn profile(&self) -> PathBuf {
        let at = self
            .guard
            .command
            .iter()
            .position(|argument| argument == "browser-guard")
            .unwrap();
        PathBuf::from(&self.guard.command[at + 1])
    }

    async fn load(&self, source: &str) -> Contract {
        Contract::try_load(&self.engine, Limits::default(), source)
            .await
            .unwrap()
    }
}

#[test]
fn a_browser_is_confined() {
    run(async {
        let own = Own::start().await;
        let contract = own.load("{ f: () => 1 }").await;
        let browser = own.browser();
        for argument in [
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--proxy-server=http://127.0.0.1:9",
            "--proxy-bypass-list=<-loopback>",
            "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
            "--site-per-process",
            "--disable-gpu",
            "--js-flags=--max-old-space-size=128",
            &format!("--user-data-dir={}", own.profile().display()),
        ] {
            assert!(browser.is(argument), "{argument}: {:?}", browser.command);
        }
        let forbidden = ["--no-sandbox", "--single-process", "--disable-web-security"];
        for process in own.tree() {
            for argument in &process.command {
                assert!(
                    !forbidden.iter().any(|no| argument.starts_with(no)),
                    "{argument}"
                );
            }
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
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(own.profile()).unwrap().permissions(),
        );
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
        kill(Pid::from_raw(own.browser().pid), Signal::SIGSTOP).unwrap();
        assert_eq!(contract.lost().await, "its browser ended");
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

#[test]
fn an_installation_that_cannot_work_is_refused_with_a_reason() {
    run(async {
        let nonsense = ChromiumConfig {
            executable: Some("/bin/false".into()),
            ..config()
        };
        let error = Chromium::start(nonsense).await.unwrap_err().to_string();
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
                let error = Chromium::start(config).await.unwrap_err().to_string();
                assert!(error.contains(expected), "{error}");
            }
        }
    });
}
