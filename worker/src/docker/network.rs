//! A network for each contract: internal, with eight addresses. Only the contract and the worker
//! that calls it are in it.
//!
//! A worker on the host calls the contract from the network's gateway address; [`firewall`] keeps
//! the contract from connecting back. A worker in a container joins the network, in which the host
//! then has no address.

use std::collections::HashMap;
use std::sync::Once;

use bollard::models::{
    Ipam, IpamConfig, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest,
};

use super::daemon::Docker;
use super::location::Location;
use super::{error, firewall, labels};
use crate::sandbox::StartError;

impl Docker {
    /// Creates a network for this worker and one container. With `egress`, the container can also
    /// reach the outside.
    pub(super) async fn create_network(
        &self,
        name: &str,
        labels: HashMap<String, String>,
        egress: bool,
    ) -> Result<(), StartError> {
        let on_host = self.location == Location::Host;
        if on_host {
            close_host().await;
        }
        let mut options = HashMap::from([(
            "com.docker.network.bridge.name".to_owned(),
            labels::bridge(name, egress),
        )]);
        if !on_host && !egress {
            options.insert(
                "com.docker.network.bridge.inhibit_ipv4".to_owned(),
                "true".to_owned(),
            );
        }
        let mut request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            internal: Some(!egress),
            enable_ipv6: Some(false),
            options: Some(options),
            labels: Some(labels),
            ..NetworkCreateRequest::default()
        };
        for subnet in self.config.subnets.subnets() {
            request.ipam = Some(ipam(subnet));
            match self.daemon.create_network(request.clone()).await {
                Ok(_) => return self.join(name).await,
                Err(cause) if error::text(&cause).contains("overlap") => {}
                Err(cause) => return Err(error::unavailable("create a network", &cause)),
            }
        }
        Err(StartError::Unavailable(
            "every subnet of CONTAINER_SUBNETS that was tried is in use; choose a larger range"
                .to_owned(),
        ))
    }

    /// Puts the host's firewall rules back in their place, if this worker has contracts that they
    /// are for: other programs may have removed or moved them meanwhile.
    pub(crate) async fn keep_host_closed(&self) {
        if self.location == Location::Host && !self.deaths.names().is_empty() {
            close_host().await;
        }
    }

    async fn join(&self, network: &str) -> Result<(), StartError> {
        let Location::Container(id) = &self.location else {
            return Ok(());
        };
        let request = NetworkConnectRequest {
            container: id.clone(),
            endpoint_config: None,
        };
        let joined = self.daemon.connect_network(network, request).await;
        joined.map_err(|cause| error::unavailable("join the contract's network", &cause))
    }

    /// Leaves and removes a network. Succeeds if the network does not exist.
    pub(super) async fn remove_network(&self, name: &str) -> Result<(), bollard::errors::Error> {
        if let Location::Container(id) = &self.location {
            let request = NetworkDisconnectRequest {
                container: id.clone(),
                force: Some(true),
            };
            // This fails if the worker never joined the network. Only the removal matters.
            let _ = self.daemon.disconnect_network(name, request).await;
        }
        error::unless_missing(self.daemon.remove_network(name).await)
    }
}

/// Sets the host's firewall rules. Warns once if that fails.
async fn close_host() {
    static WARNED: Once = Once::new();
    if let Err(reason) = firewall::close_host().await {
        WARNED.call_once(|| {
            tracing::warn!(
                reason,
                "firewall rules not set: contracts can reach services that listen on all \
                 interfaces of this host; run the worker as root, or in a container"
            );
        });
    }
}

fn ipam(subnet: String) -> Ipam {
    let config = IpamConfig {
        subnet: Some(subnet),
        ..IpamConfig::default()
    };
    Ipam {
        config: Some(vec![config]),
        ..Ipam::default()
    }
}
