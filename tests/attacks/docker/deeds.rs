//! D2 and D3: what a contract may not have or do. The control is the same contract on a worker whose
//! operator has given everything away: there each deed succeeds.

use serde_json::json;

use super::docker_farm::{DockerFarm, docker_builder};
use super::test_image::TestImage;
use super::{Cases, Outcome, refused, setuid};
use crate::attack::Expect::{self, Any, Below, Fails, Says, SaysNot};
use crate::attack::shown;
use crate::support::processes::{self, ProcessInfo};

/// A try to take or do too much.
#[derive(Debug, Clone, Copy)]
struct Deed {
    row: &'static str,
    name: &'static str,
    /// The method and its argument, as the contract knows them.
    call: (&'static str, &'static str),
    expect: Expect,
    /// What the loose worker's contract is answered; none where the daemon itself holds on to it.
    control: Option<Expect>,
}

const fn deed(
    row: &'static str,
    name: &'static str,
    call: (&'static str, &'static str),
    expect: Expect,
    control: Option<Expect>,
) -> Deed {
    Deed {
        row,
        name,
        call,
        expect,
        control,
    }
}

/// `write` tells how many MiB it wrote, or why it could not begin.
const ONE: Expect = Says("1");
const NOT_ONE: Expect = SaysNot("1");
/// It is empty, or not there.
const NOTHING: Expect = Any(&[Says("\"\""), Fails(500, "execution_failed")]);
const DONE: Expect = Says("\"done\"");
const REFUSED: Expect = SaysNot("\"done\"");

#[rustfmt::skip]
const DEEDS: [Deed; 14] = [
    deed("D2", "memory bomb", ("eat", "400"), Fails(500, "contract_crashed"), Some(Says("400"))),
    deed("D2", "fork bomb", ("fork", "400"), Below(128), Some(Says("400"))),
    deed("D2", "open files", ("files", "2000"), Below(1024), Some(Says("2000"))),
    deed("D2", "filling /tmp", ("write", "\"/tmp/file 100\""), Says("32"), Some(Says("100"))),
    deed("D2", "filling /dev/shm", ("write", "\"/dev/shm/file 100\""), Says("16"), Some(Says("100"))),
    deed("D3", "writing to /", ("write", "\"/file 1\""), NOT_ONE, Some(ONE)),
    deed("D3", "writing to /etc", ("write", "\"/etc/file 1\""), NOT_ONE, Some(ONE)),
    deed("D3", "the host's name", ("write", "\"/proc/sys/kernel/hostname 1\""), NOT_ONE, None),
    deed("D3", "the kernel's keys", ("write", "\"/proc/sysrq-trigger 1\""), NOT_ONE, None),
    deed("D3", "writing to /sys", ("write", "\"/sys/kernel/file 1\""), NOT_ONE, None),
    deed("D3", "the machine's memory", ("read", "\"/proc/kcore\""), NOTHING, None),
    deed("D3", "mount", ("mount", "null"), REFUSED, Some(DONE)),
    deed("D3", "raw socket", ("raw-socket", "null"), REFUSED, Some(DONE)),
    deed("D3", "device node", ("device", "null"), REFUSED, Some(DONE)),
];

/// Runs the rows.
pub(super) async fn run(cases: &mut Cases) {
    let mut loose = loose().await;
    for deed in &DEEDS {
        let case = async |farm: &mut DockerFarm| attempt(deed, farm, &loose).await;
        cases.run(deed.row, deed.name, case).await;
    }
    cases
        .run("D3", "privileges", async |farm| {
            privileges(farm, &loose).await
        })
        .await;
    cases.run("D3", "ptrace of another contract", ptrace).await;
    cases
        .run("D2", "burning all cores", async |farm| {
            burn(farm, &loose).await
        })
        .await;
    setuid::run(cases, &mut loose).await;
    loose.stop().await;
}

/// A worker whose containers may do nearly everything, with the contract `bad`.
async fn loose() -> DockerFarm {
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

async fn attempt(deed: &Deed, armed: &DockerFarm, loose: &DockerFarm) -> Outcome {
    let (method, argument) = deed.call;
    let argument = serde_json::from_str(argument).expect("the case's own argument is JSON");
    let answer = armed.client().execute("bad", method, &argument).await;
    if let Some(wrong) = deed.expect.complaint(&answer) {
        return Err(wrong);
    }
    let Some(expect) = deed.control else {
        return Ok((shown(&answer), None));
    };
    let control = loose.client().execute("bad", method, &argument).await;
    match expect.complaint(&control) {
        Some(wrong) => Err(format!("control: {wrong}")),
        None => Ok((shown(&answer), Some(shown(&control)))),
    }
}

/// The number that the host knows a contract's container by.
async fn pid(farm: &DockerFarm, address: &str) -> i32 {
    let pid = farm
        .container(address)
        .await
        .state
        .and_then(|state| state.pid);
    let pid = pid.and_then(|pid| i32::try_from(pid).ok());
    pid.expect("a running container has a process")
}

/// A contract's processes can be traced, and others are not to be found.
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

/// Processor time is what the kernel gives, whatever four threads ask for.
async fn burn(armed: &DockerFarm, loose: &DockerFarm) -> Outcome {
    /// In hundredths of a second, of one: half a core, and what the kernel's periods add.
    const ALLOWED: u64 = 65;
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
    let (own, control) = (burnt(armed).await, burnt(loose).await);
    if own > ALLOWED || control <= ALLOWED {
        return Err(format!("{own} ticks; control: {control}"));
    }
    Ok((
        format!("{own} ticks in a second"),
        Some(format!("{control} ticks with two cores")),
    ))
}

/// Neither setuid programs nor ptrace of others, and only its own processes to be seen.
async fn privileges(armed: &DockerFarm, loose: &DockerFarm) -> Outcome {
    let seen = armed.call("bad", "whoami", json!(null)).await;
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        if seen[field] != "0000000000000000" {
            return Err(format!("{field} {}", seen[field]));
        }
    }
    let init = seen["Init"].as_str().unwrap_or_default();
    if seen["NoNewPrivs"] != "1" || seen["Seccomp"] != "2" || !init.contains("docker-init") {
        return Err(seen.to_string());
    }
    let control = loose.call("bad", "whoami", json!(null)).await;
    if control["CapBnd"] == "0000000000000000" || control["NoNewPrivs"] != "0" {
        return Err(format!("control: {control}"));
    }
    let control = format!("CapBnd {}, NoNewPrivs 0", control["CapBnd"]);
    Ok((
        "no capabilities, no new privileges, filtered, its own init".to_owned(),
        Some(control),
    ))
}
