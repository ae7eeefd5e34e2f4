//! A worker that runs in a container itself: it joins the networks of its contracts, in which the
//! host has no address.

use std::net::Ipv4Addr;

use bollard::models::{ContainerCreateBody, HostConfig, NetworkCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::docker_farm::{DockerFarm, unix_socket};
use super::test_image::TestImage;
use crate::support::daemon;
use crate::support::programs;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// A worker in a container, on a network from which it reaches the farm's Redis.
struct ContainedWorker {
    name: String,
    forwarding: JoinHandle<()>,
}

impl ContainedWorker {
    async fn start(farm: &mut DockerFarm) -> Self {
        let name = format!("execution-test-{}", Uuid::new_v4().simple());
        let request = NetworkCreateRequest {
            name: name.clone(),
            ..NetworkCreateRequest::default()
        };
        let made = farm.docker.create_network(request).await;
        made.expect("a network can be made");
        let network = farm.docker.inspect_network(&name, None).await;
        let ipam = network.ok().and_then(|network| network.ipam?.config);
        let gateway = ipam.and_then(|configs| configs.first()?.gateway.clone());
        let gateway = gateway.expect("a network has a gateway");
        let gateway = gateway.split('/').next().unwrap_or_default();
        let (port, forwarding) = forward(gateway, farm.inner().redis.port()).await;

        let image = farm.image(TestImage::new()).await;
        let body = ContainerCreateBody {
            image: Some(image),
            entrypoint: Some(vec!["/programs/execution-worker".to_owned()]),
            cmd: Some(Vec::new()),
            env: Some(vec![
                format!("REDIS_URL=redis://{gateway}:{port}/"),
                "WORKER_ENGINES=docker".to_owned(),
                "DOCKER_HOST=unix:///docker.sock".to_owned(),
                "CONTAINER_SUBNETS=10.217.0.0/16".to_owned(),
                "CONTAINER_IMAGES=execution-test/*".to_owned(),
            ]),
            host_config: Some(HostConfig {
                network_mode: Some(name.clone()),
                binds: Some(binds()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let made = farm.docker.create_container(Some(options), body).await;
        made.expect("a container can be made");
        let started = farm.docker.start_container(&name, None).await;
        started.expect("the container can be started");
        Self { name, forwarding }
    }

    /// Ends the worker as an operator does, and removes its container.
    async fn stop(self, farm: &DockerFarm) {
        let options = StopContainerOptionsBuilder::new().t(30).build();
        let stopped = farm.docker.stop_container(&self.name, Some(options)).await;
        stopped.expect("the container can be stopped");
        let found = farm.docker.inspect_container(&self.name, None).await;
        let code = found.ok().and_then(|found| found.state?.exit_code);
        assert_eq!(code, Some(0), "the worker did not exit with code 0");
        let options = RemoveContainerOptionsBuilder::new().v(true).build();
        let removed = farm
            .docker
            .remove_container(&self.name, Some(options))
            .await;
        removed.expect("the container can be removed");
        let removed = farm.docker.remove_network(&self.name).await;
        removed.expect("the network can be removed");
        self.forwarding.abort();
    }
}

impl Drop for ContainedWorker {
    /// Removes the container after a failure, as `DockerFarm` does.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let script = "docker rm --force --volumes $NAME; docker network rm $NAME";
            let _ = std::process::Command::new("sh")
                .args(["-c", script])
                .env("NAME", &self.name)
                .output();
        }
    }
}

/// The program, the libraries that it is linked to, and the daemon's socket.
fn binds() -> Vec<String> {
    let programs = programs::folder();
    let mut binds = vec![
        format!("{}:/programs:ro", programs.display()),
        format!("{}:/docker.sock", unix_socket(&daemon::address())),
    ];
    binds.extend(["/lib", "/lib64", "/usr/lib"].map(|folder| format!("{folder}:{folder}:ro")));
    binds
}

/// Forwards connections to the gateway to the farm's Redis on the loopback interface.
async fn forward(gateway: &str, redis: u16) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind((gateway, 0)).await;
    let listener = listener.expect("the gateway is the host's address");
    let port = listener.local_addr().map(|address| address.port());
    let forwarding = tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut to) = TcpStream::connect(("127.0.0.1", redis)).await {
                    // Ends when either side does.
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                }
            });
        }
    });
    (port.expect("a listener has a port"), forwarding)
}

/// The number of the host's routes into a contract's network.
async fn host_routes(farm: &DockerFarm, address: &str) -> usize {
    let bridge = farm.bridge(address).await;
    let routes = std::fs::read_to_string("/proc/net/route").expect("/proc is mounted");
    let begins = |line: &&str| line.split_whitespace().next() == Some(bridge.as_str());
    routes.lines().filter(begins).count()
}

#[tokio::test]
async fn a_worker_in_a_container_joins_its_contracts_networks() {
    let mut farm = DockerFarm::start().await;
    farm.inner().workers[0].terminate().await;
    let worker = ContainedWorker::start(&mut farm).await;
    wait::until_true("the worker to join", DEFAULT_LIMIT, async || {
        farm.inner().redis.workers("exec:").await.len() == 1
    })
    .await;
    farm.load_all(&["spy", "victim"]).await;
    assert_eq!(farm.call("spy", "count", Value::Null).await, 1);

    let name = farm.container_name("spy").await;
    let network = farm.docker.inspect_network(&name, None).await.unwrap();
    assert_eq!(network.internal, Some(true));
    let members = network.containers.unwrap();
    let mut members: Vec<_> = members
        .values()
        .map(|member| member.name.as_deref())
        .collect();
    members.sort_unstable();
    assert_eq!(members, [Some(name.as_str()), Some(worker.name.as_str())]);

    // The host has no address in the network, so the contract cannot use it as a gateway either.
    assert_eq!(host_routes(&farm, "spy").await, 0);
    let ip = farm.ip("spy").await;
    assert!(ip.starts_with("10.217."), "{ip}");
    let gateway = Ipv4Addr::from((u32::from(ip.parse::<Ipv4Addr>().unwrap()) & !7) + 1);
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let victim = farm.ip("victim").await;
    for target in [format!("{gateway}:{port}"), format!("{victim}:8080")] {
        let said = farm.call("spy", "connect", json!(target)).await;
        assert_ne!(said, "done", "{target}");
    }
    // Control: the contract can connect to itself.
    assert_eq!(
        farm.call("spy", "connect", json!(format!("{ip}:8080")))
            .await,
        "done"
    );

    farm.client().unload("spy").await.is_no_content();
    assert!(farm.docker.inspect_network(&name, None).await.is_err());
    worker.stop(&farm).await;
    assert_eq!(farm.resources().await, [""; 0]);
    farm.inner().add_worker().await;
    assert_eq!(farm.call("victim", "count", Value::Null).await, 1);
    // Control: with a worker on the host, the host has an address there.
    assert_eq!(host_routes(&farm, "victim").await, 1);
    farm.stop().await;
}
