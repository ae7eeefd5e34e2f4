//! A Docker contract for the tests: tiny, static, and as ill-behaved as it is told to be.
//!
//! It speaks just enough HTTP/1.1, with the standard library alone, a thread per connection. How it
//! begins is set by its first argument (see [`main`]), what it does by the paths in [`answer`].

mod deeds;
mod http;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, exit};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use http::{Reply, Request};
use nix::sys::signal::{SigSet, Signal};

/// What the contract remembers.
static COUNT: AtomicU64 = AtomicU64::new(0);
static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// Calls that are under way in `sleep`, and the most there ever were.
static ASLEEP: AtomicU64 = AtomicU64::new(0);
static MOST_ASLEEP: AtomicU64 = AtomicU64::new(0);

/// `serve [PORT]`, `stubborn` (serves, and SIGTERM does not end it), `away` (leaves the serving to a
/// child and ends), `exit CODE`, `silent` (never listens), or `sleep`, for `deeds`.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize| arguments.get(index).map(String::as_str);
    match argument(0) {
        Some("exit") => {
            println!("about to end, as asked");
            exit(argument(1).and_then(|code| code.parse().ok()).unwrap_or(0));
        }
        // What `setuid` starts, by another name.
        Some("euid") => print!("{}", nix::unistd::geteuid()),
        Some("silent") => loop {
            thread::park();
        },
        // What `fork` starts.
        Some("sleep") => thread::sleep(Duration::from_mins(10)),
        Some("away") => {
            // Nobody waits for it: that is the point.
            let _ = Command::new("/contract-server").arg("serve").spawn();
        }
        Some("stubborn") => {
            // Every thread inherits it.
            let _ = SigSet::from(Signal::SIGTERM).thread_block();
            serve(8080);
        }
        _ => serve(
            argument(1)
                .and_then(|port| port.parse().ok())
                .unwrap_or(8080),
        ),
    }
}

fn serve(port: u16) {
    let listener = match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("cannot listen: {error}");
            exit(1);
        }
    };
    println!("listening on {port}");
    for stream in listener.incoming().flatten() {
        // Without a thread the connection is closed, which is what a caller should see.
        let _ = thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(move || talk(&stream));
    }
}

fn talk(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut reader = std::io::BufReader::new(stream);
    while let Some(request) = http::read(&mut reader) {
        deeds::hang_if_told();
        let reply = answer(&request, stream);
        if http::write(stream, &request, &reply).is_err() {
            return;
        }
    }
}

fn answer(request: &Request, stream: &TcpStream) -> Reply {
    let body = request.body.as_str();
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
        (_, "/whoami") => deeds::whoami(),
        (_, "/hang") => deeds::hang(),
        (_, "/exit") => exit(body.parse().unwrap_or(0)),
        (_, "/burn") => deeds::burn(body),
        (_, "/eat") => deeds::eat(body),
        (_, "/fork") => deeds::fork(body),
        (_, "/files") => deeds::files(body),
        (_, "/chatter") => deeds::chatter(body),
        (_, "/write") => deeds::write(body),
        (_, "/read") => deeds::read(body),
        (_, "/connect") => deeds::connect(body),
        (_, "/resolve") => deeds::resolve(body),
        (_, "/udp") => deeds::udp(body),
        (_, "/mount") => deeds::mount(),
        (_, "/raw-socket") => deeds::raw_socket(),
        (_, "/ptrace") => deeds::ptrace(body),
        (_, "/setuid") => deeds::setuid(),
        (_, "/device") => deeds::device(),
        (_, "/ill") => http::ill(body, stream),
        (_, "/percent%2Fencoded%20one") => Reply::json("\"one segment\""),
        _ => Reply::status(404, "\"no such endpoint\""),
    }
}

/// `{"a":1,"b":2}` or any other text with two numbers in it.
fn add(body: &str) -> Reply {
    let numbers = body.split(|c: char| !c.is_ascii_digit() && c != '-');
    let sum: i64 = numbers
        .filter_map(|number| number.parse::<i64>().ok())
        .sum();
    Reply::json(&sum.to_string())
}

/// Remembers a JSON value; gives all of them.
fn note(body: &str) -> Reply {
    let Ok(mut notes) = NOTES.lock() else {
        return Reply::status(500, "\"poisoned\"");
    };
    notes.push(body.to_owned());
    Reply::json(&format!("[{}]", notes.join(",")))
}

/// Sleeps so many milliseconds.
fn sleep(body: &str) -> Reply {
    let now = ASLEEP.fetch_add(1, Ordering::SeqCst) + 1;
    MOST_ASLEEP.fetch_max(now, Ordering::SeqCst);
    thread::sleep(Duration::from_millis(body.parse().unwrap_or(0)));
    ASLEEP.fetch_sub(1, Ordering::SeqCst);
    Reply::json("\"slept\"")
}
