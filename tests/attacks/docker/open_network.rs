//! The controls of D1: a network as Docker creates it by default, in which contracts do reach each
//! other and the host. It leads nowhere else.

use std::process::Command;

use super::docker_farm::DockerFarm;
use crate::support::daemon;

/// No other network uses this range. The workers use 10.213.0.0/16.
const SUBNET: &str = "10.214.9.0/28";
const GATEWAY: &str = "10.214.9.1";

/// The network, which some contracts' containers join in addition to their own.
pub(super) struct OpenNetwork {
    name: String,
}

impl OpenNetwork {
    pub(super) async fn around(farm: &DockerFarm, addresses: &[&str]) -> Result<Self, String> {
        let name = format!("execution-test-{}", uuid::Uuid::new_v4().simple());
        docker(&[
            "network",
            "create",
            "--internal",
            "--subnet",
            SUBNET,
            "--gateway",
            GATEWAY,
            &name,
        ])?;
        let network = Self { name };
        for address in addresses {
            let container = farm.container_name(address).await;
            docker(&["network", "connect", &network.name, &container])?;
        }
        Ok(network)
    }

    /// The host's address in the network.
    pub(super) fn gateway() -> &'static str {
        GATEWAY
    }

    /// A contract's address in the network.
    pub(super) async fn ip(&self, farm: &DockerFarm, address: &str) -> Option<String> {
        let container = farm.container(address).await;
        let networks = container.network_settings?.networks?;
        networks.get(&self.name)?.ip_address.clone()
    }
}

impl Drop for OpenNetwork {
    fn drop(&mut self) {
        // Its containers end with their contracts. Those that remain are disconnected by force.
        let script = "for c in $(docker network inspect --format '{{range $id, $_ := .Containers}}{{$id}} {{end}}' \"$0\")
            do docker network disconnect --force \"$0\" $c; done; docker network rm \"$0\"";
        let removed = Command::new("sh")
            .args(["-c", script, &self.name])
            .env("DOCKER_HOST", daemon::address())
            .output();
        if !removed.is_ok_and(|output| output.status.success()) {
            eprintln!("the network {} could not be removed", self.name);
        }
    }
}

fn docker(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("docker")
        .args(arguments)
        .env("DOCKER_HOST", daemon::address())
        .output()
        .map_err(|error| format!("docker cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("docker {}: {}", arguments.join(" "), said.trim()))
}
