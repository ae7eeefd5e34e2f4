//! D1: a contract reaches no other contract, not the host and not the outside.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::docker_farm::DockerFarm;
use super::open_network::OpenNetwork;
use super::{Cases, Outcome, refused};
use crate::attack::shown;

/// Runs the row.
pub(super) async fn run(cases: &mut Cases) {
    cases.run("D1", "another contract", neighbour).await;
    cases.run("D1", "the host through the gateway", host).await;
    cases
        .run("D1", "the metadata service and the internet", outside)
        .await;
    cases.run("D1", "names", names).await;
}

async fn neighbour(farm: &mut DockerFarm) -> Outcome {
    let victim = format!("{}:8080", farm.ip("good").await);
    TcpStream::connect(&victim)
        .await
        .map_err(|error| format!("control: {error}"))?;
    let said = refused(farm, "connect", json!(victim)).await?;

    farm.load_all(&["open-spy", "open-victim"]).await;
    let control = async {
        let open = OpenNetwork::around(farm, &["open-spy", "open-victim"]).await?;
        let ip = open.ip(farm, "open-victim").await.unwrap_or_default();
        let victim = json!(format!("{ip}:8080"));
        match farm.call("open-spy", "connect", victim).await {
            said if said == "done" => {
                Ok("in a network of Docker's usual kind it connects".to_owned())
            }
            said => Err(format!("control: {said}")),
        }
    };
    let control = control.await;
    for address in ["open-spy", "open-victim"] {
        farm.client().unload(address).await.is_no_content();
    }
    Ok((said, Some(control?)))
}

async fn gateway(farm: &DockerFarm) -> Ipv4Addr {
    let ip: Ipv4Addr = farm.ip("bad").await.parse().expect("an address is one");
    Ipv4Addr::from((u32::from(ip) & !7) + 1)
}

/// Listeners on all of the host's addresses that record what arrives.
struct Host {
    listener: TcpListener,
    socket: UdpSocket,
}

impl Host {
    async fn open() -> std::io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind("0.0.0.0:0").await?,
            socket: UdpSocket::bind("0.0.0.0:0").await?,
        })
    }

    fn port(&self, is_udp: bool) -> u16 {
        let address = if is_udp {
            self.socket.local_addr()
        } else {
            self.listener.local_addr()
        };
        address.map_or(0, |address| address.port())
    }

    /// Whether a connection and a datagram have arrived by now.
    async fn seen(&self) -> (bool, bool) {
        let soon = Duration::from_millis(100);
        let knock = timeout(soon, self.listener.accept()).await;
        let datagram = timeout(soon, self.socket.recv(&mut [0; 8])).await;
        (knock.is_ok(), datagram.is_ok())
    }

    /// Makes a contract try both at this address of the host.
    async fn tried(&self, farm: &DockerFarm, spy: &str, host: &str) -> (Value, Value) {
        let service = json!(format!("{host}:{}", self.port(false)));
        let said = farm.call(spy, "connect", service).await;
        let service = json!(format!("{host}:{}", self.port(true)));
        (said, farm.call(spy, "udp", service).await)
    }
}

async fn host(farm: &mut DockerFarm) -> Outcome {
    let host = Host::open().await.map_err(|error| error.to_string())?;
    let (connected, answered) = host
        .tried(farm, "bad", &gateway(farm).await.to_string())
        .await;
    let seen = host.seen().await;
    if connected == "done" || answered == "done" || seen != (false, false) {
        return Err(format!("{connected}, {answered}; arrived: {seen:?}"));
    }

    farm.load_all(&["open-spy"]).await;
    let control = async {
        let _open = OpenNetwork::around(farm, &["open-spy"]).await?;
        let said = host.tried(farm, "open-spy", OpenNetwork::gateway()).await;
        match host.seen().await {
            (true, true) => Ok("in a network of Docker's usual kind both arrive".to_owned()),
            seen => Err(format!("control: {said:?}, arrived: {seen:?}")),
        }
    };
    let control = control.await;
    farm.client().unload("open-spy").await.is_no_content();
    Ok((format!("{connected}, {answered}"), Some(control?)))
}

async fn outside(farm: &mut DockerFarm) -> Outcome {
    // There is no route, so nothing leaves the machine, whatever is tried.
    let metadata = refused(farm, "connect", json!("169.254.169.254:80")).await?;
    let internet = refused(farm, "connect", json!("198.51.100.7:80")).await?;
    let control = "connects to itself, see the first case".to_owned();
    Ok((format!("{metadata}, {internet}"), Some(control)))
}

async fn names(farm: &mut DockerFarm) -> Outcome {
    let own = farm.container_name("bad").await;
    if farm.call("bad", "resolve", json!(own)).await != "done" {
        return Err("control: its own name is not resolved".to_owned());
    }
    let answer = farm
        .client()
        .execute("bad", "resolve", &json!("execution.invalid"))
        .await;
    let fine = answer.status == 504 || answer.status == 200 && answer.data() != "done";
    fine.then(|| (shown(&answer), Some("its own name is resolved".to_owned())))
        .ok_or_else(|| shown(&answer))
}
