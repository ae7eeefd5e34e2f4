//! D1: whom a contract reaches: nobody.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::open::Open;
use super::world::World;
use super::{Cases, Seen, refused};
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

async fn neighbour(world: &mut World) -> Seen {
    let victim = format!("{}:8080", world.ip("good").await);
    TcpStream::connect(&victim)
        .await
        .map_err(|error| format!("control: {error}"))?;
    let said = refused(world, "connect", json!(victim)).await?;

    world.load_servers(&["open-spy", "open-victim"]).await;
    let control = async {
        let open = Open::around(world, &["open-spy", "open-victim"]).await?;
        let ip = open.ip(world, "open-victim").await.unwrap_or_default();
        let victim = json!(format!("{ip}:8080"));
        match world.call("open-spy", "connect", victim).await {
            said if said == "done" => {
                Ok("in a network of Docker's usual kind it connects".to_owned())
            }
            said => Err(format!("control: {said}")),
        }
    };
    let control = control.await;
    for address in ["open-spy", "open-victim"] {
        world.client().unload(address).await.is_done();
    }
    Ok((said, Some(control?)))
}

async fn gateway(world: &World) -> Ipv4Addr {
    let ip: Ipv4Addr = world.ip("bad").await.parse().expect("an address is one");
    Ipv4Addr::from((u32::from(ip) & !7) + 1)
}

/// What listens on all of the host's addresses, and notes who comes.
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

    /// Who has come by now: connections and datagrams.
    async fn seen(&self) -> (bool, bool) {
        let soon = Duration::from_millis(100);
        let knock = timeout(soon, self.listener.accept()).await;
        let datagram = timeout(soon, self.socket.recv(&mut [0; 8])).await;
        (knock.is_ok(), datagram.is_ok())
    }

    /// Has a contract try both at this address of the host.
    async fn tried(&self, world: &World, spy: &str, host: &str) -> (Value, Value) {
        let service = json!(format!("{host}:{}", self.port(false)));
        let said = world.call(spy, "connect", service).await;
        let service = json!(format!("{host}:{}", self.port(true)));
        (said, world.call(spy, "udp", service).await)
    }
}

async fn host(world: &mut World) -> Seen {
    let host = Host::open().await.map_err(|error| error.to_string())?;
    let (connected, answered) = host
        .tried(world, "bad", &gateway(world).await.to_string())
        .await;
    let seen = host.seen().await;
    if connected == "done" || answered == "done" || seen != (false, false) {
        return Err(format!("{connected}, {answered}; arrived: {seen:?}"));
    }

    world.load_servers(&["open-spy"]).await;
    let control = async {
        let _open = Open::around(world, &["open-spy"]).await?;
        let said = host.tried(world, "open-spy", Open::gateway()).await;
        match host.seen().await {
            (true, true) => Ok("in a network of Docker's usual kind both arrive".to_owned()),
            seen => Err(format!("control: {said:?}, arrived: {seen:?}")),
        }
    };
    let control = control.await;
    world.client().unload("open-spy").await.is_done();
    Ok((format!("{connected}, {answered}"), Some(control?)))
}

async fn outside(world: &mut World) -> Seen {
    // There is no route: nothing leaves the machine, whatever is tried.
    let metadata = refused(world, "connect", json!("169.254.169.254:80")).await?;
    let internet = refused(world, "connect", json!("198.51.100.7:80")).await?;
    let control = "connects to itself, see the first case".to_owned();
    Ok((format!("{metadata}, {internet}"), Some(control)))
}

async fn names(world: &mut World) -> Seen {
    let own = world.container_name("bad").await;
    if world.call("bad", "resolve", json!(own)).await != "done" {
        return Err("control: its own name is not resolved".to_owned());
    }
    let answer = world
        .client()
        .execute("bad", "resolve", &json!("execution.invalid"))
        .await;
    let fine = answer.status == 504 || answer.status == 200 && answer.data() != "done";
    fine.then(|| (shown(&answer), Some("its own name is resolved".to_owned())))
        .ok_or_else(|| shown(&answer))
}
