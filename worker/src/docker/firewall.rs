//! Firewall rules that keep contracts from reaching the host, and anything beyond it.
//!
//! A host that can reach a container has an address in the container's network. Every service that
//! listens on all interfaces also listens on that address. Besides, the daemon makes a network
//! internal by firewall rules of the host, unless it is configured not to change the firewall.
//!
//! So two rules cover all contracts of all workers on the host. The first drops incoming packets
//! from a contract's bridge that are not responses. The second drops packets that would leave a
//! closed bridge. What stays within a bridge is the daemon's decision: a worker in a container is
//! reached there. The rules remain when the workers end: they affect only the bridges of contracts,
//! and no worker can know whether it is the last one.
//!
//! A rule has no effect behind one that accepts the packet. The rules are therefore in the table
//! `mangle`, which decides before `filter`, where the daemon and most programs add their rules; and
//! each must be the first of its chain. That is checked with every new network and every sweep.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The prefix of the names of the contracts' bridges.
pub(super) const BRIDGES: &str = "exb-";

/// The letter after the prefix: whether the bridge forwards packets to the outside.
pub(super) const CLOSED: char = 'c';
pub(super) const OPEN: char = 'o';

/// The rules, each with its chain, in the form in which `iptables` lists them.
const RULES: [(&str, &str); 2] = [
    (
        "INPUT",
        "-i exb-+ -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP",
    ),
    (
        "FORWARD",
        "-i exb-c+ -m physdev ! --physdev-is-bridged -j DROP",
    ),
];

/// How long another program may hold the lock of the tables, in seconds.
const WAIT: [&str; 2] = ["--wait", "5"];

/// Makes each rule the first of its chain, unless it is already. The error is a text for a person.
/// Two workers may do so at once: each change is one transaction that leaves a rule in its place.
pub(super) async fn close_host() -> Result<(), String> {
    let listed = iptables(&["--table", "mangle", "--list-rules"]).await?;
    let displaced = displaced(&listed);
    if displaced.is_empty() {
        return Ok(());
    }
    let mut changes = "*mangle\n".to_owned();
    for (chain, rule) in displaced {
        let arguments: Vec<_> = ["--table", "mangle", "--check", chain]
            .into_iter()
            .chain(rule.split(' '))
            .collect();
        if iptables(&arguments).await.is_ok() {
            tracing::warn!(
                chain,
                rule,
                "firewall rule moved back to the start of its chain"
            );
            changes.extend(["-D ", chain, " ", rule, "\n"]);
        }
        changes.extend(["-I ", chain, " 1 ", rule, "\n"]);
    }
    changes += "COMMIT\n";
    let restore = run("iptables-restore", &["--noflush"], &changes);
    restore.await.map(drop)
}

/// The rules that are not the first of their chain.
fn displaced(listed: &str) -> Vec<(&'static str, &'static str)> {
    let is_displaced = |(chain, rule): &(&str, &str)| {
        let start = format!("-A {chain} ");
        let first = listed.lines().find_map(|line| line.strip_prefix(&start));
        first.map(str::trim) != Some(*rule)
    };
    RULES.into_iter().filter(is_displaced).collect()
}

async fn iptables(arguments: &[&str]) -> Result<String, String> {
    run("iptables", arguments, "").await
}

/// Runs a program of iptables with this input; returns its output.
async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let start = |program: &str| {
        Command::new(program)
            .args(WAIT)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    };
    let mut started = start(program);
    let is_missing = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    if started.as_ref().is_err_and(is_missing) {
        // The PATH of the worker may lack the folder of administration programs.
        started = start(&format!("/usr/sbin/{program}"));
    }
    let finished = async {
        let mut child = started?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    match finished.await {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{program} cannot be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n\
        -A INPUT -i exb-+ -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP\n\
        -A INPUT -i eth0 -j ACCEPT\n-A FORWARD -i exb-c+ -m physdev ! --physdev-is-bridged -j DROP\n";

    #[test]
    fn only_a_rule_at_the_start_of_its_chain_is_in_its_place() {
        assert_eq!(displaced(SET), []);
        assert_eq!(displaced(""), RULES);
        let behind = format!("-A FORWARD -j ACCEPT\n{SET}");
        assert_eq!(displaced(&behind), RULES[1..]);
        let changed = SET.replace("exb-c+", "exb-c1");
        assert_eq!(displaced(&changed), RULES[1..]);
    }

    #[test]
    fn the_rules_are_for_the_bridges_of_contracts() {
        assert!(RULES[0].1.starts_with(&format!("-i {BRIDGES}+ ")));
        assert!(RULES[1].1.starts_with(&format!("-i {BRIDGES}{CLOSED}+ ")));
    }
}
