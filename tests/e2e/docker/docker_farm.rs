//! A farm with a Docker daemon that checks that no container, network or image is left there.

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bollard::Docker;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveImageOptionsBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use super::test_image::TestImage;
use crate::support::client::{Answer, Client};
use crate::support::daemon;
use crate::support::farm::{Builder, Farm};

/// The images that the tests name: those that they load into the daemon, and those of the registry
/// of a test. No other image of the machine can be run by a test.
const IMAGES: &str = "execution-test/*, abcd, 127.0.0.1:*/app";

/// A farm whose workers offer only Docker contracts.
pub(super) struct DockerFarm {
    pub(super) inner: Option<Farm>,
    pub(super) docker: Docker,
    name: String,
    host: String,
    images: Vec<String>,
}

/// The path of a daemon's socket.
pub(super) fn unix_socket(host: &str) -> &str {
    host.strip_prefix("unix://")
        .expect("the daemon is on this machine")
}

/// Connects to a daemon, which must respond.
pub(super) async fn reach(host: &str) -> Docker {
    let docker = Docker::connect_with_host(host)
        .unwrap_or_else(|error| panic!("{error}; `scripts/setup --docker` starts a daemon"));
    let reached = docker.negotiate_version().await;
    reached.unwrap_or_else(|error| panic!("{error}; `scripts/setup --docker` starts a daemon"))
}

/// A farm for Docker contracts that sweeps orphaned containers every 500 ms.
pub(super) fn docker_builder() -> Builder {
    Farm::builder()
        .env("WORKER_ENGINES", "docker")
        .env("CONTAINER_IMAGES", IMAGES)
        .env("CONTAINER_SWEEP_MS", "500")
}

/// The farm's name on its containers and networks: the first part of its value in Redis.
async fn farm_name(farm: &Farm) -> String {
    let text = farm.redis.text("exec:farm").await;
    let (name, _) = text
        .split_once('/')
        .expect("a name, and what comes with the data");
    name.to_owned()
}

impl DockerFarm {
    /// Starts a farm of one api and one worker.
    pub(super) async fn start() -> Self {
        Self::of(docker_builder()).await
    }

    /// Starts a configured farm on the machine's daemon.
    pub(super) async fn of(builder: Builder) -> Self {
        Self::on(&daemon::address(), builder).await
    }

    /// Starts a configured farm on the test's own daemon.
    pub(super) async fn on(host: &str, builder: Builder) -> Self {
        let docker = reach(host).await;
        let farm = builder.env("DOCKER_HOST", host).start().await;
        Self {
            name: farm_name(&farm).await,
            inner: Some(farm),
            docker,
            host: host.to_owned(),
            images: Vec::new(),
        }
    }

    pub(super) fn inner(&mut self) -> &mut Farm {
        self.inner.as_mut().expect("only stop takes it")
    }

    pub(super) fn client(&self) -> &Client {
        self.inner.as_ref().expect("only stop takes it").client()
    }

    /// Loads an image into the daemon under a unique name.
    pub(super) async fn image(&mut self, test_image: TestImage) -> String {
        let tag = format!("execution-test/{}:1", Uuid::new_v4().simple());
        self.import(&test_image.tag(&tag).tar()).await;
        self.images.push(tag.clone());
        tag
    }

    /// Loads an image from a tar archive, as `docker load` does.
    pub(super) async fn import(&self, tar: &[u8]) {
        daemon::import(&self.docker, tar.to_vec()).await;
    }

    /// Registers an image that `stop` removes.
    pub(super) fn remove_on_stop(&mut self, image: &str) {
        self.images.push(image.to_owned());
    }

    /// Whether the daemon has this image.
    pub(super) async fn has_image(&self, image: &str) -> bool {
        self.docker.inspect_image(image).await.is_ok()
    }

    /// Loads a contract.
    pub(super) async fn load(&self, address: &str, executable: &str) -> Answer {
        self.load_with(address, executable, json!({})).await
    }

    /// Loads a contract with more fields in the request.
    pub(super) async fn load_with(&self, address: &str, executable: &str, more: Value) -> Answer {
        let mut body = json!({
            "contractAddress": address, "executable": executable, "engine": "docker",
        });
        let fields = body.as_object_mut().expect("it was made as one");
        fields.extend(more.as_object().expect("more fields").clone());
        self.client().post("/loadSmartContract", &body).await
    }

    /// Loads contracts that share one image.
    pub(super) async fn load_all(&mut self, addresses: &[&str]) {
        let image = self.image(TestImage::new()).await;
        for address in addresses {
            self.load(address, &image).await.is_no_content();
        }
    }

    /// A call that must succeed.
    pub(super) async fn call(&self, address: &str, method: &str, argument: Value) -> Value {
        let client = self.client();
        client.execute(address, method, &argument).await.data()
    }

    /// All containers of a contract, running or stopped.
    pub(super) async fn containers(&self, address: &str) -> Vec<ContainerInspectResponse> {
        let labels = [format!("execution.address={address}"), self.label()];
        let filter = HashMap::from([("label", labels.to_vec())]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filter);
        let found = self.docker.list_containers(Some(options.build())).await;
        let mut containers = Vec::new();
        for container in found.expect("the daemon answers") {
            let id = container.id.expect("a container has an id");
            // The container may have been removed meanwhile.
            containers.extend(self.docker.inspect_container(&id, None).await);
        }
        containers
    }

    /// The one container of a contract.
    pub(super) async fn container(&self, address: &str) -> ContainerInspectResponse {
        let mut found = self.containers(address).await;
        assert_eq!(found.len(), 1, "{address}: {found:#?}");
        found.remove(0)
    }

    /// The name of a contract's one container, which is also the name of its network.
    pub(super) async fn container_name(&self, address: &str) -> String {
        let container = self.container(address).await;
        let name = container.name.expect("a container has a name");
        name.trim_start_matches('/').to_owned()
    }

    /// The address of a contract's one container.
    pub(super) async fn ip(&self, address: &str) -> String {
        let container = self.container(address).await;
        let networks = container.network_settings.and_then(|all| all.networks);
        let mut networks = networks.expect("a container has a network").into_values();
        let ip = networks.next().and_then(|network| network.ip_address);
        assert!(networks.next().is_none(), "{address} has two networks");
        ip.expect("a running container has an address")
    }

    /// The name of the host's interface in a contract's network.
    pub(super) async fn bridge(&self, address: &str) -> String {
        let name = self.container_name(address).await;
        let network = self.docker.inspect_network(&name, None).await;
        let options = network.ok().and_then(|network| network.options);
        let mut options = options.expect("a contract's network has options");
        let bridge = options.remove("com.docker.network.bridge.name");
        bridge.expect("a contract's bridge has a name")
    }

    fn label(&self) -> String {
        format!("execution.farm={}", self.name)
    }

    /// The names of all containers and networks of this farm.
    pub(super) async fn resources(&self) -> Vec<String> {
        daemon::labelled(&self.docker, &self.label()).await
    }

    /// Ends the farm, and fails if anything of it is left.
    pub(super) async fn stop(mut self) {
        let farm = self.inner.take().expect("only stop takes it");
        farm.stop().await;
        self.assert_no_leftovers().await;
    }

    /// The same as [`DockerFarm::stop`], after a worker was killed.
    pub(super) async fn stop_ignoring_keys(mut self) {
        let farm = self.inner.take().expect("only stop takes it");
        farm.stop_ignoring_keys().await;
        self.assert_no_leftovers().await;
    }

    async fn assert_no_leftovers(&mut self) {
        let resources = self.resources().await;
        assert!(resources.is_empty(), "left: {resources:?}");
        for image in self.images.drain(..) {
            let options = RemoveImageOptionsBuilder::new().build();
            let removed = self.docker.remove_image(&image, Some(options), None).await;
            removed.unwrap_or_else(|error| panic!("{image} cannot be removed: {error}"));
        }
    }
}

impl Drop for DockerFarm {
    /// Removes the containers after a failure, because they would outlive the farm.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // The workers end first, or they would recreate the containers.
        drop(self.inner.take());
        daemon::clear(&self.host, &self.label(), &self.images);
    }
}

/// An executable in the form of a tar.
pub(super) fn base64(tar: &[u8]) -> String {
    BASE64_STANDARD.encode(tar)
}
