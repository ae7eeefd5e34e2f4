//! Checks, by what the kernel reports, that Chromium's own sandbox confines a renderer.
//!
//! A worker runs JavaScript only after it has checked a renderer of each of its browsers. In a
//! container or on a hardened kernel the sandbox may work only in part, or not at all.

use std::fs;
use std::path::Path;

use nix::unistd::Pid;

/// The namespaces that a renderer must not share with the worker.
const NAMESPACES: [&str; 3] = ["user", "pid", "net"];

/// The protections that a renderer lacks; empty if it is fully confined.
pub(crate) fn gaps(pid: Pid) -> Vec<String> {
    gaps_in(Path::new("/proc"), &pid.to_string())
}

fn gaps_in(proc: &Path, pid: &str) -> Vec<String> {
    let status = fs::read_to_string(proc.join(pid).join("status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim()
    };
    let mut gaps = Vec::new();
    if field("Seccomp") != "2" {
        gaps.push("no system call filter".to_owned());
    }
    for set in ["CapEff", "CapPrm"] {
        if u64::from_str_radix(field(set), 16) != Ok(0) {
            gaps.push(format!("capabilities ({set})"));
        }
    }
    // The process's numbers, one for each namespace that it is visible in.
    if field("NSpid").split_whitespace().count() < 2 {
        gaps.push("no process namespace".to_owned());
    }
    for kind in NAMESPACES {
        let of = |pid: &str| fs::read_link(proc.join(pid).join("ns").join(kind));
        match (of(pid), of("self")) {
            (Ok(its), Ok(own)) if its != own => {}
            // Only root may read the links. Others check what they can see: the user mapping.
            (Err(_), _) if kind != "user" || maps_users(proc, pid) => {}
            _ => gaps.push(format!("no {kind} namespace")),
        }
    }
    if !has_no_network(proc, pid) {
        gaps.push("network devices".to_owned());
    }
    if !has_no_core_dumps(proc, pid) {
        gaps.push("core dumps".to_owned());
    }
    gaps
}

/// Whether the process has another user mapping than the worker.
fn maps_users(proc: &Path, pid: &str) -> bool {
    let map = |pid: &str| fs::read_to_string(proc.join(pid).join("uid_map"));
    matches!((map(pid), map("self")), (Ok(its), Ok(own)) if its != own)
}

/// Whether the loopback is the process's only network device.
fn has_no_network(proc: &Path, pid: &str) -> bool {
    let devices = fs::read_to_string(proc.join(pid).join("net/dev"));
    // Two header lines, then `NAME: COUNTERS`.
    let is_loopback = |line: &str| line.trim_start().starts_with("lo:");
    devices.is_ok_and(|devices| devices.lines().skip(2).all(is_loopback))
}

/// Whether neither limit of the size of a core dump allows one.
fn has_no_core_dumps(proc: &Path, pid: &str) -> bool {
    let limits = fs::read_to_string(proc.join(pid).join("limits")).unwrap_or_default();
    let mut lines = limits.lines();
    let limits = lines.find_map(|line| line.strip_prefix("Max core file size"));
    limits.is_some_and(|limits| limits.split_whitespace().take(2).eq(["0", "0"]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn fake_process(proc: &Path, pid: &str, status: &str, namespace: &str) {
        let process = proc.join(pid);
        fs::create_dir_all(process.join("ns")).unwrap();
        fs::create_dir_all(process.join("net")).unwrap();
        fs::write(process.join("status"), status).unwrap();
        fs::write(process.join("uid_map"), format!("0 {namespace} 1\n")).unwrap();
        fs::write(process.join("net/dev"), format!("{HEADINGS}    lo: 0 0\n")).unwrap();
        fs::write(process.join("limits"), NO_CORE).unwrap();
        for kind in NAMESPACES {
            symlink(
                format!("{kind}:[{namespace}]"),
                process.join("ns").join(kind),
            )
            .unwrap();
        }
    }

    const HEADINGS: &str = "Inter-|   Receive\n face |bytes\n";

    const NO_CORE: &str = "Limit  Soft Limit  Hard Limit  Units\n\
        Max core file size        0                    0                    bytes\n";

    const CONFINED: &str = "Name:\tx\nNSpid:\t42\t2\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nSeccomp:\t2\n";

    #[test]
    fn every_gap_is_found() {
        let proc = tempfile::tempdir().unwrap();
        fake_process(proc.path(), "self", "", "1");
        fake_process(proc.path(), "1", CONFINED, "2");
        assert_eq!(gaps_in(proc.path(), "1"), [""; 0]);

        let cases = [
            ("2", CONFINED.replace("Seccomp:\t2", "Seccomp:\t0"), "2", 1),
            ("3", CONFINED.replace("CapEff:\t0", "CapEff:\t2"), "2", 1),
            ("4", CONFINED.replace("42\t2", "42"), "2", 1),
            ("5", CONFINED.to_owned(), "1", 3),
            ("6", String::new(), "1", 7),
        ];
        for (pid, status, namespace, expected) in cases {
            fake_process(proc.path(), pid, &status, namespace);
            assert_eq!(gaps_in(proc.path(), pid).len(), expected, "{status}");
        }
    }

    /// Only root can read the links; the other files must lead to the same answer.
    #[test]
    fn without_the_namespace_links_the_other_files_decide() {
        let proc = tempfile::tempdir().unwrap();
        fake_process(proc.path(), "self", "", "1");
        for (pid, namespace, device, expected) in [
            ("1", "2", "lo", &[][..]),
            ("2", "1", "lo", &["no user namespace"]),
            ("3", "2", "eth0", &["network devices"]),
        ] {
            fake_process(proc.path(), pid, CONFINED, namespace);
            let process = proc.path().join(pid);
            fs::remove_dir_all(process.join("ns")).unwrap();
            let devices = format!("{HEADINGS}    lo: 0 0\n  {device}: 0 0\n");
            fs::write(process.join("net/dev"), devices).unwrap();
            assert_eq!(gaps_in(proc.path(), pid), expected);
        }
        fs::remove_file(proc.path().join("1/net/dev")).unwrap();
        assert_eq!(gaps_in(proc.path(), "1"), ["network devices"]);
    }

    #[test]
    fn a_core_dump_is_a_gap_with_either_limit() {
        let proc = tempfile::tempdir().unwrap();
        fake_process(proc.path(), "self", "", "1");
        fake_process(proc.path(), "1", CONFINED, "2");
        let limits = proc.path().join("1/limits");
        for some in [
            NO_CORE.replace(" 0   ", " unlimited "),
            NO_CORE.replacen(" 0 ", " 4096 ", 1),
            String::new(),
        ] {
            fs::write(&limits, some).unwrap();
            assert_eq!(gaps_in(proc.path(), "1"), ["core dumps"]);
        }
    }

    #[test]
    fn the_test_process_itself_is_not_confined() {
        assert!(gaps(nix::unistd::getpid()).len() >= 3);
    }
}
