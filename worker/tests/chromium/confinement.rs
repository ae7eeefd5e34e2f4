//! How the processes of a browser are confined: flags, users, limits, namespaces, and that nobody
//! else can speak to it.

use std::collections::HashSet;
use std::fs;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::unistd::geteuid;

use crate::driver::run;
use crate::own_engine::{OwnEngine, Process};

/// The browser's command line without its profile folder and heap limit. Read `docs/security.md`
/// before you change it, and change it here as well.
const COMMAND_LINE: [&str; 33] = [
    "--headless",
    "--no-first-run",
    "--remote-debugging-pipe=cbor",
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
    "--disable-audio-output",
    "--disable-audio-input",
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
     IsolateSandboxedIframes,AudioServiceOutOfProcess",
];

/// Flags that would turn off protections; no process may have them.
const FORBIDDEN: [&str; 14] = [
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
    "--remote-debugging-port",
    "--remote-allow-origins",
];

#[test]
fn a_browser_is_confined() {
    run(async {
        let own = OwnEngine::start().await;
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
                // The guard has the browser's whole command line among its arguments.
                let name = argument.split('=').next().unwrap_or_default();
                assert!(!FORBIDDEN.contains(&name), "{argument}");
            }
            // A graphics process must run without graphics, so that no page can fill its memory.
            let is_gpu = process.is("--type=gpu-process");
            assert!(!is_gpu || process.is("--use-gl=disabled"), "{process:?}");
        }
        has_a_user_of_its_own(&own);
        writes_no_core(&own);
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

/// All of a browser's processes run as one unprivileged user.
fn has_a_user_of_its_own(own: &OwnEngine) {
    let expected = own
        .browser()
        .status("Uid")
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned();
    if geteuid().is_root() {
        let expected: u32 = expected.parse().unwrap();
        assert!((60_800..=61_055).contains(&expected), "{expected}");
    } else {
        assert_eq!(expected, geteuid().to_string());
    }
    for process in own.tree().iter().filter(|p| **p != own.guard) {
        let uids = process.status("Uid");
        assert!(
            uids.split_whitespace().all(|u| u == expected),
            "{process:?}: {uids}"
        );
        assert!(!geteuid().is_root() || process.status("Groups").is_empty());
    }
}

fn writes_no_core(own: &OwnEngine) {
    for process in own.tree().iter().filter(|p| **p != own.guard) {
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid)).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core"))
            .unwrap();
        let core: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
        assert_eq!(core, ["0", "0"], "{process:?}");
    }
}

fn namespace(process: &Process, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{}/ns/{kind}", process.pid)).unwrap()
}

/// The sockets that a process has open, by their inodes.
fn sockets(pid: i32) -> HashSet<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter_map(|target| {
            let inode = target.to_str()?.strip_prefix("socket:[")?;
            Some(inode.strip_suffix(']')?.to_owned())
        })
        .collect()
}

/// The inodes of the TCP sockets that listen in a process' network.
fn listening(pid: i32) -> HashSet<String> {
    const LISTEN: &str = "0A";
    let tables = ["tcp", "tcp6"].map(|table| format!("/proc/{pid}/net/{table}"));
    let tables = tables.map(|path| fs::read_to_string(path).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines());
    lines
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(3);
            (fields.next()? == LISTEN).then(|| fields.nth(5).map(str::to_owned))?
        })
        .collect()
}

#[test]
fn no_browser_listens_on_a_port_and_only_the_browser_has_its_pipe() {
    run(async {
        // The same check finds a listener that there is.
        let own_pid = std::process::id().cast_signed();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let listens = |pid| !sockets(pid).is_disjoint(&listening(pid));
        assert!(listens(own_pid), "{link:?}");

        let own = OwnEngine::start().await;
        let contract = own.load("{ f: () => 1 }").await;
        let pipe = |pid, number| fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
        let browser = own.browser().pid;
        assert_eq!(pipe(browser, 3), pipe(browser, 4));
        let inode = pipe(browser, 3).to_str().unwrap().to_owned();
        assert!(inode.starts_with("socket:["), "{inode}");
        for process in own.tree() {
            assert!(!listens(process.pid), "{process:?}");
            let has_pipe = sockets(process.pid)
                .iter()
                .any(|socket| inode.contains(socket));
            assert_eq!(has_pipe, process.pid == browser, "{process:?}");
        }
        contract.close().await;
        own.engine.shutdown().await;
    });
}

/// Two browsers of one host, of one worker or of several, do not share a user.
#[test]
fn every_browser_has_a_user_of_its_own() {
    run(async {
        if !geteuid().is_root() {
            return;
        }
        let (one, other) = (OwnEngine::start().await, OwnEngine::start().await);
        assert_ne!(one.browser().status("Uid"), other.browser().status("Uid"));
        for own in [one, other] {
            own.engine.shutdown().await;
        }
    });
}

/// Chromium would start a process for sound with the first contract that asks for it, which would
/// then serve all contracts of the browser and outlive them.
#[test]
fn a_contract_that_plays_sound_starts_no_process() {
    run(async {
        let own = OwnEngine::start().await;
        let mut contract = own
            .load(
                "{ f: async () => {
                    const sound = new AudioContext();
                    sound.createOscillator().connect(sound.destination);
                    await Promise.race([sound.resume(), new Promise((r) => setTimeout(r, 1000))]);
                    await navigator.mediaDevices?.enumerateDevices();
                    return sound.sampleRate > 0;
                } }",
            )
            .await;
        // The context knows its rate, so the browser was asked for the sound device.
        assert_eq!(contract.get("f").await.unwrap(), "true");
        let kinds = || {
            let tree = own.tree();
            let kind = |process: &Process| {
                let mut arguments = process.command.iter();
                let kind =
                    arguments.find_map(|argument| argument.strip_prefix("--utility-sub-type="));
                kind.map(str::to_owned)
            };
            tree.iter().filter_map(kind).collect::<Vec<_>>()
        };
        assert!(
            !kinds().iter().any(|kind| kind.contains("audio")),
            "{:?}",
            kinds()
        );
        contract.close().await;
        own.engine.shutdown().await;
    });
}
