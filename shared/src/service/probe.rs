//! `PROGRAM healthcheck`: checks whether the process in the same container is ready. The exit code
//! is the result.
//!
//! It is for container engines that can only run a command in the container, because an image that
//! contains only the program has no curl. Kubernetes sends HTTP requests itself.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

/// How long each step may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Requests `/readyz` from the process that listens on `host` and `port`. If it is not ready,
/// prints the reason on standard error.
pub fn run(host: &str, port: u16) -> ExitCode {
    let answer = status_line(host, port).unwrap_or_else(|error| error.to_string());
    if answer.split(' ').nth(1) == Some("200") {
        return ExitCode::SUCCESS;
    }
    // A closed standard error does not change the result.
    _ = writeln!(io::stderr(), "not ready: {answer}");
    ExitCode::FAILURE
}

fn status_line(host: &str, port: u16) -> io::Result<String> {
    let mut stream = connect(host, port)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

/// Connects. Uses the loopback address for a server that listens on all addresses.
fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for mut address in (host, port).to_socket_addrs()? {
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        match TcpStream::connect_timeout(&address, LIMIT) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// The status line that is read from a server that sends `answer`.
    fn asked(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 64];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /readyz HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let line = status_line("0.0.0.0", port).unwrap();
        server.join().unwrap();
        line
    }

    #[test]
    fn the_status_is_read_from_the_first_line() {
        assert_eq!(
            asked("HTTP/1.0 200 OK\r\nx: y\r\n\r\n{}"),
            "HTTP/1.0 200 OK"
        );
        assert_eq!(
            asked("HTTP/1.1 503 Service Unavailable\r\n\r\n"),
            "HTTP/1.1 503 Service Unavailable"
        );
        assert_eq!(asked(""), "");
    }

    #[test]
    fn a_closed_port_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert!(status_line("127.0.0.1", port).is_err());
    }
}
