//! Just enough HTTP/1.1, and several ways to violate it.

use std::io::{self, BufRead, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

pub struct Request {
    pub verb: String,
    pub path: String,
    pub body: String,
}

pub struct Reply {
    pub status: u16,
    pub body: String,
    /// The reply has already been sent, so nothing more is written.
    pub sent: bool,
}

impl Reply {
    pub fn json(body: &str) -> Self {
        Self::status(200, body)
    }

    pub fn status(status: u16, body: &str) -> Self {
        Self {
            status,
            body: body.to_owned(),
            sent: false,
        }
    }
}

/// The next request, or none when the connection is to be closed.
pub fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split(' ');
    let (verb, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader
            .read_line(&mut header)
            .ok()
            .filter(|read| *read > 0)?;
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        verb,
        path,
        body: String::from_utf8(body).ok()?,
    })
}

pub fn write(mut stream: &TcpStream, request: &Request, reply: &Reply) -> io::Result<()> {
    if reply.sent {
        return Err(io::ErrorKind::Other.into());
    }
    let Reply { status, body, .. } = reply;
    let shown = if request.verb == "HEAD" { "" } else { body };
    let head = format!(
        "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + shown).as_bytes())
}

/// Sends an invalid answer, whose kind is `"KIND"`, and closes the connection.
pub fn ill(kind: &str, stream: &TcpStream) -> Reply {
    // The caller may disconnect at any time.
    let _ = ill_answer(kind.trim_matches('"'), stream);
    Reply {
        status: 0,
        body: String::new(),
        sent: true,
    }
}

fn ill_answer(kind: &str, mut stream: &TcpStream) -> io::Result<()> {
    const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
    match kind {
        "html" => write!(stream, "{OK}Content-Length: 13\r\n\r\n<html></html>"),
        "empty" => write!(stream, "{OK}Content-Length: 0\r\n\r\n"),
        "no-http" => write!(stream, "hello\r\n\r\n"),
        "close" => Ok(()),
        "cut" => write!(stream, "{OK}Content-Length: 100\r\n\r\n[1,2"),
        "not-utf8" => {
            stream.write_all(&[OK.as_bytes(), b"Content-Length: 3\r\n\r\n\"\xff\""].concat())
        }
        "gzip" => stream.write_all(
            &[
                OK.as_bytes(),
                b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b",
            ]
            .concat(),
        ),
        "redirect" => write!(
            stream,
            "HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 4\r\n\r\nmove"
        ),
        "error" => {
            let body = "e".repeat(100_000);
            write!(
                stream,
                "HTTP/1.1 418 Teapot\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        }
        "ten-gigabytes" => {
            write!(stream, "{OK}Content-Length: 10000000000\r\n\r\n")?;
            endless(stream, b"1")
        }
        "endless" => {
            write!(stream, "{OK}Transfer-Encoding: chunked\r\n\r\n")?;
            endless(stream, b"8\r\n11111111\r\n")
        }
        "trickle" => {
            write!(stream, "{OK}Content-Length: 1000\r\n\r\n")?;
            loop {
                stream.write_all(b"1")?;
                thread::sleep(Duration::from_millis(100));
            }
        }
        "headers" => {
            write!(stream, "{OK}")?;
            endless(stream, b"X-Flood: 11111111111111111111\r\n")
        }
        other => write!(
            stream,
            "HTTP/1.1 500 Unknown\r\nContent-Length: {}\r\n\r\n{other}",
            other.len()
        ),
    }
}

fn endless(mut stream: &TcpStream, piece: &[u8]) -> io::Result<()> {
    let many = piece.repeat(1000);
    loop {
        stream.write_all(&many)?;
    }
}
