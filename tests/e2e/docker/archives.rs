//! Archives of one image as the tools of Docker and of others write them.

use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use super::docker_farm::{DockerFarm, base64};
use super::tar::gzip;
use super::test_image::TestImage;

/// Runs a program, which must succeed.
async fn run(folder: &Path, command: &str) {
    let mut words = command.split(' ');
    let mut command = Command::new(words.next().expect("a program"));
    let output = command.args(words).current_dir(folder).output().await;
    let output = output.unwrap_or_else(|error| {
        panic!("{command:?}: {error}; `scripts/setup --tools` installs it")
    });
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[tokio::test]
async fn the_archives_of_all_tools_are_loaded() {
    let mut farm = DockerFarm::start().await;
    let tag = farm.image(TestImage::new().with_its_layer_twice()).await;
    let folder = tempfile::tempdir().expect("a folder can be made");
    let own_storage = "--root storage --runroot run --storage-driver vfs";
    let podman = format!("podman {own_storage}");
    for command in [
        format!("docker save {tag} -o docker.tar"),
        "skopeo copy docker-archive:docker.tar docker-archive:skopeo.tar:app:1".to_owned(),
        "skopeo copy docker-archive:docker.tar oci-archive:skopeo-oci.tar:app:1".to_owned(),
        format!("{podman} load -i docker.tar"),
        format!("{podman} save -o podman.tar {tag}"),
        format!("{podman} save --format oci-archive -o podman-oci.tar {tag}"),
        format!("buildah {own_storage} push {tag} docker-archive:buildah.tar"),
        format!("buildah {own_storage} push {tag} oci-archive:buildah-oci.tar"),
    ] {
        run(folder.path(), &command).await;
    }
    for archive in [
        "docker",
        "skopeo",
        "skopeo-oci",
        "podman",
        "podman-oci",
        "buildah",
        "buildah-oci",
    ] {
        let tar = std::fs::read(folder.path().join(format!("{archive}.tar")));
        let tar = tar.expect("the tool has written it");
        for (packed, tar) in [("plain", tar.clone()), ("gzip", gzip(&tar))] {
            let answer = farm.load(archive, &base64(&tar)).await;
            assert_eq!(answer.status, 204, "{archive}, {packed}: {answer:?}");
            assert_eq!(
                farm.call(archive, "count", Value::Null).await,
                1,
                "{archive}, {packed}"
            );
            farm.client().unload(archive).await.is_no_content();
        }
    }
    farm.stop().await;
}
