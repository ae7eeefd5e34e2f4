//! D1: whom a contract reaches: nobody.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use serde_json::json;
use tokio::net::{TcpStream, UdpSocket};

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
    let own = format!("{}:8080", world.ip("bad").await);
    if world.call("bad", "connect", json!(own)).await != "done" {
        return Err("control: it cannot connect to itself".to_owned());
    }
    let said = refused(world, "connect", json!(victim)).await?;
    Ok((
        said,
        Some("the host reaches it; the contract reaches itself".to_owned()),
    ))
}

async fn gateway(world: &World) -> Ipv4Addr {
    let ip: Ipv4Addr = world.ip("bad").await.parse().expect("an address is one");
    Ipv4Addr::from((u32::from(ip) & !7) + 1)
}

async fn host(world: &mut World) -> Seen {
    let listener = TcpListener::bind("0.0.0.0:0").map_err(|error| error.to_string())?;
    listener
        .set_nonblocking(true)
        .map_err(|error| error.to_string())?;
    let port = listener
        .local_addr()
        .map_err(|error| error.to_string())?
        .port();
    let service = format!("{}:{port}", gateway(world).await);
    let said = refused(world, "connect", json!(service)).await?;
    if listener.accept().is_ok() {
        return Err("a connection arrived".to_owned());
    }
    TcpStream::connect(&service)
        .await
        .map_err(|error| format!("control: {error}"))?;
    let socket = UdpSocket::bind("0.0.0.0:0")
        .await
        .map_err(|error| error.to_string())?;
    let port = socket
        .local_addr()
        .map_err(|error| error.to_string())?
        .port();
    let service = format!("{}:{port}", gateway(world).await);
    refused(world, "udp", json!(service)).await?;
    let mut datagram = [0; 8];
    let heard = tokio::time::timeout(Duration::from_millis(100), socket.recv(&mut datagram)).await;
    if heard.is_ok() {
        return Err("a datagram arrived".to_owned());
    }
    Ok((said, Some("the host reaches the same listener".to_owned())))
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
