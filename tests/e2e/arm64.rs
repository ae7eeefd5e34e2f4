//! The programs for arm64, on a machine with another processor: an emulator runs them.
//!
//! `make test-arm64` builds them and runs this module. `ARM64_PROGRAMS` names their folder; without
//! it these tests fail. Pages run in a worker for this machine's processor: the emulator cannot run
//! Chromium's sandbox. Docker contracts of a worker for arm64 are in `docker::arm64`.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use redis_servers::Kind;
use serde_json::json;
use tempfile::TempDir;

use crate::support::farm::Farm;
use crate::support::programs;

/// The number of arm64 in the header of an executable file.
const AARCH64: u16 = 183;

/// Where Debian puts the C library of another processor.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

const PROGRAMS: [&str; 2] = ["execution-api", "execution-worker"];

const CONTRACT: &str = "
let count = 0;
function echo(value) { count += 1; return { value, count } }
function init() { return { echo } }
";

/// A folder with a script for each program, which runs it in the emulator.
pub(crate) struct Emulated(TempDir);

impl Emulated {
    pub(crate) fn new() -> Self {
        let folder = TempDir::with_prefix("execution-arm64-").expect("a folder can be made");
        for name in PROGRAMS {
            let (program, path) = (built().join(name), folder.path().join(name));
            let program = program.display();
            let script =
                format!("#!/bin/sh\nexec qemu-aarch64 -L {LIBRARIES} '{program}' \"$@\"\n");
            fs::write(&path, script).expect("an own folder can be written");
            fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("an own file");
        }
        Self(folder)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }
}

/// The folder of the programs for arm64.
fn built() -> PathBuf {
    let folder = std::env::var_os("ARM64_PROGRAMS");
    folder
        .expect("ARM64_PROGRAMS names the programs for arm64: use `make test-arm64`")
        .into()
}

/// The processor that an executable file is for.
fn processor(program: &Path) -> u16 {
    let mut header = [0; 20];
    let mut file = File::open(program).expect("the program was built");
    file.read_exact(&mut header).expect("it has a header");
    assert!(header.starts_with(b"\x7fELF"), "{}", program.display());
    u16::from_le_bytes([header[18], header[19]])
}

fn version(mut command: Command) -> String {
    let output = command.arg("--version").output();
    let output = output.expect("`scripts/setup --arm64` installs the emulator");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("it is text")
}

#[test]
fn the_programs_are_for_arm64_and_run() {
    let emulated = Emulated::new();
    for name in PROGRAMS {
        assert_eq!(processor(&built().join(name)), AARCH64, "{name}");
        assert_ne!(processor(&programs::folder().join(name)), AARCH64, "{name}");
    }
    for command in [
        programs::api_in(emulated.folder()),
        programs::worker_in(emulated.folder()),
    ] {
        let version = version(command);
        let expected = concat!(env!("CARGO_PKG_VERSION"), " (");
        assert!(version.contains(expected), "{version}");
    }
}

/// An api for arm64 and a worker for this machine's processor serve together, on a Redis with TLS.
#[tokio::test]
async fn a_farm_of_two_processors_serves() {
    let emulated = Emulated::new();
    let farm = Farm::builder().programs(emulated.folder());
    let mut farm = farm.redis(Kind::Tls).workers(0).start().await;
    let client = farm.client().clone();
    assert_eq!(client.get("/healthz").await.status, 200);
    farm.use_programs(&programs::folder());
    farm.join().await;
    client.must_load("abcd", CONTRACT).await;
    // The last one is stored beside the job, because it is large.
    let values = [
        json!(null),
        json!([1.5, -0.25, "ü\u{1f600}"]),
        json!("x".repeat(200_000)),
    ];
    for (value, count) in values.into_iter().zip(1..) {
        let answer = client.execute("abcd", "echo", &value).await.data();
        assert_eq!(answer, json!({ "value": value, "count": count }));
    }
    client
        .call("abcd", "other")
        .await
        .error(404, "endpoint_not_found");
    let listed = client.contract("abcd").await;
    assert_eq!(listed["state"], "ready", "{listed}");
    farm.stop().await;
}
