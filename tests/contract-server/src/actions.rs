//! The actions that a test asks the contract to attempt. Each returns how far it got.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::Pid;

use crate::http::Reply;

/// The time limit of an attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the contract has stopped answering.
static HUNG: AtomicBool = AtomicBool::new(false);

/// The allocated memory, which is kept.
static ALLOCATED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn text(body: &str) -> &str {
    body.trim_matches('"')
}

fn quoted(text: &str) -> String {
    let plain: String = text
        .chars()
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            '\n' => vec!['\\', 'n'],
            '\t' => vec!['\\', 't'],
            c if c.is_control() => vec![' '],
            c => vec![c],
        })
        .collect();
    format!("\"{plain}\"")
}

fn done_or_error<T>(outcome: Result<T, impl std::fmt::Display>) -> Reply {
    match outcome {
        Ok(_) => Reply::json("\"done\""),
        Err(error) => Reply::json(&quoted(&error.to_string())),
    }
}

/// The kernel's view of this process.
pub fn whoami() -> Reply {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let first = fs::read_to_string("/proc/1/cmdline").unwrap_or_default();
    let mut fields = vec![format!("\"Init\":{}", quoted(&first.replace('\0', " ")))];
    for line in status.lines() {
        if let Some((name, value)) = line.split_once(':') {
            fields.push(format!("{}:{}", quoted(name), quoted(value.trim())));
        }
    }
    Reply::json(&format!("{{{}}}", fields.join(",")))
}

/// Stops answering. The kernel still accepts connections.
pub fn hang() -> Reply {
    HUNG.store(true, Ordering::SeqCst);
    hang_if_asked();
    Reply::json("\"never\"")
}

/// Never returns once the contract hangs.
pub fn hang_if_asked() {
    while HUNG.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// Uses all cores for the given milliseconds. Returns the number of rounds.
pub fn burn(body: &str) -> Reply {
    let end = Instant::now() + Duration::from_millis(body.parse().unwrap_or(0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                let mut rounds = 0_u64;
                while Instant::now() < end {
                    rounds += 1;
                }
                rounds
            })
        })
        .collect();
    let rounds: u64 = threads
        .into_iter()
        .filter_map(|thread| thread.join().ok())
        .sum();
    Reply::json(&rounds.to_string())
}

/// Allocates the given MiB and keeps them.
pub fn eat(body: &str) -> Reply {
    let megabytes: usize = body.parse().unwrap_or(0);
    for _ in 0..megabytes {
        if let Ok(mut eaten) = ALLOCATED.lock() {
            eaten.push(vec![1; 1 << 20]);
        }
    }
    Reply::json(&megabytes.to_string())
}

/// Starts the given number of processes. Returns how many could be started.
pub fn fork(body: &str) -> Reply {
    let mut children: Vec<Child> = Vec::new();
    for _ in 0..body.parse().unwrap_or(0) {
        match Command::new("/contract-server").arg("sleep").spawn() {
            Ok(child) => children.push(child),
            Err(_) => break,
        }
    }
    let count = children.len();
    for mut child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
    Reply::json(&count.to_string())
}

/// Opens the given number of files at once. Returns how many could be opened.
pub fn files(body: &str) -> Reply {
    let files: Vec<_> = (0..body.parse().unwrap_or(0))
        .map_while(|_| fs::File::open("/proc/self/status").ok())
        .collect();
    Reply::json(&files.len().to_string())
}

/// Prints the given MiB.
pub fn chatter(body: &str) -> Reply {
    let line = "x".repeat(1023) + "\n";
    let mut out = std::io::stdout().lock();
    for _ in 0..1024 * body.parse().unwrap_or(0) {
        if out.write_all(line.as_bytes()).is_err() {
            break;
        }
    }
    Reply::json("\"done\"")
}

/// Prints a line on each of both streams.
pub fn say(body: &str) -> Reply {
    println!("said {}", text(body));
    eprintln!("warned {}", text(body));
    Reply::json("null")
}

/// `"PATH MIB"`: writes a file of that size. Returns how many MiB could be written.
pub fn write(body: &str) -> Reply {
    let (path, megabytes) = text(body).split_once(' ').unwrap_or((text(body), "1"));
    let mut file = match fs::OpenOptions::new().create(true).append(true).open(path) {
        Ok(file) => file,
        Err(error) => return Reply::json(&quoted(&error.to_string())),
    };
    let piece = vec![1; 1 << 20];
    let most = megabytes.parse().unwrap_or(1);
    let fitted = (0..most)
        .take_while(|_| file.write_all(&piece).is_ok())
        .count();
    Reply::json(&fitted.to_string())
}

/// Returns the beginning of a file.
pub fn read(body: &str) -> Reply {
    match fs::read_to_string(text(body)) {
        Ok(content) => Reply::json(&quoted(content.get(..20_000).unwrap_or(&content))),
        Err(error) => Reply::status(500, &quoted(&error.to_string())),
    }
}

/// `"ADDRESS:PORT"`: connects, without sending anything.
pub fn connect(body: &str) -> Reply {
    match text(body).parse::<SocketAddr>() {
        Ok(address) => done_or_error(TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)),
        Err(error) => Reply::status(500, &quoted(&error.to_string())),
    }
}

/// `"NAME"`: resolves it.
pub fn resolve(body: &str) -> Reply {
    done_or_error((text(body), 80).to_socket_addrs().and_then(|mut found| {
        found
            .next()
            .ok_or_else(|| std::io::Error::other("no address"))
    }))
}

/// `"ADDRESS:PORT"`: sends a datagram and waits for an answer.
pub fn udp(body: &str) -> Reply {
    let asked = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        socket.send_to(b"?", text(body))?;
        socket.recv(&mut [0; 16])
    });
    done_or_error(asked)
}

/// Mounts a file system.
pub fn mount() -> Reply {
    const NONE: Option<&str> = None;
    done_or_error(nix::mount::mount(
        NONE,
        "/tmp",
        Some("tmpfs"),
        MsFlags::empty(),
        NONE,
    ))
}

/// Opens a raw socket.
pub fn raw_socket() -> Reply {
    done_or_error(nix::sys::socket::socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::Icmp,
    ))
}

/// Creates a device node for the machine's memory.
pub fn device() -> Reply {
    let memory = nix::sys::stat::makedev(1, 1);
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    done_or_error(nix::sys::stat::mknod(
        "/tmp/memory",
        SFlag::S_IFCHR,
        mode,
        memory,
    ))
}

/// Traces the process with this id, or a child of its own if the id is 0.
pub fn ptrace(body: &str) -> Reply {
    let number: i32 = body.parse().unwrap_or(0);
    if number > 0 {
        return done_or_error(traced(number));
    }
    match Command::new("/contract-server").arg("sleep").spawn() {
        Ok(mut child) => {
            let reply = done_or_error(traced(child.id().cast_signed()));
            let _ = child.kill();
            let _ = child.wait();
            reply
        }
        Err(error) => Reply::status(500, &quoted(&error.to_string())),
    }
}

fn traced(number: i32) -> nix::Result<()> {
    let process = Pid::from_raw(number);
    // Unlike `attach`, this does not stop the process.
    nix::sys::ptrace::seize(process, nix::sys::ptrace::Options::empty())
}

/// The user that root's setuid program runs as.
pub fn setuid() -> Reply {
    match Command::new("/root-server").arg("euid").output() {
        Ok(output) => Reply::json(&quoted(&String::from_utf8_lossy(&output.stdout))),
        Err(error) => Reply::status(500, &quoted(&error.to_string())),
    }
}
