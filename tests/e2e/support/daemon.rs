//! What a test does with a Docker daemon, besides what the farm does there.

use std::collections::HashMap;
use std::process::Command;

use bollard::Docker;
use bollard::query_parameters::{
    ImportImageOptionsBuilder, ListContainersOptionsBuilder, ListNetworksOptionsBuilder,
};
use futures::StreamExt;

/// The daemon's address, as the programs are told it.
pub(crate) fn address() -> String {
    std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned())
}

/// What `docker load` does.
pub(crate) async fn import(docker: &Docker, tar: Vec<u8>) {
    let options = ImportImageOptionsBuilder::new().build();
    let mut steps = docker.import_image(options, bollard::body_full(tar.into()), None);
    while let Some(step) = steps.next().await {
        step.expect("the image can be loaded");
    }
}

/// The names of all containers, running or not, and networks with a label.
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

/// Removes everything with a label, and images: after a failure, where nothing can be awaited, so the
/// daemon is asked by its own program.
pub(crate) fn clear(host: &str, label: &str, images: &[String]) {
    let script = "docker ps --all --quiet --filter label=$LABEL | xargs --no-run-if-empty docker rm --force --volumes
        docker network ls --quiet --filter label=$LABEL | xargs --no-run-if-empty docker network rm
        for image in $IMAGES; do docker rmi $image; done";
    // The failure is told already.
    let _ = Command::new("sh")
        .args(["-c", script])
        .env("DOCKER_HOST", host)
        .env("LABEL", label)
        .env("IMAGES", images.join(" "))
        .output();
}
