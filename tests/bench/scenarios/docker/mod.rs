//! A contract in a container, called through the farm and directly. Both call the same container.

#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../../../e2e/docker/docker_farm.rs"]
mod docker_farm;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../../../e2e/docker/test_image.rs"]
mod test_image;

use tokio::net::UnixStream;

use self::docker_farm::DockerFarm;
use super::{Bench, address_of};
use crate::contracts::{ADD_BODY, path};
use crate::names;
use crate::support::daemon;

const CONNECTIONS: u32 = 64;

/// The port on which the image listens.
const PORT: u16 = 8080;

pub(super) async fn run(bench: &mut Bench) {
    if UnixStream::connect(docker_farm::unix_socket(&daemon::address()))
        .await
        .is_err()
    {
        let why = "docker: no daemon answers (scripts/setup --docker starts one)";
        bench.figures.skip(why);
        return;
    }
    // All cores of the machine. With fewer, the figure would mostly show the CPU limit.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    measure(
        bench,
        &cores.to_string(),
        names::DOCKER,
        names::DOCKER_DIRECT,
    )
    .await;
    if !bench.plan.is_quick() {
        measure(bench, "0.5", names::DOCKER_HALF, names::DOCKER_HALF_DIRECT).await;
    }
}

/// Measures a container with this CPU limit.
async fn measure(bench: &mut Bench, cores: &str, through_farm: &str, direct: &str) {
    let farm = docker_farm::docker_builder().env("CONTAINER_CPUS", cores);
    let mut farm = DockerFarm::of(farm).await;
    farm.load_all(&["echo"]).await;
    let at = address_of(farm.inner());
    let container = format!("{}:{PORT}", farm.ip("echo").await);
    let (farm_paths, direct_paths) = ([path("echo", "echo")], ["/echo".to_owned()]);
    for round in 1..=bench.plan.rounds {
        eprintln!("docker, {cores} cores, round {round}:");
        let load = bench.load(&at, &farm_paths, ADD_BODY, CONNECTIONS);
        bench.measure(through_farm, &load).await;
        let load = bench.load(&container, &direct_paths, ADD_BODY, CONNECTIONS);
        bench.measure(direct, &load).await;
    }
    farm.stop().await;
}
