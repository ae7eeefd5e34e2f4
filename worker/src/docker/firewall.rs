//! Firewall rules that keep contracts from reaching the host, and anything beyond it.
//!
//! A host that can reach a container has an address in the container's network. Every service that
//! listens on all interfaces also listens on that address. Besides, the daemon makes a network
//! internal by firewall rules of the host, unless it is configured not to change the firewall.
//!
//! So two rules cover all contracts of all workers on the host. The first drops incoming packets
//! from a contract's bridge that are not responses. The second drops packets that a closed bridge
//! would forward. The rules remain when the workers end: they affect only the bridges of contracts,
//! and no worker can know whether it is the last one.

use tokio::process::Command;

/// The prefix of the names of the contracts' bridges.
pub(super) const BRIDGES: &str = "exb-";

/// The letter after the prefix: whether the bridge forwards packets to the outside.
pub(super) const CLOSED: char = 'c';
pub(super) const OPEN: char = 'o';

/// The fallback path, for a worker whose PATH lacks the folder of administration programs.
const SBIN: &str = "/usr/sbin/iptables";

/// Sets the rules, unless they are set already. The error is a text for a person.
pub(super) async fn close_host() -> Result<(), String> {
    let every = format!("{BRIDGES}+");
    let responses = [
        "--match",
        "conntrack",
        "!",
        "--ctstate",
        "ESTABLISHED,RELATED",
    ];
    ensure(&[&["INPUT", "--in-interface", &every][..], &responses].concat()).await?;
    let closed = format!("{BRIDGES}{CLOSED}+");
    ensure(&["FORWARD", "--in-interface", &closed]).await
}

/// Inserts a drop rule at the start of its chain, unless the chain has it already.
async fn ensure(rule: &[&str]) -> Result<(), String> {
    if run("--check", rule).await.is_ok() {
        return Ok(());
    }
    run("--insert", rule).await
}

async fn run(command: &str, rule: &[&str]) -> Result<(), String> {
    let arguments = [&["--wait", "5", command][..], rule, &["--jump", "DROP"]].concat();
    let output = |program| {
        Command::new(program)
            .args(&arguments)
            .kill_on_drop(true)
            .output()
    };
    let mut tried = output("iptables").await;
    if tried
        .as_ref()
        .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    {
        tried = output(SBIN).await;
    }
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("iptables cannot be run: {error}")),
    }
}
