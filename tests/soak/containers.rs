//! The Docker contracts of the soak: their image, and the check that nothing of them is left.

#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../e2e/docker/test_image.rs"]
mod test_image;

use std::collections::HashMap;

use bollard::Docker;
use bollard::query_parameters::{
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveImageOptionsBuilder,
};
use serde_json::json;
use uuid::Uuid;

use self::test_image::TestImage;
use crate::rng::Rng;
use crate::support::client::Client;
use crate::support::daemon;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// The label of every container and network of a farm, whatever the farm's name.
const LABEL: &str = "execution.farm";

/// The machine's daemon, with the test image.
pub(crate) struct Containers {
    docker: Docker,
    image: String,
}

impl Containers {
    /// Loads the image into the daemon. The daemon must run and have no containers of other farms.
    pub(crate) async fn start() -> Self {
        let docker =
            Docker::connect_with_host(&daemon::address()).expect("DOCKER_HOST is an address");
        let image = format!("execution-test/{}:1", Uuid::new_v4().simple());
        let containers = Self { docker, image };
        let left = containers.left().await;
        assert!(left.is_empty(), "of another farm: {left:?}");
        let tar = TestImage::new().tag(&containers.image).tar();
        daemon::import(&containers.docker, tar).await;
        containers
    }

    /// Loads a contract that records its calls.
    pub(crate) async fn load(&self, client: &Client, address: &str) {
        let body = json!({
            "contractAddress": address, "executable": self.image, "engine": "docker",
        });
        client
            .post("/loadSmartContract", &body)
            .await
            .is_no_content();
    }

    /// Kills one container, as the kernel's OOM killer would.
    pub(crate) async fn kill_one(&self, rng: &mut Rng) {
        let ids = self.running().await;
        if !ids.is_empty() {
            let id: &String = rng.pick(&ids);
            let options = KillContainerOptionsBuilder::new().signal("KILL").build();
            // The container may have been removed meanwhile.
            _ = self.docker.kill_container(id, Some(options)).await;
        }
    }

    async fn running(&self) -> Vec<String> {
        let filter = HashMap::from([("label", vec![LABEL])]);
        let options = ListContainersOptionsBuilder::new().filters(&filter);
        let found = self.docker.list_containers(Some(options.build())).await;
        let mut ids: Vec<_> = found
            .expect("the daemon answers")
            .into_iter()
            .filter_map(|container| container.id)
            .collect();
        ids.sort_unstable();
        ids
    }

    async fn left(&self) -> Vec<String> {
        daemon::labelled(&self.docker, LABEL).await
    }

    /// Waits until there is exactly one container and one network for each of `count` contracts.
    pub(crate) async fn wait_until_count_is(&self, count: usize) {
        wait::until_none(DEFAULT_LIMIT, async || {
            let left = self.left().await;
            let is_just = left.len() == 2 * count;
            if is_just { Vec::new() } else { left }
        })
        .await;
    }

    /// Removes the image and checks that nothing else is left.
    pub(crate) async fn end(self) {
        let left = self.left().await;
        assert!(left.is_empty(), "left: {left:?}");
        let options = RemoveImageOptionsBuilder::new().build();
        let removed = self
            .docker
            .remove_image(&self.image, Some(options), None)
            .await;
        removed.expect("the image can be removed");
    }
}

impl Drop for Containers {
    /// Removes the containers after a failure, because they would disturb the next soak. The farm
    /// has ended by then.
    fn drop(&mut self) {
        if std::thread::panicking() {
            daemon::clear(&daemon::address(), LABEL, std::slice::from_ref(&self.image));
        }
    }
}
