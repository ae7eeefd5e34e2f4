//! One container with its network: creates it, waits until it accepts connections, removes it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::errors::Error;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    StopContainerOptionsBuilder,
};
use futures::StreamExt;
use http::StatusCode;
use shared::service::backoff::Backoff;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::client::ContractClient;
use super::daemon::Docker;
use super::death_watch::DeathWatch;
use super::image::{self, Image};
use super::output::ContainerOutput;
use super::{error, labels, privileges, unreachable};
use crate::sandbox::{Blueprint, StartError};

/// How long one connection attempt may take. It is short because the container is on this host.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// How long a contract may take to answer whether it is warm. One that does not answer `HEAD` at
/// all may serve its calls all the same.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// How much of a failed container's output is reported: the last lines, and the last bytes of them.
const LOG_LINES: &str = "10";
const LOG_BYTES: usize = 1500;

/// How long the output of a failed container is read.
const LOG_LIMIT: Duration = Duration::from_secs(2);

/// A container that was started.
struct Launched {
    /// None if it has died already.
    address: Option<IpAddr>,
    /// Its first process, as the daemon's machine names it.
    pid: Option<i64>,
}

/// A container that accepts connections. It must be ended with [`Container::remove`].
#[derive(Debug)]
pub(super) struct Container {
    docker: Docker,
    name: String,
    /// What it prints.
    pub(super) output: ContainerOutput,
    pub(super) image: Image,
    /// The address at which the contract listens.
    pub(super) address: SocketAddr,
    pub(super) watch: DeathWatch,
}

impl Container {
    /// Creates a container and waits until it accepts connections. Leaves nothing behind when it
    /// fails.
    pub(super) async fn start(docker: &Docker, plan: Blueprint<'_>) -> Result<Self, StartError> {
        let deadline = Instant::now() + docker.config.load_limit;
        let lookup = docker.image(plan.executable, plan.image);
        let image = timeout_at(deadline, lookup).await;
        let image = image.map_err(|_| image::late())??;
        let name = labels::new_name(plan.address);
        let mut watch = docker.deaths.watch(&name);
        match docker
            .bring_up(&name, &image, plan, deadline, &mut watch)
            .await
        {
            Ok(address) => Ok(Self {
                docker: docker.clone(),
                output: ContainerOutput::new(
                    docker.daemon.clone(),
                    name.clone(),
                    plan.spec.keep_logs,
                ),
                name,
                image,
                address,
                watch,
            }),
            Err(error) => {
                docker.remove_contract(&name, image.tar_id()).await;
                Err(error)
            }
        }
    }

    /// Stops the container (SIGTERM, then SIGKILL after the grace period) and removes everything
    /// that belongs to it. If the daemon fails, the next sweep removes the rest.
    pub(super) async fn remove(self) {
        let grace = self.docker.config.stop_grace;
        let options = StopContainerOptionsBuilder::new().t(grace).build();
        if let Err(error) = self
            .docker
            .daemon
            .stop_container(&self.name, Some(options))
            .await
        {
            tracing::debug!(container = self.name, %error, "container not stopped");
        }
        self.docker
            .remove_contract(&self.name, self.image.tar_id())
            .await;
    }
}

impl Docker {
    async fn bring_up(
        &self,
        name: &str,
        image: &Image,
        plan: Blueprint<'_>,
        deadline: Instant,
        watch: &mut DeathWatch,
    ) -> Result<SocketAddr, StartError> {
        let launched = timeout_at(deadline, self.launch(name, image, plan)).await;
        let launched = match launched {
            Err(_) => {
                let late = "The container was not created in time; try again";
                return Err(StartError::Unavailable(late.to_owned()));
            }
            Ok(Err(StartError::Invalid(reason))) => {
                return Err(StartError::Invalid(
                    reason + &self.platform_advice(image).await,
                ));
            }
            Ok(launched) => launched?,
        };
        let (port, pid) = (image.port, self.visible(launched.pid));
        let warming = AtomicBool::new(false);
        let (reason, is_final) = tokio::select! {
            cause = watch.death() => {
                let platform = self.platform_advice(image).await;
                return Err(StartError::Invalid(format!("The container died: {cause}{platform}")));
            }
            up = timeout_at(deadline, ready(launched.address, port, &warming)) => match up {
                Ok(address) => return Ok(address),
                Err(_) if warming.load(Ordering::Relaxed) => {
                    ("The container answered 503 to HEAD / until its time was over".to_owned(), false)
                }
                Err(_) => {
                    let advice = unreachable::advice(image, pid);
                    (format!("The container did not listen on port {port} in time{advice}"), false)
                }
            },
            () = unreachable::listens_only_inside(pid, port) => {
                let advice = unreachable::advice(image, pid);
                (format!("The container cannot be called on port {port}{advice}"), true)
            }
        };
        let reason = reason + &self.last_output(name).await;
        Err(if is_final {
            StartError::Invalid(reason)
        } else {
            // A slow start of the container, or what took the time before it, may be the cause.
            StartError::NotReady(reason)
        })
    }

    /// Creates and starts the container.
    async fn launch(
        &self,
        name: &str,
        image: &Image,
        plan: Blueprint<'_>,
    ) -> Result<Launched, StartError> {
        let egress = plan.spec.limits.network == Some(true);
        if egress && !self.config.allow_egress {
            return Err(StartError::Invalid(
                "Contracts may not use the network on this worker (CONTAINER_ALLOW_EGRESS)"
                    .to_owned(),
            ));
        }
        let labels = self
            .owner
            .labels(plan.address, plan.generation, image.from_tar);
        self.create_network(name, labels.clone(), egress).await?;
        let body = privileges::container(&self.config, image, name, labels, egress);
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let made = self.daemon.create_container(Some(options), body).await;
        made.map_err(|cause| refusal("create", &cause))?;
        let started = self.daemon.start_container(name, None).await;
        started.map_err(|cause| refusal("start", &cause))?;
        self.find_launched(name).await
    }

    async fn find_launched(&self, name: &str) -> Result<Launched, StartError> {
        let found = self.daemon.inspect_container(name, None).await;
        let found = found.map_err(|cause| error::unavailable("inspect a container", &cause))?;
        let mut networks = found
            .network_settings
            .and_then(|settings| settings.networks);
        let endpoint = networks.as_mut().and_then(|networks| networks.remove(name));
        Ok(Launched {
            address: endpoint.and_then(|endpoint| endpoint.ip_address?.parse().ok()),
            pid: found.state.and_then(|state| state.pid),
        })
    }

    /// The container's last output, for the caller of a load or a call that failed.
    pub(super) async fn last_output(&self, name: &str) -> String {
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .tail(LOG_LINES)
            .build();
        let lines = self.daemon.logs(name, Some(options));
        let text = lines
            .filter_map(async |line| line.ok())
            .fold(String::new(), async |text, line| text + &line.to_string());
        let text = timeout(LOG_LIMIT, text).await.unwrap_or_default();
        let text = text.trim();
        if text.is_empty() {
            return ", and it printed nothing".to_owned();
        }
        let start = text.ceil_char_boundary(text.len().saturating_sub(LOG_BYTES));
        format!(", and it printed last: {}", &text[start..])
    }

    /// Removes a container with its volumes and its network, and an image that was loaded from a
    /// tar. A failure is only logged, because a sweep retries the removal.
    pub(super) async fn remove_contract(&self, name: &str, tar_image: Option<&str>) {
        let removed = async {
            let options = RemoveContainerOptionsBuilder::new()
                .force(true)
                .v(true)
                .build();
            error::unless_missing(self.daemon.remove_container(name, Some(options)).await)?;
            self.remove_network(name).await?;
            if let Some(image) = tar_image {
                self.remove_tar_image(image).await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = removed.await {
            tracing::warn!(container = name, %error, "container not removed");
        }
    }
}

/// Waits until the contract accepts connections and is warm: some servers listen at once and answer
/// 503 until they can serve. Pending forever without an address: then the container has died, and
/// its watch reports it. `warming` tells that it accepts connections.
async fn ready(address: Option<IpAddr>, port: u16, warming: &AtomicBool) -> SocketAddr {
    let Some(address) = address else {
        return std::future::pending().await;
    };
    let address = SocketAddr::new(address, port);
    let backoff = || Backoff::new(Duration::from_millis(4), Duration::from_millis(200));
    listens(address, backoff()).await;
    let (client, mut backoff) = (ContractClient::new(address, 0), backoff());
    while let Ok(Ok(StatusCode::SERVICE_UNAVAILABLE)) = timeout(PROBE_LIMIT, client.ping()).await {
        warming.store(true, Ordering::Relaxed);
        backoff.wait().await;
    }
    address
}

async fn listens(address: SocketAddr, mut backoff: Backoff) {
    while !matches!(
        timeout(CONNECT_LIMIT, TcpStream::connect(address)).await,
        Ok(Ok(_))
    ) {
        backoff.wait().await;
    }
}

/// Tells an image that the daemon cannot run from a failure of the daemon itself.
fn refusal(what: &str, cause: &Error) -> StartError {
    let reason = error::text(cause);
    if is_image_fault(error::status(cause), &reason) {
        StartError::Invalid(format!("Docker cannot {what} the container: {reason}"))
    } else {
        error::unavailable(&format!("{what} a container"), cause)
    }
}

fn is_image_fault(status: Option<u16>, reason: &str) -> bool {
    const OF_THE_IMAGE: [&str; 2] = ["OCI runtime create failed", "unable to find user"];
    // The container runtime reports a machine without room in the same way.
    const OF_THE_MACHINE: [&str; 4] = [
        "resource temporarily unavailable",
        "cannot allocate memory",
        "no space left on device",
        "deadline exceeded",
    ];
    let mentions = |parts: &[&str]| parts.iter().any(|part| reason.contains(part));
    status == Some(400) || mentions(&OF_THE_IMAGE) && !mentions(&OF_THE_MACHINE)
}

#[cfg(test)]
mod tests {
    use super::is_image_fault;

    #[test]
    fn a_machine_without_room_is_not_the_fault_of_an_image() {
        let runtime = "OCI runtime create failed: runc create failed: unable to start container \
                       process: ";
        let image =
            format!("{runtime}exec: \"/nothing\": stat /nothing: no such file or directory");
        let machine =
            format!("{runtime}fork/exec /proc/self/exe: resource temporarily unavailable");
        assert!(is_image_fault(Some(500), &image));
        assert!(!is_image_fault(Some(500), &machine));
        assert!(is_image_fault(Some(400), "no command specified"));
        assert!(!is_image_fault(Some(500), "connection lost"));
    }
}
