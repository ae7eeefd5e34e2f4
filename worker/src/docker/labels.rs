//! Names and labels: whose a container or a network is.
//!
//! An image's labels are its containers' too, so a label alone proves nothing: the farm's name is
//! random and no image knows it, and what a container carries is set over what its image says.

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

/// The value of the image label that says that the image came out of a tar.
const FROM_TAR: &str = "tar";

/// Who makes containers: one worker of one farm.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) farm: String,
    pub(super) worker: WorkerId,
}

impl Owner {
    /// What a container or network of a contract carries.
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

    /// Selects everything of this farm.
    pub(super) fn farm_filter(&self) -> HashMap<String, Vec<String>> {
        HashMap::from([("label".to_owned(), vec![format!("{FARM}={}", self.farm)])])
    }

    /// Selects the deaths of this worker's containers.
    pub(super) fn death_filter(&self) -> HashMap<String, Vec<String>> {
        let worker = format!("{WORKER}={}", self.worker);
        HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("event".to_owned(), vec!["die".to_owned()]),
            ("label".to_owned(), vec![worker]),
        ])
    }
}

/// The worker that made a thing with these labels.
pub(super) fn owner(labels: &HashMap<String, String>) -> Option<WorkerId> {
    labels.get(WORKER)?.parse().ok()
}

/// Whether a thing with these labels runs an image that came out of a tar.
pub(super) fn is_from_tar(labels: &HashMap<String, String>) -> bool {
    labels.get(IMAGE).is_some_and(|image| image == FROM_TAR)
}

/// A name for one container and its network: unique, and without anything that a caller chose.
pub(super) fn fresh_name(address: &ContractAddress) -> String {
    let contract = &digest(address.as_str().as_bytes())[..12];
    let unique = &Uuid::new_v4().simple().to_string()[..UNIQUE];
    format!("execution-{contract}-{unique}")
}

/// Digits of a name's unique part: what is left of a network interface's 15 characters.
const UNIQUE: usize = 10;

/// How the host's interface of a contract's network is called.
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
    fn a_bridge_has_a_name_that_an_interface_can_have() {
        let name = fresh_name(&"a:b".parse().unwrap());
        for (egress, start) in [(false, "exb-c"), (true, "exb-o")] {
            let bridge = bridge(&name, egress);
            assert!(bridge.len() <= 15 && bridge.starts_with(start), "{bridge}");
            assert!(name.ends_with(&bridge[start.len()..]), "{name}: {bridge}");
        }
    }

    #[test]
    fn names_are_unique_and_tell_nothing() {
        let address = "secret-name".parse().unwrap();
        let (one, other) = (fresh_name(&address), fresh_name(&address));
        assert_ne!(one, other);
        assert!(!one.contains("secret"));
    }

    #[test]
    fn labels_name_their_owner() {
        let owned = Owner {
            farm: "f".to_owned(),
            worker: WorkerId::random(),
        };
        let labels = owned.labels(&"a".parse().unwrap(), 3, true);
        assert_eq!(owner(&labels), Some(owned.worker));
        assert!(is_from_tar(&labels));
        assert!(!is_from_tar(&owned.labels(&"a".parse().unwrap(), 3, false)));
    }
}
