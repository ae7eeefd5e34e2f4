//! D: contracts in containers. Controls are beside the cases: what is refused to a contract is seen to
//! be possible for the host, or for the contract itself where it may.

#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../../e2e/docker/recipe.rs"]
mod recipe;
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../../e2e/docker/world.rs"]
mod world;

use std::net::{Ipv4Addr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt;
use serde_json::{Value, json};
use tokio::net::{TcpStream, UdpSocket};

use self::recipe::Recipe;
use self::world::{World, base64, farm};
use crate::arena::message;
use crate::attack::shown;
use crate::report::{Entry, Report};

/// What came of a case: what was seen, and what the control showed.
type Seen = Result<(String, Option<String>), String>;

/// The group, if a daemon answers.
#[expect(clippy::too_many_lines, reason = "a list of cases")]
pub(crate) async fn run() -> Report {
    let mut report = Report::default();
    if tokio::net::UnixStream::connect(world::unix_socket(&world::docker_host()))
        .await
        .is_err()
    {
        report
            .skipped
            .push("D: no Docker daemon answers (scripts/setup --docker starts one)".to_owned());
        return report;
    }
    let builder = farm()
        .env("EXECUTE_TIMEOUT_MS", "3000")
        .env("CONTAINER_PROBE_TIMEOUT_MS", "500");
    let mut world = World::of(builder).await;
    world.load_servers(&["bad", "good"]).await;
    let mut cases = Cases {
        world: &mut world,
        report: &mut report,
    };
    cases
        .run("D1", "another contract", async |world| {
            neighbour(world).await
        })
        .await;
    cases
        .run("D1", "the host through the gateway", async |world| {
            host(world).await
        })
        .await;
    cases
        .run("D1", "the metadata service and the internet", outside)
        .await;
    cases.run("D1", "names", names).await;
    cases.run("D2", "memory bomb", memory).await;
    cases.run("D2", "fork bomb", forks).await;
    cases.run("D2", "burning all cores", burn).await;
    cases.run("D2", "filling the disk", disk).await;
    cases.run("D2", "a flood on the log", log).await;
    cases
        .run("D3", "writing where it must not", async |world| {
            writes(world).await
        })
        .await;
    cases.run("D3", "privileges", privileges).await;
    cases
        .run("D4", "an image that asks for more", async |world| {
            greedy_image(world).await
        })
        .await;
    cases
        .run("D4", "labels that imitate ours", async |world| {
            labels(world).await
        })
        .await;
    cases
        .run("D5", "tars that are more than an image", async |world| {
            tars(world).await
        })
        .await;
    cases
        .run("D5", "a tar that names another's tag", async |world| {
            thief(world).await
        })
        .await;
    cases
        .run("D6", "an answer that never comes", async |world| {
            hang(world).await
        })
        .await;
    cases.run("D7", "exits at once", exits).await;
    world.stop().await;
    report
}

struct Cases<'a> {
    world: &'a mut World,
    report: &'a mut Report,
}

impl Cases<'_> {
    async fn run(&mut self, row: &'static str, name: &str, case: impl AsyncFn(&mut World) -> Seen) {
        let start = Instant::now();
        let seen = AssertUnwindSafe(case(self.world)).catch_unwind().await;
        let seen = seen.unwrap_or_else(|panic| Err(message(panic.as_ref())));
        // The neighbour is as it was.
        let well = self.world.client().call("good", "count").await;
        let seen = match (
            seen,
            well.status,
            well.status == 200 && well.generation() == 1,
        ) {
            (Ok(_), _, false) => Err(format!("the neighbour noticed: {}", shown(&well))),
            (seen, ..) => seen,
        };
        let (outcome, control) = match seen {
            Ok((seen, control)) => (Ok(seen), control.map(Ok)),
            Err(wrong) => (Err(wrong), None),
        };
        let time = start.elapsed();
        let verdict = outcome
            .as_ref()
            .map_or_else(|wrong| format!("FAILED {wrong}"), |_| "ok".to_owned());
        eprintln!("{row:>4} {name}: {verdict} ({} ms)", time.as_millis());
        self.report.entries.push(Entry {
            row,
            name: name.to_owned(),
            outcome,
            control,
            time,
        });
    }
}

/// What a contract is told about a deed that must not succeed.
async fn refused(world: &World, deed: &str, argument: Value) -> Result<String, String> {
    let said = world.call("bad", deed, argument.clone()).await;
    (said != "done")
        .then(|| said.to_string())
        .ok_or_else(|| format!("{deed} {argument} succeeded"))
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

async fn memory(world: &mut World) -> Seen {
    let answer = world.client().execute("bad", "eat", &json!(400)).await;
    answer.error(500, "contract_crashed");
    let little = world.call("bad", "eat", json!(50)).await;
    Ok((shown(&answer), Some(format!("{little} MiB are given"))))
}

async fn forks(world: &mut World) -> Seen {
    let forked = world.call("bad", "fork", json!(1000)).await;
    let few = forked
        .as_u64()
        .is_some_and(|count| (50..128).contains(&count));
    few.then(|| (format!("{forked} of 1000"), None))
        .ok_or_else(|| forked.to_string())
}

async fn burn(world: &mut World) -> Seen {
    let burning = world.call("bad", "burn", json!(1000));
    let start = Instant::now();
    let beside = async {
        let mut slowest = Duration::ZERO;
        while start.elapsed() < Duration::from_millis(900) {
            let call = Instant::now();
            world.call("good", "count", Value::Null).await;
            slowest = slowest.max(call.elapsed());
        }
        slowest
    };
    let (rounds, slowest) = tokio::join!(burning, beside);
    Ok((
        format!("{rounds} rounds on half a core; the neighbour waited {slowest:.0?} at most"),
        None,
    ))
}

async fn disk(world: &mut World) -> Seen {
    let tmp = world.call("bad", "write", json!("/tmp/file 100")).await;
    let shm = world.call("bad", "write", json!("/dev/shm/file 100")).await;
    let fine = tmp == 32 && shm == 16;
    fine.then(|| (format!("{tmp} and {shm} of 100 MiB"), None))
        .ok_or_else(|| format!("{tmp}, {shm}"))
}

async fn log(world: &mut World) -> Seen {
    let said = world.call("bad", "chatter", json!(20)).await;
    let path = world
        .container("bad")
        .await
        .host_config
        .and_then(|host| host.log_config);
    let size = path.and_then(|log| log.config?.remove("max-size"));
    let fine = size.is_some();
    fine.then(|| (format!("{said}; kept: {size:?}"), None))
        .ok_or_else(|| "the log has no limit".to_owned())
}

async fn writes(world: &mut World) -> Seen {
    let mut said = String::new();
    for path in [
        "/file",
        "/etc/file",
        "/proc/sys/kernel/hostname",
        "/proc/sysrq-trigger",
        "/sys/file",
    ] {
        let answer = world.call("bad", "write", json!(format!("{path} 1"))).await;
        if answer.is_number() && answer != 0 {
            return Err(format!("{path} was written"));
        }
        said = answer.to_string();
    }
    let control = world.call("bad", "write", json!("/tmp/small 1")).await;
    Ok((said, Some(format!("/tmp takes {control} MiB"))))
}

async fn privileges(world: &mut World) -> Seen {
    let seen = world.call("bad", "whoami", Value::Null).await;
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        if seen[field] != "0000000000000000" {
            return Err(format!("{field} {}", seen[field]));
        }
    }
    // Neither mount, nor ptrace of others, nor raw sockets, nor device nodes without them; nor setuid.
    let fine = seen["NoNewPrivs"] == "1" && seen["Seccomp"] == "2";
    let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let control = own
        .lines()
        .find(|line| line.starts_with("CapEff"))
        .unwrap_or_default();
    fine.then(|| {
        (
            "no capabilities, no new privileges, filtered".to_owned(),
            Some(format!("of this process: {control}")),
        )
    })
    .ok_or_else(|| seen.to_string())
}

async fn greedy_image(world: &mut World) -> Seen {
    let recipe = Recipe::new()
        .with("Volumes", json!({ "/data": {} }))
        .with(
            "Healthcheck",
            json!({ "Test": ["CMD", "/contract-server", "sleep"], "Interval": 1_000_000_000 }),
        )
        .with("User", json!("0"))
        .with("Env", json!([format!("HUGE={}", "x".repeat(60_000))]))
        .with("ExposedPorts", json!({ "8080/tcp": {} }));
    let image = world.image(recipe).await;
    let loaded = world.load("greedy", &image).await;
    if loaded.status != 204 {
        return Err(shown(&loaded));
    }
    let container = world.container("greedy").await;
    let mounts = container.mounts.unwrap_or_default().len();
    let health = container.config.and_then(|config| config.healthcheck?.test);
    world.client().unload("greedy").await.is_done();
    let fine = mounts == 0 && health.as_deref() == Some(&["NONE".to_owned()][..]);
    fine.then(|| ("no mounts, no health check".to_owned(), None))
        .ok_or_else(|| format!("{mounts} mounts, {health:?}"))
}

async fn labels(world: &mut World) -> Seen {
    let recipe = Recipe::new()
        .label("execution.worker", "somebody")
        .label("execution.address", "good");
    let image = world.image(recipe).await;
    world.load("liar", &image).await.is_done();
    let containers = world.containers("good").await.len();
    let answer = world.client().call("liar", "count").await;
    world.client().unload("liar").await.is_done();
    let good = world.containers("good").await.len();
    (containers == 1 && good == 1 && answer.status == 200)
        .then(|| ("they are overwritten".to_owned(), None))
        .ok_or_else(|| format!("{containers}, then {good} containers of the neighbour"))
}

async fn tars(world: &mut World) -> Seen {
    let whole = Recipe::new().files();
    let cases = [
        ("dots", with_path("../../etc/cron.d/x", &whole)),
        ("an absolute path", with_path("/etc/cron.d/x", &whole)),
        ("no manifest", recipe::pack(&whole[..2])),
        ("no tar", vec![7; 2048]),
    ];
    let count = cases.len();
    for (name, tar) in cases {
        let answer = world.load("tar", &base64(&tar)).await;
        let fine = answer.status == 422
            || answer.status == 400
            || name == "an absolute path" && answer.status == 204;
        if !fine {
            return Err(format!("{name}: {}", shown(&answer)));
        }
        world.client().unload("tar").await.is_done();
    }
    Ok((format!("{count} refused"), None))
}

/// A tar with a path that leads elsewhere, which the `tar` crate would not write by itself.
fn with_path(path: &str, files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_old();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.set_size(1);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append(&header, &b"x"[..])
        .expect("a Vec takes every byte");
    for (path, content) in files {
        let mut header = tar::Header::new_old();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        tar.append_data(&mut header, path, &content[..])
            .expect("a Vec takes every byte");
    }
    tar.into_inner().expect("a Vec takes every byte")
}

async fn thief(world: &mut World) -> Seen {
    let theirs = world.image(Recipe::new()).await;
    let before = world
        .docker
        .inspect_image(&theirs)
        .await
        .map_err(|error| error.to_string())?
        .id;
    let tar = Recipe::new().tag(&theirs).tar();
    world.load("thief", &base64(&tar)).await.is_done();
    let after = world
        .docker
        .inspect_image(&theirs)
        .await
        .map_err(|error| error.to_string())?
        .id;
    world.client().unload("thief").await.is_done();
    (before == after)
        .then(|| {
            (
                "the tag stays".to_owned(),
                Some("`docker load` moves it: tests/e2e/docker/tar.rs".to_owned()),
            )
        })
        .ok_or_else(|| "the tag was moved".to_owned())
}

async fn hang(world: &mut World) -> Seen {
    let answer = world.client().call("bad", "hang").await;
    answer.error(504, "execution_timeout");
    let again = world.client().call("bad", "count").await;
    (again.status == 200)
        .then(|| (shown(&answer), None))
        .ok_or_else(|| shown(&again))
}

async fn exits(world: &mut World) -> Seen {
    let image = world.image(Recipe::command(&["exit", "3"])).await;
    let answer = world.load("short", &image).await;
    let left = world.containers("short").await.len();
    (answer.status == 422 && left == 0)
        .then(|| (shown(&answer), None))
        .ok_or_else(|| format!("{}, {left} left", shown(&answer)))
}
