//! A Docker contract for the tests: tiny, static, and able to misbehave on request.
//!
//! It implements just enough HTTP/1.1 with the standard library, and uses a thread per connection.
//! Its first argument sets how it starts (see [`main`]); the paths in [`answer`] are its actions.

mod actions;
mod http;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, exit};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use http::{Reply, Request};
use nix::sys::signal::{SigSet, Signal};

/// The state of the contract.
static COUNT: AtomicU64 = AtomicU64::new(0);
static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// Requests that are still answered 503.
static COLD: AtomicU64 = AtomicU64::new(0);
/// Calls in flight in `sleep`, and their maximum so far.
static ASLEEP: AtomicU64 = AtomicU64::new(0);
static MOST_ASLEEP: AtomicU64 = AtomicU64::new(0);

/// Runs in one of these modes:
///
/// - `serve [PORT]` serves the contract.
/// - `inside` serves it on the loopback address only.
/// - `warming COUNT` answers so many requests with 503 before it serves.
/// - `stubborn` serves, and SIGTERM does not end it.
/// - `away` starts a child that serves, and ends.
/// - `exit CODE` ends at once.
/// - `silent` never listens.
/// - `euid` and `sleep` are for processes that `actions` starts.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize| arguments.get(index).map(String::as_str);
    match argument(0) {
        Some("exit") => {
            println!("about to end, as asked");
            exit(argument(1).and_then(|code| code.parse().ok()).unwrap_or(0));
        }
        // The mode of the copy that `setuid` starts.
        Some("euid") => print!("{}", nix::unistd::geteuid()),
        Some("silent") => loop {
            thread::park();
        },
        // The mode of the processes that `fork` starts.
        Some("sleep") => thread::sleep(Duration::from_mins(10)),
        Some("away") => {
            // The child is deliberately not awaited.
            let _ = Command::new("/contract-server").arg("serve").spawn();
        }
        Some("stubborn") => {
            // Every thread inherits the blocked signal.
            let _ = SigSet::from(Signal::SIGTERM).thread_block();
            serve(Ipv4Addr::UNSPECIFIED, 8080);
        }
        Some("inside") => serve(Ipv4Addr::LOCALHOST, 8080),
        Some("warming") => {
            let count = argument(1).and_then(|count| count.parse().ok());
            COLD.store(count.unwrap_or(u64::MAX), Ordering::SeqCst);
            serve(Ipv4Addr::UNSPECIFIED, 8080);
        }
        _ => {
            let port = argument(1).and_then(|port| port.parse().ok());
            serve(Ipv4Addr::UNSPECIFIED, port.unwrap_or(8080));
        }
    }
}

fn serve(address: Ipv4Addr, port: u16) {
    let listener = match TcpListener::bind((address, port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("cannot listen: {error}");
            exit(1);
        }
    };
    println!("listening on {port}");
    for stream in listener.incoming().flatten() {
        // If no thread can be started, the connection is closed, so the caller sees a failure.
        let _ = thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(move || serve_connection(&stream));
    }
}

fn serve_connection(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut reader = std::io::BufReader::new(stream);
    while let Some(request) = http::read(&mut reader) {
        actions::hang_if_asked();
        let reply = answer(&request, stream);
        if http::write(stream, &request, &reply).is_err() {
            return;
        }
    }
}

fn answer(request: &Request, stream: &TcpStream) -> Reply {
    let body = request.body.as_str();
    let is_cold = |left: u64| left.checked_sub(1);
    if COLD
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_cold)
        .is_ok()
    {
        return Reply::status(503, "\"warming up\"");
    }
    match (request.verb.as_str(), request.path.as_str()) {
        ("HEAD", _) => Reply::json("null"),
        ("GET", "/schema") => Reply::json(r#"{"schema":"by GET"}"#),
        ("GET", _) => Reply::status(405, "\"only POST\""),
        (_, "/schema") => Reply::status(405, "\"ask with GET\""),
        (_, "/echo") => Reply::json(if body.is_empty() { "null" } else { body }),
        (_, "/wrapped") => Reply::json(&format!(r#"{{"data":{body}}}"#)),
        (_, "/add") => add(body),
        (_, "/count") => Reply::json(&(COUNT.fetch_add(1, Ordering::SeqCst) + 1).to_string()),
        (_, "/note") => note(body),
        (_, "/sleep") => sleep(body),
        (_, "/most-asleep") => Reply::json(&MOST_ASLEEP.load(Ordering::SeqCst).to_string()),
        (_, "/whoami") => actions::whoami(),
        (_, "/hang") => actions::hang(),
        (_, "/exit") => exit(body.parse().unwrap_or(0)),
        (_, "/burn") => actions::burn(body),
        (_, "/eat") => actions::eat(body),
        (_, "/fork") => actions::fork(body),
        (_, "/files") => actions::files(body),
        (_, "/say") => actions::say(body),
        (_, "/chatter") => actions::chatter(body),
        (_, "/write") => actions::write(body),
        (_, "/read") => actions::read(body),
        (_, "/connect") => actions::connect(body),
        (_, "/resolve") => actions::resolve(body),
        (_, "/udp") => actions::udp(body),
        (_, "/mount") => actions::mount(),
        (_, "/raw-socket") => actions::raw_socket(),
        (_, "/ptrace") => actions::ptrace(body),
        (_, "/setuid") => actions::setuid(),
        (_, "/device") => actions::device(),
        (_, "/ill") => http::ill(body, stream),
        (_, "/percent%2Fencoded%20one") => Reply::json("\"one segment\""),
        _ => Reply::status(404, "\"no such endpoint\""),
    }
}

/// Adds the numbers of `{"a":1,"b":2}`, or of any other text that contains numbers.
fn add(body: &str) -> Reply {
    let numbers = body.split(|c: char| !c.is_ascii_digit() && c != '-');
    let sum: i64 = numbers
        .filter_map(|number| number.parse::<i64>().ok())
        .sum();
    Reply::json(&sum.to_string())
}

/// Stores a JSON value and returns all stored values.
fn note(body: &str) -> Reply {
    let Ok(mut notes) = NOTES.lock() else {
        return Reply::status(500, "\"poisoned\"");
    };
    notes.push(body.to_owned());
    Reply::json(&format!("[{}]", notes.join(",")))
}

/// Sleeps for the given milliseconds.
fn sleep(body: &str) -> Reply {
    let now = ASLEEP.fetch_add(1, Ordering::SeqCst) + 1;
    MOST_ASLEEP.fetch_max(now, Ordering::SeqCst);
    thread::sleep(Duration::from_millis(body.parse().unwrap_or(0)));
    ASLEEP.fetch_sub(1, Ordering::SeqCst);
    Reply::json("\"slept\"")
}
