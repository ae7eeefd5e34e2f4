//! Operations of the tests themselves on the Docker daemon.

use std::collections::HashMap;
use std::process::Command;

use bollard::Docker;
use bollard::query_parameters::{
    ImportImageOptionsBuilder, ListContainersOptionsBuilder, ListNetworksOptionsBuilder,
};
use futures::StreamExt;

/// The daemon's address, in the form that the programs are configured with.
pub(crate) fn address() -> String {
    std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned())
}

/// Loads an image from a tar archive, as `docker load` does.
pub(crate) async fn import(docker: &Docker, tar: Vec<u8>) {
    let options = ImportImageOptionsBuilder::new().build();
    let mut steps = docker.import_image(options, bollard::body_full(tar.into()), None);
    while let Some(step) = steps.next().await {
        step.expect("the image can be loaded");
    }
}

/// The names of all containers, running or stopped, and networks with a label.
pub(crate) async fn labelled(docker: &Docker, label: &str) -> Vec<String> {
    let filter = HashMap::from([("label", vec![label])]);
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&filter);
    let containers = docker.list_containers(Some(options.build())).await;
    let options = ListNetworksOptionsBuilder::new().filters(&filter).build();
    let networks = docker.list_networks(Some(options)).await;
    let containers = containers.expect("the daemon answers").into_iter();
    let networks = networks.expect("the daemon answers").into_iter();
    containers
        .map(|container| format!("container {:?}", container.names))
        .chain(networks.map(|network| format!("network {:?}", network.name)))
        .collect()
}

/// Removes the given images, and all containers and networks with a label. It runs after a failure
/// in a `drop`, which cannot await, so it calls the `docker` command.
pub(crate) fn clear(host: &str, label: &str, images: &[String]) {
    let script = "docker ps --all --quiet --filter label=$LABEL | xargs --no-run-if-empty docker rm --force --volumes
        docker network ls --quiet --filter label=$LABEL | xargs --no-run-if-empty docker network rm
        for image in $IMAGES; do docker rmi $image; done";
    // The failure that led here has already been reported.
    let _ = Command::new("sh")
        .args(["-c", script])
        .env("DOCKER_HOST", host)
        .env("LABEL", label)
        .env("IMAGES", images.join(" "))
        .output();
}
