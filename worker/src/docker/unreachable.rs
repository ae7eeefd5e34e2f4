//! Explains why a container that runs cannot be called: where its server listens instead, and
//! whether its image is for this kind of processor.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::time::sleep;

use super::daemon::Docker;
use super::image::Image;
use super::location::Location;

/// The time between two looks at where a container listens.
const LOOK: Duration = Duration::from_millis(500);

/// The state of a listening socket in `/proc/PID/net/tcp`.
const LISTEN: &str = "0A";

/// Waits until a container listens on its port, but only for itself. Pending where that cannot be
/// seen. `pid` is the container's first process.
pub(super) async fn listens_only_inside(pid: Option<i64>, port: u16) {
    loop {
        sleep(LOOK).await;
        let at_port: Vec<_> = sockets(pid)
            .into_iter()
            .filter(|socket| socket.port() == port)
            .collect();
        if !at_port.is_empty() && at_port.iter().all(|socket| socket.ip().is_loopback()) {
            return;
        }
    }
}

/// What a contract must do whose server is out of reach.
pub(super) fn advice(image: &Image, pid: Option<i64>) -> String {
    let port = image.port;
    let found = sockets(pid);
    let ports = |loopback| {
        let of_kind = found.iter().filter(|at| at.ip().is_loopback() == loopback);
        of_kind.map(SocketAddr::port).collect::<BTreeSet<_>>()
    };
    let (inside, outside) = (ports(true), ports(false));
    if inside.contains(&port) {
        return format!(
            ". Its server listens on the loopback address only, where nothing outside of the \
             container can reach it: it must listen on 0.0.0.0:{port}"
        );
    }
    let exposed = match image.exposed.as_slice() {
        [] | [_] => String::new(),
        several => format!(
            ". Its image EXPOSEs the ports {}, and only a single one is taken for the contract's",
            list(several.iter())
        ),
    };
    if outside.is_empty() {
        return exposed;
    }
    format!(
        "{exposed}. Its server listens on port {}: it must listen on 8080, or the image must \
         EXPOSE the contract's port and no other",
        list(outside.iter())
    )
}

fn list<'a>(ports: impl Iterator<Item = &'a u16>) -> String {
    ports.map(u16::to_string).collect::<Vec<_>>().join(", ")
}

/// Where the processes of a container listen. Empty where it cannot be seen.
fn sockets(pid: Option<i64>) -> Vec<SocketAddr> {
    let Some(pid) = pid.filter(|pid| *pid > 0) else {
        return Vec::new();
    };
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok())
        .flat_map(|table| table.lines().filter_map(listener).collect::<Vec<_>>())
        .collect()
}

/// The address of a line of the table, if the socket listens.
fn listener(line: &str) -> Option<SocketAddr> {
    // `SLOT: LOCAL:PORT REMOTE:PORT STATE ...`, in hexadecimal.
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Each group of four bytes is a number in the machine's own byte order.
    let groups = (0..address.len() / 8)
        .map(|at| u32::from_str_radix(address.get(8 * at..8 * at + 8)?, 16).ok())
        .map(|group| group.map(u32::to_ne_bytes))
        .collect::<Option<Vec<_>>>()?;
    let address = match *groups.as_flattened() {
        [a, b, c, d] => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        ref bytes => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    (state == LISTEN).then(|| SocketAddr::new(address.to_canonical(), port))
}

impl Docker {
    /// The process id that the daemon reports for a container, if it is one of this machine.
    pub(super) fn visible(&self, pid: Option<i64>) -> Option<i64> {
        pid.filter(|_| self.location == Location::Host)
    }

    /// What to do about an image for another kind of processor; empty if it is for the daemon's.
    pub(super) async fn platform_advice(&self, image: &Image) -> String {
        let Ok(version) = self.daemon.version().await else {
            return String::new();
        };
        match (image.architecture.as_deref(), version.arch.as_deref()) {
            (Some(built), Some(own)) if built != own => format!(
                ". The image is for {built}, and this worker runs {own}: build it with `docker \
                 build --platform linux/{own}`"
            ),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::protocol::image::PinnedImage;

    use super::*;

    #[test]
    fn listening_sockets_are_read() {
        let lines = [
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid",
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000",
            "   1: 00000000:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0",
            "   2: 0100007F:1F91 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000",
            "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0",
            "   1: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 0",
            "nonsense",
        ];
        let found: Vec<_> = lines.iter().filter_map(|line| listener(line)).collect();
        let expected = [
            "127.0.0.1:8080",
            "0.0.0.0:3000",
            "[::1]:8080",
            "127.0.0.1:80",
        ];
        let expected = expected.map(|text| text.parse::<SocketAddr>().unwrap());
        assert_eq!(found, expected);
    }

    #[test]
    fn advice_names_the_ports_that_an_image_exposes() {
        let image = |exposed: &[u16]| Image {
            port: 8080,
            exposed: exposed.to_vec(),
            pin: PinnedImage {
                id: "sha256:0".to_owned(),
                source: None,
            },
            architecture: None,
            volumes: Vec::new(),
            from_tar: false,
        };
        assert_eq!(advice(&image(&[]), None), "");
        assert_eq!(advice(&image(&[3000]), None), "");
        assert!(advice(&image(&[3000, 3001]), None).contains("the ports 3000, 3001"));
    }
}
