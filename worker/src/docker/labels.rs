//! Names and labels: which worker a container or a network belongs to.
//!
//! Containers inherit the labels of their image, so a label alone proves nothing. But the farm's
//! name is random, so no image can contain it. And the labels that the worker sets on a container
//! override those of the image.

use std::collections::HashMap;

use shared::protocol::id::{ContractAddress, WorkerId};
use shared::queue::blobs::digest;
use uuid::Uuid;

use super::firewall;

const FARM: &str = "execution.farm";
const WORKER: &str = "execution.worker";
const ADDRESS: &str = "execution.address";
const GENERATION: &str = "execution.generation";
const IMAGE: &str = "execution.image";

/// The value of the image label for an image that was loaded from a tar.
const FROM_TAR: &str = "tar";

/// The creator of containers: one worker of one farm.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) farm: String,
    pub(super) worker: WorkerId,
}

impl Owner {
    /// The labels of a contract's container and network.
    pub(super) fn labels(
        &self,
        address: &ContractAddress,
        generation: u64,
        from_tar: bool,
    ) -> HashMap<String, String> {
        let image = if from_tar { FROM_TAR } else { "" };
        HashMap::from([
            (FARM.to_owned(), self.farm.clone()),
            (WORKER.to_owned(), self.worker.to_string()),
            (ADDRESS.to_owned(), address.to_string()),
            (GENERATION.to_owned(), generation.to_string()),
            (IMAGE.to_owned(), image.to_owned()),
        ])
    }

    /// Selects the containers and networks of this farm.
    pub(super) fn farm_filter(&self) -> HashMap<String, Vec<String>> {
        HashMap::from([("label".to_owned(), vec![format!("{FARM}={}", self.farm)])])
    }

    /// Selects the death events of this worker's containers.
    pub(super) fn death_filter(&self) -> HashMap<String, Vec<String>> {
        let worker = format!("{WORKER}={}", self.worker);
        HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("event".to_owned(), vec!["die".to_owned()]),
            ("label".to_owned(), vec![worker]),
        ])
    }
}

/// The worker that created a container or network with these labels.
pub(super) fn creator(labels: &HashMap<String, String>) -> Option<WorkerId> {
    labels.get(WORKER)?.parse().ok()
}

/// Whether a container with these labels runs an image that was loaded from a tar.
pub(super) fn is_from_tar(labels: &HashMap<String, String>) -> bool {
    labels.get(IMAGE).is_some_and(|image| image == FROM_TAR)
}

/// Creates the name of one container and its network: unique, and free of any text that a caller
/// chose.
pub(super) fn new_name(address: &ContractAddress) -> String {
    let contract = &digest(address.as_str().as_bytes())[..12];
    let unique = &Uuid::new_v4().simple().to_string()[..UNIQUE];
    format!("execution-{contract}-{unique}")
}

/// The length of a name's unique part: what the prefix leaves of a network interface's 15
/// characters.
const UNIQUE: usize = 10;

/// The name of the host's network interface for a contract's network.
pub(super) fn bridge(name: &str, egress: bool) -> String {
    let kind = if egress {
        firewall::OPEN
    } else {
        firewall::CLOSED
    };
    let unique = &name[name.len() - UNIQUE..];
    format!("{}{kind}{unique}", firewall::BRIDGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridge_name_is_a_valid_interface_name() {
        let name = new_name(&"a:b".parse().unwrap());
        for (egress, start) in [(false, "exb-c"), (true, "exb-o")] {
            let bridge = bridge(&name, egress);
            assert!(bridge.len() <= 15 && bridge.starts_with(start), "{bridge}");
            assert!(name.ends_with(&bridge[start.len()..]), "{name}: {bridge}");
        }
    }

    #[test]
    fn names_are_unique_and_do_not_contain_the_address() {
        let address = "secret-name".parse().unwrap();
        let (one, other) = (new_name(&address), new_name(&address));
        assert_ne!(one, other);
        assert!(!one.contains("secret"));
    }

    #[test]
    fn labels_name_the_creator() {
        let owned = Owner {
            farm: "f".to_owned(),
            worker: WorkerId::random(),
        };
        let labels = owned.labels(&"a".parse().unwrap(), 3, true);
        assert_eq!(creator(&labels), Some(owned.worker));
        assert!(is_from_tar(&labels));
        assert!(!is_from_tar(&owned.labels(&"a".parse().unwrap(), 3, false)));
    }
}
