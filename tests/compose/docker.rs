//! Docker contracts, which have a worker of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::farm::{CONTAINERS, are_healthy, end, has_workers, is_confined};
use crate::project::{Project, output_of};
use crate::support::call_log::CONTRACT;
use crate::support::client::Client;
use crate::support::wait;

#[tokio::test]
async fn docker_contracts_have_a_separate_worker() {
    let files = ["docker-compose.yml", "docker-compose.docker.yml"];
    let project = Project::new(&files, 1, 1);
    let image = contract_image("first");
    project.build_and_start();
    let client = project.clients().remove(0);
    has_workers(&client, 2).await;
    are_healthy(&project, &["redis", "api", "worker", "worker-docker"]).await;
    let body = json!({ "contractAddress": "image", "engine": "docker", "executable": image });
    client
        .post("/loadSmartContract", &body)
        .await
        .is_no_content();
    for service in ["redis", "api", "worker", "worker-docker"] {
        is_confined(&project, service);
    }
    let answer = client.execute("image", "echo", &json!({ "a": 1 })).await;
    assert_eq!(answer.data(), json!({ "a": 1 }));
    // Workers that run untrusted JavaScript must not see the Docker socket.
    for (service, mounted) in [("worker", false), ("worker-docker", true)] {
        for container in project.containers(service) {
            let mounts = container.inspect("Mounts");
            assert_eq!(
                mounts.contains("docker.sock"),
                mounted,
                "{service}: {mounts}"
            );
        }
    }
    client.must_load("page", CONTRACT).await;
    assert_eq!(
        client.execute("page", "add", &json!(1)).await.data()["count"],
        1
    );
    rebuilt_tag(&project, &client, &image).await;
    end(&project);
    assert_eq!(containers_of(&image), "", "containers were not removed");
    output_of(Command::new("docker").args(["image", "rm", &image]));
}

/// A tag that is rebuilt is deployed by a load, and by nothing else.
async fn rebuilt_tag(project: &Project, client: &Client, image: &str) {
    let shown = async || client.contract("image").await["image"].clone();
    let first = shown().await;
    assert_eq!(contract_image("second"), image);
    project.containers("worker-docker")[0].kill();
    let before = client.generation("image").await;
    project.start();
    wait::until_true("another worker to run it", CONTAINERS, async || {
        client.generation("image").await > before
    })
    .await;
    assert_eq!(shown().await, first);
    let body = json!({ "contractAddress": "image", "engine": "docker", "executable": image });
    let loaded = client.post("/loadSmartContract", &body).await;
    loaded.is_no_content();
    assert_ne!(shown().await, first);
    let answer = client.execute("image", "echo", &json!(2)).await;
    assert_eq!(answer.data(), 2);
    let old = first.as_str().expect("an id");
    wait::until_true("its first container to end", CONTAINERS, async || {
        containers_of(old).is_empty()
    })
    .await;
    output_of(Command::new("docker").args(["image", "rm", old]));
}

/// The ids of the containers that run an image.
fn containers_of(image: &str) -> String {
    let mut docker = Command::new("docker");
    let containers = docker.args(["ps", "--all", "--quiet", "--filter"]);
    output_of(containers.arg(format!("ancestor={image}")))
}

/// Builds an image of the contract server that the tests use as a Docker contract. Another
/// `version` is another image under the same name.
fn contract_image(version: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("contract-server/target");
    let targets = std::fs::read_dir(&folder).expect("run `make contract-server` first");
    let program: PathBuf = targets
        .filter_map(|target| Some(target.ok()?.path().join("release/contract-server")))
        .find(|program| program.is_file())
        .expect("run `make contract-server` first");
    let run = std::process::id();
    let context = tempfile::tempdir().expect("create a temporary folder");
    std::fs::copy(program, context.path().join("contract-server")).expect("copy the program");
    // No other run has the same image.
    let recipe = format!(
        "FROM scratch\nCOPY contract-server /\nLABEL version={version} run={run}\n\
         ENTRYPOINT [\"/contract-server\", \"serve\"]\n"
    );
    std::fs::write(context.path().join("Dockerfile"), recipe).expect("write the Dockerfile");
    let image = format!("execution-test/contract:{run}");
    let mut docker = Command::new("docker");
    docker.env("DOCKER_BUILDKIT", "0");
    output_of(
        docker
            .args(["build", "--quiet", "--tag", &image])
            .arg(context.path()),
    );
    image
}
