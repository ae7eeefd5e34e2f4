//! Where the programs under test are, and the environment in which they are started.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

/// The environment variables that the programs inherit. All others are removed, because a test must
/// not depend on the shell that it runs in.
const INHERITED: [&str; 5] = [
    "PATH",
    "HOME",
    "CHROMIUM_PATH",
    "CHROMIUM_UIDS",
    "RUST_BACKTRACE",
];

/// A command for `execution-api`, with a clean environment.
pub(crate) fn api() -> Command {
    api_in(&folder())
}

/// A command for `execution-worker`, with a clean environment.
pub(crate) fn worker() -> Command {
    worker_in(&folder())
}

/// As [`api`], of the version whose programs are in `folder`.
pub(crate) fn api_in(folder: &Path) -> Command {
    program(folder, "execution-api")
}

/// As [`worker`], of the version whose programs are in `folder`.
pub(crate) fn worker_in(folder: &Path) -> Command {
    program(folder, "execution-worker")
}

/// The folder of the programs: `PROGRAMS`, or that of the test's profile, two above
/// `target/PROFILE/deps/e2e-HASH`.
pub(crate) fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("PROGRAMS") {
        return folder.into();
    }
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test
        .ancestors()
        .nth(2)
        .expect("cargo puts tests in target/PROFILE/deps");
    folder.to_owned()
}

fn program(folder: &Path, name: &str) -> Command {
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is missing: build the programs first",
        path.display()
    );
    let mut command = Command::new(path);
    command.env_clear();
    for variable in INHERITED {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    command
}

/// A free port of the loopback interface.
///
/// It is below the range from which the system assigns port 0 and outgoing connections. So none of
/// those takes it before the program that it is meant for.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two runs at the same time start at different ports.
    let start = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(COUNT))
        .expect("a remainder is below its divisor");
    (0..COUNT)
        .map(|_| FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("one of 20,000 ports is free")
}
