//! An installation in which Chromium cannot run safely is refused at the start, with a reason.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use execution_worker::chromium::{Chromium, ChromiumConfig};
use nix::unistd::geteuid;
use shared::service::lifecycle::Lifecycle;

use crate::driver::{config, run};

#[test]
fn an_incomplete_installation_is_refused_with_a_reason() {
    run(async {
        let broken = ChromiumConfig {
            executable: Some("/bin/false".into()),
            ..config()
        };
        let error = Chromium::start(broken, Lifecycle::new())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("Chromium ended while it was started"),
            "{error}"
        );
        if geteuid().is_root() {
            // A range of one id, for two browsers.
            let config = ChromiumConfig {
                uids: "60799-60799".parse().unwrap(),
                browsers: 2,
                ..config()
            };
            let error = Chromium::start(config, Lifecycle::new())
                .await
                .unwrap_err()
                .to_string();
            assert!(error.contains("CHROMIUM_UIDS"), "{error}");
        }
    });
}

/// Where the kernel allows no new namespace, Chromium has no sandbox, and no contract runs.
#[test]
fn a_browser_without_a_sandbox_is_not_used() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let restricted = RestrictedNamespace::start(folder.path());
        let config = ChromiumConfig {
            guard: restricted.guard.clone(),
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

/// A user namespace in which no further one can be created, and a guard that runs in it. The limit
/// is that namespace's own, so other processes are not affected.
struct RestrictedNamespace {
    holder: std::process::Child,
    guard: PathBuf,
}

impl RestrictedNamespace {
    fn start(folder: &std::path::Path) -> Self {
        let program = config().guard;
        let forbid = "echo 0 >/proc/sys/user/max_user_namespaces";
        let guard = folder.join("guard");
        let (script, holder) = if geteuid().is_root() {
            // User ids are mapped to themselves, so that the guard can give up root in the
            // namespace.
            let holder = Command::new("unshare")
                .args(["--user", "sleep", "1000"])
                .spawn()
                .unwrap();
            let pid = holder.id();
            let is_separate = || {
                let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
                of(&pid.to_string()) != of("self")
            };
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while !is_separate() {
                assert!(std::time::Instant::now() < deadline, "no namespace in time");
                std::thread::yield_now();
            }
            for map in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{pid}/{map}"), "0 0 65536\n").unwrap();
            }
            let enter = format!("exec nsenter --target {pid} --user sh -c");
            (format!("{enter} '{forbid}; exec \"$0\" \"$@\"'"), holder)
        } else {
            let enter = "exec unshare --map-current-user --keep-caps sh -c";
            let holder = Command::new("true").spawn().unwrap();
            (format!("{enter} '{forbid}; exec \"$0\" \"$@\"'"), holder)
        };
        let script = format!("#!/bin/sh\n{script} {} \"$@\"\n", program.display());
        fs::write(&guard, script).unwrap();
        fs::set_permissions(&guard, fs::Permissions::from_mode(0o755)).unwrap();
        Self { holder, guard }
    }
}

impl Drop for RestrictedNamespace {
    fn drop(&mut self) {
        // Fails if the process has already ended.
        _ = self.holder.kill();
        _ = self.holder.wait();
    }
}
