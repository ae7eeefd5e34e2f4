//! A network for each contract: eight addresses, internal, with the contract in it and who calls
//! it.
//!
//! On a host, the caller is the host itself, at the network's gateway; [`firewall`] keeps the
//! contract from calling back. A worker in a container joins the network, which then gives the
//! host no address at all.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Once;

use bollard::models::{
    Ipam, IpamConfig, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest,
};

use super::{Docker, error, firewall, labels};
use crate::sandbox::StartError;

/// The prefix length of a contract's network: room for the gateway, the contract, the worker.
const PREFIX: u32 = 29;

/// How many subnets are tried before it is said that none is free.
const TRIES: u32 = 256;

/// The addresses out of which networks are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: u32,
    /// How many contract networks it holds.
    count: u32,
}

impl Default for Range {
    /// `10.213.0.0/16`: 8192 networks in a part of private space that few use.
    fn default() -> Self {
        Self {
            first: u32::from(Ipv4Addr::new(10, 213, 0, 0)),
            count: 1 << (PREFIX - 16),
        }
    }
}

impl FromStr for Range {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "must be a range such as 10.213.0.0/16, of at most 29 bits";
        let (address, bits) = text.split_once('/').ok_or(SHAPE)?;
        let address: Ipv4Addr = address.parse().map_err(|_| SHAPE)?;
        let bits: u32 = bits.parse().map_err(|_| SHAPE)?;
        if !(8..=PREFIX).contains(&bits) {
            return Err(SHAPE);
        }
        let first = u32::from(address);
        if first.trailing_zeros() < 32 - bits {
            return Err("must begin with the range's first address");
        }
        Ok(Self {
            first,
            count: 1 << (PREFIX - bits),
        })
    }
}

impl Range {
    /// The subnets, from a random one on: workers that share a daemon seldom meet.
    fn subnets(self) -> impl Iterator<Item = String> {
        let start = rand::random_range(0..self.count);
        (0..self.count.min(TRIES)).map(move |step| {
            let index = (start + step) % self.count;
            let first = self.first + (index << (32 - PREFIX));
            format!("{}/{PREFIX}", Ipv4Addr::from(first))
        })
    }
}

/// Where the worker is: how it gets into contracts' networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seat {
    /// On the daemon's host.
    Host,
    /// In this container of the same daemon.
    Container(String),
}

impl Docker {
    /// Finds out where this worker is.
    pub(super) async fn find_seat(daemon: &bollard::Docker) -> Seat {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let Some(id) = container_id(&mounts) else {
            return Seat::Host;
        };
        // A container in the host's network cannot join another one, and need not.
        match daemon.inspect_container(id, None).await {
            Ok(found) => {
                let mode = found.host_config.and_then(|host| host.network_mode);
                if mode.as_deref() == Some("host") {
                    Seat::Host
                } else {
                    Seat::Container(id.to_owned())
                }
            }
            Err(_) => Seat::Host,
        }
    }

    /// Makes a network that only the worker and the container that is put there next can use; with
    /// `egress`, the outside as well.
    pub(super) async fn make_network(
        &self,
        name: &str,
        labels: HashMap<String, String>,
        egress: bool,
    ) -> Result<(), StartError> {
        let on_host = self.seat == Seat::Host;
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
                Err(trouble) if error::text(&trouble).contains("overlap") => {}
                Err(trouble) => return Err(error::unavailable("make a network", &trouble)),
            }
        }
        Err(StartError::Unavailable(
            "every tried subnet of CONTAINER_SUBNETS is in use".to_owned(),
        ))
    }

    async fn join(&self, network: &str) -> Result<(), StartError> {
        let Seat::Container(id) = &self.seat else {
            return Ok(());
        };
        let request = NetworkConnectRequest {
            container: id.clone(),
            endpoint_config: None,
        };
        let joined = self.daemon.connect_network(network, request).await;
        joined.map_err(|trouble| error::unavailable("join the contract's network", &trouble))
    }

    /// Leaves and removes a network; no trouble when it does not exist.
    pub(super) async fn remove_network(&self, name: &str) -> Result<(), bollard::errors::Error> {
        if let Seat::Container(id) = &self.seat {
            let request = NetworkDisconnectRequest {
                container: id.clone(),
                force: Some(true),
            };
            // It may never have been joined; what matters is the removal.
            let _ = self.daemon.disconnect_network(name, request).await;
        }
        error::unless_missing(self.daemon.remove_network(name).await)
    }
}

/// Says once when the host stays open.
async fn close_host() {
    static SAID: Once = Once::new();
    if let Err(reason) = firewall::close_host().await {
        SAID.call_once(|| {
            tracing::warn!(
                reason,
                "no firewall rules can be set: contracts reach what listens on all interfaces of \
                 this host; run the worker as root, or in a container"
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

/// The id of the container that this process is in: Docker mounts /etc/hostname out of a folder
/// with that name. Other mounts prove nothing: the host sees those of all its containers.
fn container_id(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|mount| {
        // `ID PARENT DEVICE ROOT POINT ...`
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let (_, rest) = root.split_once("/containers/")?;
        let id = rest.get(..64)?;
        (point == "/etc/hostname" && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_into_subnets() {
        let range: Range = "10.9.8.0/28".parse().unwrap();
        let mut subnets: Vec<_> = range.subnets().collect();
        subnets.sort();
        assert_eq!(subnets, ["10.9.8.0/29", "10.9.8.8/29"]);
        assert_eq!("10.213.0.0/16".parse(), Ok(Range::default()));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/30",
            "10.0.0.1/16",
            "10.0.0/16",
            "::/64",
            "10.0.0.0/4",
        ] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_container_is_known_by_its_mounts() {
        let id = "0123456789abcdef".repeat(4);
        let folder = format!("/var/lib/docker/containers/{id}");
        let inside = format!("1 2 0:3 / / rw\n1 2 8:1 {folder}/hostname /etc/hostname rw");
        assert_eq!(container_id(&inside), Some(id.as_str()));
        let outside = format!("1 2 0:3 / {folder}/mounts/shm rw");
        assert_eq!(container_id(&outside), None);
        assert_eq!(container_id("1 2 8:1 / / rw"), None);
        assert_eq!(
            container_id("1 2 8:1 /containers/short /etc/hostname rw"),
            None
        );
    }
}
