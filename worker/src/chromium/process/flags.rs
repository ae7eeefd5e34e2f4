//! Chromium's command line.

use std::ffi::OsString;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::chromium::isolation::layers::{Layer, Layers};

/// The flags that every browser gets. The profile folder, the heap limit and the layers below are
/// added to them. No flag names a page to open: a browser without contracts has no renderer.
const FLAGS: [&str; 23] = [
    "--headless",
    "--no-first-run",
    // Descriptors 3 and 4, which only the worker and the browser have. No port: everybody on the
    // machine could connect to it.
    "--remote-debugging-pipe=cbor",
    "--disable-background-networking",
    // Chromium treats frozen pages as hidden, and keeps doing so once they are awake again.
    // Without these two flags their timers would be slowed down.
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-component-update",
    "--disable-sync",
    "--disable-domain-reliability",
    // Without graphics there is no graphics process whose memory a page could fill.
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--disable-3d-apis",
    "--mute-audio",
    // No device of the machine is opened for sound.
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
];

/// The flags that close the network and separate contracts, by the layer that they belong to.
const LAYER_FLAGS: [(Layer, &str); 9] = [
    // First no name or address is resolved; then all requests go to a proxy that does not exist.
    (Layer::Resolver, "--host-resolver-rules=MAP * ~NOTFOUND"),
    (Layer::Proxy, "--proxy-server=http://127.0.0.1:9"),
    (Layer::Proxy, "--proxy-bypass-list=<-loopback>"),
    // WebRTC ignores both. headless-shell and Chromium spell its policy differently.
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

/// Features that create renderers ahead, which could not be told apart from contracts' renderers;
/// and the process for sound, which would serve all contracts that ask for it, and outlive them.
const PROCESS_FEATURES: &str =
    "SpareRendererForSitePerProcess,IsolateSandboxedIframes,AudioServiceOutOfProcess";

/// Features that use the network.
const NETWORK_FEATURES: &str = "WebRtcHideLocalIpsWithMdns,FedCm,WebTransport,Prerender2,FetchLaterAPI,\
     MediaRouter,DialMediaRouteProvider,OptimizationHints";

/// The whole command line after the program's name.
pub(super) fn flags(profile: &Path, heap_mb: u32, layers: &Layers) -> Vec<OsString> {
    let mut all: Vec<OsString> = FLAGS.iter().map(OsString::from).collect();
    let on = LAYER_FLAGS.iter().filter(|(layer, _)| layers.has(*layer));
    all.extend(on.map(|(_, flag)| OsString::from(flag)));
    // Chromium uses only the last of several `--disable-features`, so there is one list.
    all.push(if layers.has(Layer::Features) {
        format!("--disable-features={NETWORK_FEATURES},{PROCESS_FEATURES}").into()
    } else {
        format!("--disable-features={PROCESS_FEATURES}").into()
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

/// Docker gives a container 64 MB of `/dev/shm`. A browser with many pages crashes with so little.
fn shared_memory_is_small() -> bool {
    const ENOUGH: u64 = 256 << 20;
    statvfs("/dev/shm").is_ok_and(|fs| fs.blocks().saturating_mul(fs.fragment_size()) < ENOUGH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_keeps_every_protection() {
        const NEVER: [&str; 14] = [
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
        let line = flags(Path::new("/tmp/profile"), 128, &Layers::default());
        let line: Vec<_> = line.iter().map(|flag| flag.to_str().unwrap()).collect();
        for never in NEVER {
            assert!(!line.iter().any(|flag| flag.starts_with(never)), "{never}");
        }
        for flag in [
            "--user-data-dir=/tmp/profile",
            "--js-flags=--max-old-space-size=128",
        ] {
            assert!(line.contains(&flag), "{flag}");
        }
        assert!(
            line.iter().all(|flag| flag.starts_with("--")),
            "the command line opens a page"
        );
    }

    #[test]
    fn every_flag_is_given_once() {
        let line = flags(Path::new("/tmp/profile"), 128, &Layers::default());
        let mut names: Vec<_> = line
            .iter()
            .map(|flag| flag.to_str().unwrap().split('=').next().unwrap())
            .collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        // Chromium uses only the last of two lists of features.
        assert_eq!(names.len(), all);
    }
}
