//! Closes the host to contracts, and contracts to everything beyond it.
//!
//! A host that can reach a container has an address in the container's network, and everything that
//! listens on all interfaces listens there, too. And an internal network is one because the daemon
//! says so to the host's firewall, unless it was told to leave that alone.
//!
//! So there are two rules for all contracts of all workers on the host: what comes in from a
//! contract's bridge and is no answer is dropped, and what a closed bridge would forward is dropped.
//! They stay when the workers end: they hold for bridges of contracts only, and no worker can know
//! that it is the last one.

use tokio::process::Command;

/// How the names of the contracts' bridges begin.
pub(super) const BRIDGES: &str = "exb-";

/// The letter after that: whether the bridge leads anywhere.
pub(super) const CLOSED: char = 'c';
pub(super) const OPEN: char = 'o';

/// Where administrators' programs are, for a worker whose PATH lacks the folder.
const SBIN: &str = "/usr/sbin/iptables";

/// Makes sure that the rules stand.
///
/// The error says why they do not, for a person.
pub(super) async fn close_host() -> Result<(), String> {
    let every = format!("{BRIDGES}+");
    let answers = [
        "--match",
        "conntrack",
        "!",
        "--ctstate",
        "ESTABLISHED,RELATED",
    ];
    ensure(&[&["INPUT", "--in-interface", &every][..], &answers].concat()).await?;
    let closed = format!("{BRIDGES}{CLOSED}+");
    ensure(&["FORWARD", "--in-interface", &closed]).await
}

/// Puts a rule that drops before all others of its chain, if it is not there.
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
