//! How Chromium is found and started, and with which command line.
//!
//! The browser itself is started by the `guard`; what is said to it afterwards is `browser`'s.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::time::timeout;

use crate::chromium::engine::ChromiumConfig;
use crate::chromium::isolation::layers::{Layer, Layers};
use crate::chromium::process::cgroup::Cgroup;
use crate::chromium::process::guard::{CGROUP, GUARD};

/// How long a browser may take until it listens, and again until it is connected.
pub(crate) const LAUNCH_LIMIT: Duration = Duration::from_secs(20);
/// How long the guard may take to end everything, before the guard is killed itself.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How much of what Chromium says is kept for an error message, in bytes.
const LOG_TAIL: usize = 4096;

/// Where distributions put Chromium. Only the program itself: the wrappers in `/usr/bin` are
/// shell scripts that start it as a child, which then outlives them.
const PLACES: [&str; 7] = [
    "/usr/lib/chromium/chromium-headless-shell",
    "/usr/lib/chromium/chromium",
    "/usr/lib/chromium-browser/chromium-browser",
    "/usr/lib64/chromium-browser/headless_shell",
    "/usr/lib64/chromium-browser/chromium-browser",
    "/headless-shell/headless-shell",
    "/opt/google/chrome/chrome",
];

/// The command line, but for the profile folder, the heap limit and the layers below. It names no page
/// to open: a browser without contracts has no renderer.
const ARGUMENTS: [&str; 21] = [
    "--headless",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--disable-background-networking",
    // Frozen pages count as hidden, and stay so when they are woken: no slower timers for them.
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-component-update",
    "--disable-sync",
    "--disable-domain-reliability",
    // No graphics process to fill.
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
];

/// What closes the network and keeps contracts apart, layer by layer.
const LAYERS: [(Layer, &str); 9] = [
    // No names and no addresses, then a proxy that is not there.
    (Layer::Resolver, "--host-resolver-rules=MAP * ~NOTFOUND"),
    (Layer::Proxy, "--proxy-server=http://127.0.0.1:9"),
    (Layer::Proxy, "--proxy-bypass-list=<-loopback>"),
    // WebRTC obeys neither; the two spellings are headless-shell's and Chromium's.
    (
        Layer::Webrtc,
        "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    ),
    (
        Layer::Webrtc,
        "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    ),
    (Layer::Features, "--disable-quic"),
    (Layer::Features, "--no-pings"),
    (Layer::Features, "--dns-prefetch-disable"),
    // One renderer per contract.
    (Layer::Processes, "--site-per-process"),
];

/// Renderers made ahead could not be told apart from those of contracts.
const NO_SPARES: &str = "SpareRendererForSitePerProcess,IsolateSandboxedIframes";

/// Features that talk to the outside.
const FEATURES: &str = "WebRtcHideLocalIpsWithMdns,FedCm,WebTransport,Prerender2,FetchLaterAPI,\
     MediaRouter,DialMediaRouteProvider,OptimizationHints";

/// Why a browser did not come up.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No Chromium on this machine.
    #[error(
        "Chromium was not found in {tried}; install chromium-headless-shell or set CHROMIUM_PATH"
    )]
    NotFound {
        /// Where it was looked for.
        tried: String,
    },
    /// The configured path is a script.
    #[error("{0} is a shell script that starts Chromium; set CHROMIUM_PATH to the program itself")]
    Script(PathBuf),
    /// The guard could not be started.
    #[error("the browser's guard cannot be started: {0}")]
    Guard(std::io::Error),
    /// Chromium's sandbox does not work here. There is no way to run without it.
    #[error(
        "Chromium's sandbox cannot start: unprivileged user namespaces must be allowed (in a \
         container, by a seccomp profile that permits clone, unshare and chroot). Chromium said: {0}"
    )]
    NoSandbox(String),
    /// It runs, but not as confined as it must be.
    #[error(
        "Chromium's sandbox does not hold: {0}. Unprivileged user namespaces and seccomp filters must \
         be allowed (in a container, by a seccomp profile that permits clone, unshare and chroot; on \
         Ubuntu 23.10 and later, by an AppArmor profile for Chromium or \
         kernel.apparmor_restrict_unprivileged_userns=0). JavaScript is not served without it"
    )]
    Unconfined(String),
    /// It ended before it listened.
    #[error("Chromium ended while it was started. It said: {0}")]
    Ended(String),
    /// It did not listen in time.
    #[error("Chromium did not come up within {LAUNCH_LIMIT:?}. It said: {0}")]
    TooSlow(String),
    /// It listens, but cannot be spoken to.
    #[error("Chromium cannot be connected to: {0}")]
    Connect(String),
}

/// Finds Chromium's program: the configured one, or else the first that exists.
pub fn find(configured: Option<&Path>) -> Result<PathBuf, LaunchError> {
    let found = match configured {
        Some(path) => Some(path).filter(|path| path.is_file()),
        None => PLACES.iter().map(Path::new).find(|path| path.is_file()),
    };
    let Some(path) = found else {
        let tried = configured.map_or_else(|| PLACES.join(", "), |p| p.display().to_string());
        return Err(LaunchError::NotFound { tried });
    };
    let mut start = [0; 2];
    if File::open(path)
        .and_then(|mut file| file.read_exact(&mut start))
        .is_ok()
        && start == *b"#!"
    {
        return Err(LaunchError::Script(path.to_owned()));
    }
    Ok(path.to_owned())
}

/// The whole command line after the program's name.
fn arguments(profile: &Path, heap_mb: u32, layers: &Layers) -> Vec<OsString> {
    let mut all: Vec<OsString> = ARGUMENTS.iter().map(OsString::from).collect();
    let on = LAYERS.iter().filter(|(layer, _)| layers.has(*layer));
    all.extend(on.map(|(_, argument)| OsString::from(argument)));
    // Chromium takes only the last of two lists of features.
    all.push(if layers.has(Layer::Features) {
        format!("--disable-features={FEATURES},{NO_SPARES}").into()
    } else {
        format!("--disable-features={NO_SPARES}").into()
    });
    if !layers.has(Layer::Processes) {
        all.push("--renderer-process-limit=1".into());
    }
    let mut folder = OsString::from("--user-data-dir=");
    folder.push(profile);
    all.push(folder);
    all.push(format!("--js-flags=--max-old-space-size={heap_mb}").into());
    if shared_memory_is_small() {
        all.push("--disable-dev-shm-usage".into());
    }
    all
}

/// Docker gives a container 64 MB of `/dev/shm`, of which a browser with many pages dies.
fn shared_memory_is_small() -> bool {
    const ENOUGH: u64 = 256 << 20;
    statvfs("/dev/shm").is_ok_and(|fs| fs.blocks().saturating_mul(fs.fragment_size()) < ENOUGH)
}

/// A browser's processes, as far as the worker holds them. Dropping it ends them as well, only
/// without waiting for it.
#[derive(Debug)]
pub(crate) struct Guarded {
    guard: Child,
    /// Open for as long as the browser shall live.
    pipe: Option<ChildStdin>,
    profile: PathBuf,
    cgroup: Option<Cgroup>,
}

impl Guarded {
    /// Starts a guard and its browser; gives the address of the browser's debugger, and what
    /// the browser goes on to say.
    pub(crate) async fn start(
        config: &ChromiumConfig,
    ) -> Result<(Self, String, ChildStderr), LaunchError> {
        let chromium = find(config.executable.as_deref())?;
        let name = format!(
            "execution-worker-chromium-{}",
            uuid::Uuid::new_v4().simple()
        );
        let profile = std::env::temp_dir().join(&name);
        let cgroup = Some(config.cgroup_mb).filter(|limit| *limit > 0);
        let cgroup = cgroup.and_then(|limit| match Cgroup::create(&name, limit) {
            Ok(cgroup) => Some(cgroup),
            Err(error) => {
                tracing::info!(%error, "no memory cgroup around this browser; the other limits hold");
                None
            }
        });
        let joined = cgroup.iter().map(|cgroup| (CGROUP, cgroup.path()));
        let mut guard = Command::new(&config.guard)
            .arg(GUARD)
            .arg(&profile)
            .arg(&config.user)
            .arg(chromium)
            .args(arguments(&profile, config.heap_mb, &config.layers))
            // The worker's environment holds secrets that a browser has no use for.
            .env_clear()
            .envs(joined)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(LaunchError::Guard)?;
        let pipe = guard.stdin.take();
        let stderr = guard.stderr.take();
        let guarded = Self {
            guard,
            pipe,
            profile,
            cgroup,
        };
        let mut stderr = stderr.expect("stderr is piped");
        match address(&mut stderr).await {
            Ok(address) => Ok((guarded, address, stderr)),
            Err(error) => {
                guarded.end().await;
                Err(error)
            }
        }
    }

    /// Waits for the guard's own end, after which nothing of the browser is left. Cancel safe.
    pub(crate) async fn ended(&mut self) {
        if let Err(error) = self.guard.wait().await {
            tracing::warn!(%error, "cannot wait for a browser's guard");
        }
    }

    /// Ends the browser and everything that belongs to it.
    pub(crate) async fn end(mut self) {
        drop(self.pipe.take());
        if timeout(END_LIMIT, self.ended()).await.is_err() {
            tracing::warn!("a browser's guard does not end; killing it");
            if let Err(error) = self.guard.kill().await {
                tracing::warn!(%error, "cannot kill a browser's guard");
            }
        }
        // The guard removed both, unless somebody killed the guard.
        self.cgroup.iter().for_each(Cgroup::remove);
        match tokio::fs::remove_dir_all(&self.profile).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, profile = %self.profile.display(), "a profile folder stays");
            }
            _ => {}
        }
    }
}

/// Reads the address of the debugger from what the browser says first.
async fn address(stderr: &mut ChildStderr) -> Result<String, LaunchError> {
    let mut said = String::new();
    let reading = async {
        let mut buffer = [0; 2048];
        loop {
            let length = stderr.read(&mut buffer).await?;
            if length == 0 {
                return Ok::<_, std::io::Error>(None);
            }
            said.push_str(&String::from_utf8_lossy(&buffer[..length]));
            if let Some(address) = announced(&said) {
                return Ok(Some(address.to_owned()));
            }
        }
    };
    let outcome = timeout(LAUNCH_LIMIT, reading).await;
    let tail = || {
        said[said.floor_char_boundary(said.len().saturating_sub(LOG_TAIL))..]
            .trim()
            .into()
    };
    match outcome {
        Ok(Ok(Some(address))) => Ok(address),
        Ok(Ok(None)) if said.contains("No usable sandbox") => Err(LaunchError::NoSandbox(tail())),
        Ok(Ok(None)) => Err(LaunchError::Ended(tail())),
        Ok(Err(error)) => Err(LaunchError::Guard(error)),
        Err(_) => Err(LaunchError::TooSlow(tail())),
    }
}

/// The address in a line such as `DevTools listening on ws://127.0.0.1:1234/devtools/browser/ID`.
fn announced(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("DevTools listening on ")?;
    let (address, _) = rest.split_once('\n')?;
    Some(address.trim())
}

/// Reads on until the browser is gone, so that it never waits for a reader.
pub(crate) async fn drain(mut stderr: ChildStderr) {
    let mut buffer = [0; 2048];
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        let said = String::from_utf8_lossy(&buffer[..length]);
        tracing::debug!(said = said.trim_end(), "Chromium");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_keeps_every_protection() {
        const NEVER: [&str; 13] = [
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
        let line = arguments(Path::new("/tmp/profile"), 128, &Layers::default());
        let line: Vec<_> = line
            .iter()
            .map(|argument| argument.to_str().unwrap())
            .collect();
        for never in NEVER {
            assert!(
                !line.iter().any(|argument| argument.starts_with(never)),
                "{never}"
            );
        }
        for argument in [
            "--user-data-dir=/tmp/profile",
            "--js-flags=--max-old-space-size=128",
        ] {
            assert!(line.contains(&argument), "{argument}");
        }
        assert!(
            line.iter().all(|argument| argument.starts_with("--")),
            "a page is opened"
        );
    }

    #[test]
    fn every_option_is_said_once() {
        let line = arguments(Path::new("/tmp/profile"), 128, &Layers::default());
        let mut names: Vec<_> = line
            .iter()
            .map(|a| a.to_str().unwrap().split('=').next().unwrap())
            .collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        // Chromium takes only the last of two lists of features.
        assert_eq!(names.len(), all);
    }

    #[test]
    fn a_script_and_a_missing_program_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("chromium");
        std::fs::write(&script, "#!/bin/sh\nchromium-real\n").unwrap();
        assert!(matches!(find(Some(&script)), Err(LaunchError::Script(path)) if path == script));
        let missing = folder.path().join("missing");
        assert!(matches!(
            find(Some(&missing)),
            Err(LaunchError::NotFound { .. })
        ));
    }

    #[test]
    fn the_address_is_taken_only_when_the_line_is_complete() {
        let line = "[1:2] noise\n\nDevTools listening on ws://127.0.0.1:1/devtools/browser/a-b\n";
        assert_eq!(
            announced(line),
            Some("ws://127.0.0.1:1/devtools/browser/a-b")
        );
        assert_eq!(announced(line.trim_end()), None);
        assert_eq!(announced("noise\n"), None);
    }
}
