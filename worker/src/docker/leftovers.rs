//! Finds and removes leftovers: containers, networks and tar images that no worker uses.
//!
//! They belong to workers that died, or to this worker if a removal failed. The caller decides
//! which workers are dead.

use std::collections::{BTreeMap, HashMap};

use bollard::errors::Error;
use bollard::query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder};
use shared::protocol::id::WorkerId;

use super::daemon::Docker;
use super::labels;

/// A container and a network of one contract that this worker does not use. Both have the same
/// name.
#[derive(Debug)]
pub(crate) struct Leftover {
    name: String,
    /// The worker that created it.
    pub(crate) worker: WorkerId,
    /// Set if the container exists.
    tar_image: Option<String>,
}

impl Docker {
    /// All containers and networks of this farm on this daemon that this worker does not use.
    pub(crate) async fn leftovers(&self) -> Result<Vec<Leftover>, Error> {
        let filter = self.owner.farm_filter();
        let mut leftovers = BTreeMap::new();
        // Networks are listed first. This worker marks a container as in use before it creates the
        // container's network, so a start that is in progress is never listed.
        let options = ListNetworksOptionsBuilder::new().filters(&filter).build();
        for network in self.daemon.list_networks(Some(options)).await? {
            let labels = network.labels.unwrap_or_default();
            self.collect(&mut leftovers, network.name, &labels, None);
        }
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filter)
            .build();
        for container in self.daemon.list_containers(Some(options)).await? {
            let labels = container.labels.unwrap_or_default();
            let name = container.names.unwrap_or_default().pop();
            let name = name.map(|name| name.trim_start_matches('/').to_owned());
            self.collect(&mut leftovers, name, &labels, container.image_id);
        }
        Ok(leftovers.into_values().collect())
    }

    fn collect(
        &self,
        leftovers: &mut BTreeMap<String, Leftover>,
        name: Option<String>,
        labels: &HashMap<String, String>,
        image: Option<String>,
    ) {
        let (Some(name), Some(worker)) = (name, labels::creator(labels)) else {
            return;
        };
        if self.deaths.contains(&name) {
            return;
        }
        let image = image.filter(|_| labels::is_from_tar(labels));
        let leftover = leftovers.entry(name.clone()).or_insert(Leftover {
            name,
            worker,
            tar_image: None,
        });
        leftover.tar_image = image.or(leftover.tar_image.take());
    }

    /// Removes a leftover container, its network and its tar image.
    pub(crate) async fn remove_leftover(&self, leftover: &Leftover) {
        let (container, worker) = (&leftover.name, leftover.worker);
        tracing::info!(container, %worker, "removing leftover container");
        self.remove_contract(&leftover.name, leftover.tar_image.as_deref())
            .await;
    }
}
