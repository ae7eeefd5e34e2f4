//! D2 and D3: what a contract must not be able to do. The control is the same contract on a worker
//! whose operator has lifted all limits, where each attempt succeeds.

use serde_json::json;

use super::docker_farm::{DockerFarm, docker_builder};
use super::test_image::TestImage;
use super::{Cases, Outcome, refused, setuid};
use crate::attack::Expect::{self, Any, Below, Fails, Says, SaysNot};
use crate::attack::shown;
use crate::support::processes::{self, ProcessInfo};

/// An attempt to take or do too much.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    row: &'static str,
    name: &'static str,
    /// The contract's method and its argument.
    call: (&'static str, &'static str),
    expect: Expect,
    /// The answer of the unrestricted worker's contract. None where the daemon itself enforces the
    /// limit.
    control: Option<Expect>,
}

const fn attempt(
    row: &'static str,
    name: &'static str,
    call: (&'static str, &'static str),
    expect: Expect,
    control: Option<Expect>,
) -> Attempt {
    Attempt {
        row,
        name,
        call,
        expect,
        control,
    }
}

/// `write` returns how many MiB it wrote, or why it could not start.
const ONE: Expect = Says("1");
const NOT_ONE: Expect = SaysNot("1");
/// It is empty or does not exist.
const NOTHING: Expect = Any(&[Says("\"\""), Fails(500, "execution_failed")]);
const DONE: Expect = Says("\"done\"");
const REFUSED: Expect = SaysNot("\"done\"");

#[rustfmt::skip]
const ATTEMPTS: [Attempt; 14] = [
    attempt("D2", "memory bomb", ("eat", "400"), Fails(500, "contract_crashed"), Some(Says("400"))),
    attempt("D2", "fork bomb", ("fork", "400"), Below(128), Some(Says("400"))),
    attempt("D2", "open files", ("files", "2000"), Below(1024), Some(Says("2000"))),
    attempt("D2", "filling /tmp", ("write", "\"/tmp/file 100\""), Says("32"), Some(Says("100"))),
    attempt("D2", "filling /dev/shm", ("write", "\"/dev/shm/file 100\""), Says("16"), Some(Says("100"))),
    attempt("D3", "writing to /", ("write", "\"/file 1\""), NOT_ONE, Some(ONE)),
    attempt("D3", "writing to /etc", ("write", "\"/etc/file 1\""), NOT_ONE, Some(ONE)),
    attempt("D3", "the host's name", ("write", "\"/proc/sys/kernel/hostname 1\""), NOT_ONE, None),
    attempt("D3", "the kernel's keys", ("write", "\"/proc/sysrq-trigger 1\""), NOT_ONE, None),
    attempt("D3", "writing to /sys", ("write", "\"/sys/kernel/file 1\""), NOT_ONE, None),
    attempt("D3", "the machine's memory", ("read", "\"/proc/kcore\""), NOTHING, None),
    attempt("D3", "mount", ("mount", "null"), REFUSED, Some(DONE)),
    attempt("D3", "raw socket", ("raw-socket", "null"), REFUSED, Some(DONE)),
    attempt("D3", "device node", ("device", "null"), REFUSED, Some(DONE)),
];

/// Runs the rows.
pub(super) async fn run(cases: &mut Cases) {
    let mut unrestricted = unrestricted().await;
    for attempt in &ATTEMPTS {
        let case = async |farm: &mut DockerFarm| run_attempt(attempt, farm, &unrestricted).await;
        cases.run(attempt.row, attempt.name, case).await;
    }
    cases
        .run("D3", "privileges", async |farm| {
            privileges(farm, &unrestricted).await
        })
        .await;
    cases.run("D3", "ptrace of another contract", ptrace).await;
    cases
        .run("D2", "burning all cores", async |farm| {
            burn(farm, &unrestricted).await
        })
        .await;
    setuid::run(cases, &mut unrestricted).await;
    unrestricted.stop().await;
}

/// A worker whose containers may do nearly everything, with the contract `bad`.
async fn unrestricted() -> DockerFarm {
    let builder = docker_builder()
        .env("CONTAINER_CAPABILITIES", "SYS_ADMIN, NET_RAW, MKNOD")
        .env("CONTAINER_NEW_PRIVILEGES", "true")
        .env("CONTAINER_READONLY", "false")
        .env("CONTAINER_MEMORY_MB", "1024")
        .env("CONTAINER_CPUS", "2")
        .env("CONTAINER_PIDS", "1000")
        .env("CONTAINER_FILES", "4096")
        .env("CONTAINER_TMP_MB", "128")
        .env("CONTAINER_SHM_MB", "128")
        .env("CONTAINER_SUBNETS", "10.214.8.0/24");
    let mut farm = DockerFarm::of(builder).await;
    let image = farm.image(TestImage::new()).await;
    farm.load("bad", &image).await.is_no_content();
    farm
}

async fn run_attempt(
    attempt: &Attempt,
    restricted: &DockerFarm,
    unrestricted: &DockerFarm,
) -> Outcome {
    let (method, argument) = attempt.call;
    let argument = serde_json::from_str(argument).expect("the case's own argument is JSON");
    let answer = restricted.client().execute("bad", method, &argument).await;
    if let Some(wrong) = attempt.expect.mismatch(&answer) {
        return Err(wrong);
    }
    let Some(expect) = attempt.control else {
        return Ok((shown(&answer), None));
    };
    let control = unrestricted
        .client()
        .execute("bad", method, &argument)
        .await;
    match expect.mismatch(&control) {
        Some(wrong) => Err(format!("control: {wrong}")),
        None => Ok((shown(&answer), Some(shown(&control)))),
    }
}

/// The host's process id of a contract's container.
async fn pid(farm: &DockerFarm, address: &str) -> i32 {
    let pid = farm
        .container(address)
        .await
        .state
        .and_then(|state| state.pid);
    let pid = pid.and_then(|pid| i32::try_from(pid).ok());
    pid.expect("a running container has a process")
}

/// A contract can trace its own processes, and cannot find others.
async fn ptrace(farm: &mut DockerFarm) -> Outcome {
    let own = farm.call("bad", "ptrace", json!(0)).await;
    if own != "done" {
        return Err(format!("control: its own child: {own}"));
    }
    let victim = pid(farm, "good").await;
    let all: Vec<_> = processes::descendants(victim)
        .iter()
        .map(|seen| seen.pid)
        .chain([victim])
        .collect();
    for pid in &all {
        refused(farm, "ptrace", json!(pid)).await?;
    }
    let seen = format!("{} processes are out of reach", all.len());
    Ok((seen, Some("its own child is within".to_owned())))
}

/// The kernel limits the processor time, however much four threads ask for.
async fn burn(restricted: &DockerFarm, unrestricted: &DockerFarm) -> Outcome {
    /// In hundredths of a second, within one second: half a core, plus the kernel's period.
    const ALLOWED: u64 = 65;
    /// How often the control burns, until it gets more. Other cases compute at the same time.
    const TRIES: u32 = 10;
    let burnt = async |farm: &DockerFarm| {
        let pid = pid(farm, "bad").await;
        let ticks = || {
            let all = processes::descendants(pid);
            all.iter().map(ProcessInfo::ticks).sum::<u64>()
        };
        let before = ticks();
        farm.call("bad", "burn", json!(1000)).await;
        ticks().saturating_sub(before)
    };
    let own = burnt(restricted).await;
    let (mut control, mut tries) = (0, 0);
    while control <= ALLOWED && tries < TRIES {
        control = burnt(unrestricted).await;
        tries += 1;
    }
    if own > ALLOWED || control <= ALLOWED {
        return Err(format!("{own} ticks; control: {control}"));
    }
    Ok((
        format!("{own} ticks in a second"),
        Some(format!("{control} ticks with two cores")),
    ))
}

/// No setuid programs, no ptrace of others, and only its own processes are visible.
async fn privileges(restricted: &DockerFarm, unrestricted: &DockerFarm) -> Outcome {
    let seen = restricted.call("bad", "whoami", json!(null)).await;
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        if seen[field] != "0000000000000000" {
            return Err(format!("{field} {}", seen[field]));
        }
    }
    let init = seen["Init"].as_str().unwrap_or_default();
    if seen["NoNewPrivs"] != "1" || seen["Seccomp"] != "2" || !init.contains("docker-init") {
        return Err(seen.to_string());
    }
    let control = unrestricted.call("bad", "whoami", json!(null)).await;
    if control["CapBnd"] == "0000000000000000" || control["NoNewPrivs"] != "0" {
        return Err(format!("control: {control}"));
    }
    let control = format!("CapBnd {}, NoNewPrivs 0", control["CapBnd"]);
    Ok((
        "no capabilities, no new privileges, filtered, its own init".to_owned(),
        Some(control),
    ))
}
