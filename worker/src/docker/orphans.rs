//! What nobody has any more: containers, networks and tar images of workers that died, and of this
//! one where the daemon did not do what it was asked to.
//!
//! Who lives is the caller's knowledge.

use std::collections::{BTreeMap, HashMap};

use bollard::errors::Error;
use bollard::query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder};
use shared::protocol::id::WorkerId;

use super::Docker;
use super::image::Image;
use super::labels;

/// A contract's pieces, by their common name.
#[derive(Debug)]
pub(crate) struct Leftover {
    name: String,
    /// Who made it.
    pub(crate) worker: WorkerId,
    /// Set when a container of it is there.
    image: Option<Image>,
}

impl Docker {
    /// Everything of this farm on this daemon that is not in use by this worker.
    pub(crate) async fn leftovers(&self) -> Result<Vec<Leftover>, Error> {
        let filter = self.owner.farm_filter();
        let mut pieces = BTreeMap::new();
        // Networks first: what is made meanwhile is watched before its network is there.
        let options = ListNetworksOptionsBuilder::new().filters(&filter).build();
        for network in self.daemon.list_networks(Some(options)).await? {
            let labels = network.labels.unwrap_or_default();
            self.note(&mut pieces, network.name, &labels, None);
        }
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filter)
            .build();
        for container in self.daemon.list_containers(Some(options)).await? {
            let labels = container.labels.unwrap_or_default();
            let name = container.names.unwrap_or_default().pop();
            let name = name.map(|name| name.trim_start_matches('/').to_owned());
            self.note(&mut pieces, name, &labels, container.image_id);
        }
        Ok(pieces.into_values().collect())
    }

    fn note(
        &self,
        pieces: &mut BTreeMap<String, Leftover>,
        name: Option<String>,
        labels: &HashMap<String, String>,
        image: Option<String>,
    ) {
        let (Some(name), Some(worker)) = (name, labels::owner(labels)) else {
            return;
        };
        if self.watched.contains(&name) {
            return;
        }
        let image = image.map(|id| Image {
            id,
            port: 0,
            volumes: Vec::new(),
            from_tar: labels::is_from_tar(labels),
        });
        let piece = pieces.entry(name.clone()).or_insert(Leftover {
            name,
            worker,
            image: None,
        });
        piece.image = image.or(piece.image.take());
    }

    /// Removes what is left of a contract.
    pub(crate) async fn remove_leftover(&self, piece: &Leftover) {
        tracing::info!(container = piece.name, worker = %piece.worker, "removing an orphan");
        self.remove_contract(&piece.name, piece.image.as_ref())
            .await;
    }
}
