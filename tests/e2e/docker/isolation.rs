//! What a contract can reach: nothing except its callers. Each attempt has a control that shows
//! that a success would be noticed.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::docker_farm::{DockerFarm, docker_builder};
use crate::support::wait::{self, DEFAULT_LIMIT};

#[tokio::test]
async fn a_contract_has_no_privileges() {
    let mut farm = DockerFarm::start().await;
    farm.load_all(&["a"]).await;
    let seen = farm.call("a", "whoami", Value::Null).await;
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(seen[field], "0000000000000000", "{field}");
    }
    assert_eq!(seen["NoNewPrivs"], "1");
    assert_eq!(seen["Seccomp"], "2", "filtered by the daemon's profile");
    let init = seen["Init"].as_str().unwrap();
    assert!(init.contains("docker-init"), "{init}");

    let container = farm.container("a").await;
    let host = container.host_config.unwrap();
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.readonly_rootfs, Some(true));
    assert_eq!(host.binds.unwrap_or_default(), [""; 0]);
    assert_eq!(host.memory_swap, host.memory);
    for mode in [host.pid_mode, host.uts_mode, host.userns_mode] {
        assert_eq!(mode.unwrap_or_default(), "");
    }
    assert_eq!(host.ipc_mode.as_deref(), Some("private"));
    assert!(container.mounts.unwrap_or_default().is_empty());
    farm.stop().await;
}

#[tokio::test]
async fn the_operator_can_configure_privileges() {
    let builder = docker_builder()
        .env("CONTAINER_CAPABILITIES", "NET_BIND_SERVICE, CHOWN")
        .env("CONTAINER_USER", "1234:1234")
        .env("CONTAINER_INIT", "false")
        .env("CONTAINER_NEW_PRIVILEGES", "true")
        .env("CONTAINER_READONLY", "false")
        .env("CONTAINER_MEMORY_MB", "64")
        .env("CONTAINER_SUBNETS", "10.214.7.0/24");
    let mut farm = DockerFarm::of(builder).await;
    farm.load_all(&["a"]).await;
    let seen = farm.call("a", "whoami", Value::Null).await;
    assert_eq!(seen["CapBnd"], "0000000000000401");
    assert_eq!(seen["Uid"], "1234\t1234\t1234\t1234");
    assert_eq!(seen["NoNewPrivs"], "0");
    assert_eq!(seen["Init"], "/contract-server serve ");
    let host = farm.container("a").await.host_config.unwrap();
    assert_eq!(
        (host.memory, host.readonly_rootfs),
        (Some(64 << 20), Some(false))
    );
    let ip = farm.ip("a").await;
    assert!(ip.starts_with("10.214.7."), "{ip}");
    farm.stop().await;
}

#[tokio::test]
async fn a_contract_reaches_neither_other_contracts_nor_the_host() {
    let mut farm = DockerFarm::start().await;
    farm.load_all(&["spy", "victim"]).await;
    let victim = format!("{}:8080", farm.ip("victim").await);
    // Control: the host reaches it.
    TcpStream::connect(&victim).await.unwrap();
    let said = farm.call("spy", "connect", json!(victim)).await;
    assert_ne!(said, "done", "another contract");
    // Control: a contract can connect to itself.
    let own = format!("{}:8080", farm.ip("spy").await);
    assert_eq!(farm.call("spy", "connect", json!(own)).await, "done");

    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let gateway = gateway(&farm, "spy").await;
    let service = format!("{gateway}:{}", listener.local_addr().unwrap().port());
    let said = farm.call("spy", "connect", json!(service)).await;
    assert_ne!(said, "done", "the host's services");
    let refused = listener.accept().unwrap_err().kind();
    assert_eq!(
        refused,
        std::io::ErrorKind::WouldBlock,
        "a connection arrived"
    );
    // Control: the same listener at the same address, reached from the host.
    TcpStream::connect(&service).await.unwrap();
    listener.accept().unwrap();

    let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let service = format!("{gateway}:{}", socket.local_addr().unwrap().port());
    assert_ne!(farm.call("spy", "udp", json!(service)).await, "done");
    let mut datagram = [0; 8];
    let heard = tokio::time::timeout(Duration::from_millis(100), socket.recv(&mut datagram));
    assert!(heard.await.is_err(), "a datagram arrived");
    farm.stop().await;
}

/// The host's address in a contract's network: the first of the eight.
async fn gateway(farm: &DockerFarm, address: &str) -> Ipv4Addr {
    let ip: Ipv4Addr = farm.ip(address).await.parse().expect("an address is one");
    Ipv4Addr::from((u32::from(ip) & !7) + 1)
}

/// The host's rules of one chain.
fn rules(table: &str, chain: &str) -> Vec<String> {
    let output = std::process::Command::new("iptables")
        .args(["--wait", "5", "-t", table, "-S", chain])
        .output()
        .expect("iptables can be run");
    let text = String::from_utf8(output.stdout).expect("rules are ASCII");
    text.lines().map(str::to_owned).collect()
}

/// The rules that must be the first of their chains.
const CLOSED: &str = "-A FORWARD -i exb-c+ -m physdev ! --physdev-is-bridged -j DROP";
const RESPONSES: &str = "-A INPUT -i exb-+ -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP";

/// The first rule of a chain.
fn first(rules: &[String]) -> Option<&str> {
    let mut rules = rules.iter().map(String::as_str);
    rules.find(|rule| rule.starts_with("-A"))
}

/// A rule that accepts everything of one bridge, at the start of a chain, until it is dropped.
/// Other bridges are not affected.
struct Accepting {
    chain: &'static str,
    bridge: String,
}

impl Accepting {
    fn new(chain: &'static str, bridge: &str) -> Self {
        let rule = Self {
            chain,
            bridge: bridge.to_owned(),
        };
        assert!(rule.change(&["-I", chain, "1"]));
        rule
    }

    fn change(&self, command: &[&str]) -> bool {
        let status = std::process::Command::new("iptables")
            .args(["--wait", "5", "-t", "mangle"])
            .args(command)
            .args(["-i", &self.bridge, "-j", "ACCEPT"])
            .status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        assert!(self.change(&["-D", self.chain]) || std::thread::panicking());
    }
}

/// Another program adds rules before ours while a contract runs.
#[tokio::test]
async fn firewall_rules_that_were_displaced_are_moved_back() {
    let mut farm = DockerFarm::start().await;
    farm.load_all(&["spy"]).await;
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let gateway = gateway(&farm, "spy").await;
    let service = json!(format!(
        "{gateway}:{}",
        listener.local_addr().unwrap().port()
    ));
    let bridge = farm.bridge("spy").await;
    for (chain, ours) in [("INPUT", RESPONSES), ("FORWARD", CLOSED)] {
        let accepting = Accepting::new(chain, &bridge);
        wait::until_true(
            "the rule to be the first again",
            DEFAULT_LIMIT,
            async || first(&rules("mangle", chain)) == Some(ours),
        )
        .await;
        let all = rules("mangle", chain);
        let count = all.iter().filter(|rule| *rule == ours).count();
        assert_eq!(count, 1, "{all:#?}");
        drop(accepting);
    }
    assert_ne!(farm.call("spy", "connect", service).await, "done");
    farm.stop().await;
}

/// Checks the routing tables and firewall rules. No packet is sent to the outside.
#[tokio::test]
async fn a_contract_has_no_route_to_the_outside_and_no_resolver() {
    let mut farm = DockerFarm::start().await;
    farm.load_all(&["a"]).await;
    let name = farm.container_name("a").await;
    let network = farm.docker.inspect_network(&name, None).await.unwrap();
    assert_eq!(network.internal, Some(true));
    // Older daemons set a default route in spite of that. It leads to the host, which drops all
    // packets to the outside, including those to the metadata service's address.
    let bridge = farm.bridge("a").await;
    assert!(bridge.starts_with("exb-c"), "{bridge}");
    let forward = rules("mangle", "FORWARD");
    assert_eq!(first(&forward), Some(CLOSED), "{forward:#?}");
    let of_docker = rules("filter", "DOCKER-ISOLATION-STAGE-1");
    let drops = |rule: &&String| rule.contains(&format!("-i {bridge} ")) && rule.ends_with("DROP");
    assert!(of_docker.iter().find(drops).is_some(), "{of_docker:#?}");
    let input = rules("mangle", "INPUT");
    assert_eq!(first(&input), Some(RESPONSES), "{input:#?}");

    let answer = farm
        .client()
        .execute("a", "read", &json!("/proc/net/ipv6_route"))
        .await;
    if answer.status == 200 {
        let all = answer.data();
        let of_ethernet = all
            .as_str()
            .unwrap()
            .lines()
            .filter(|line| line.contains("eth"));
        assert_eq!(of_ethernet.count(), 0, "{all}");
    }
    let host = farm.container("a").await.host_config.unwrap();
    assert_eq!(
        host.dns.unwrap(),
        ["127.0.0.1"],
        "the daemon resolves no name for the contract"
    );
    let resolvers = farm.call("a", "read", json!("/etc/resolv.conf")).await;
    let resolvers = resolvers.as_str().unwrap();
    let servers = resolvers
        .lines()
        .filter(|line| line.starts_with("nameserver"));
    assert_eq!(
        servers.collect::<Vec<_>>(),
        ["nameserver 127.0.0.11"],
        "the daemon's own"
    );
    // Control: the daemon's resolver works for names that the daemon knows itself.
    let own = farm.container_name("a").await;
    assert_eq!(farm.call("a", "resolve", json!(own)).await, "done");
    // No such name exists. The resolver has no upstream to ask and may take its time.
    let unknown = json!("execution.invalid");
    let answer = farm.client().execute("a", "resolve", &unknown).await;
    assert!(
        answer.status == 504 || answer.data() != "done",
        "{answer:?}"
    );
    farm.stop().await;
}

#[tokio::test]
async fn only_the_operator_can_allow_egress() {
    let wanted = json!({"limits": {"network": true}});
    let mut strict = DockerFarm::start().await;
    let image = strict.image(super::test_image::TestImage::new()).await;
    let answer = strict.load_with("a", &image, wanted.clone()).await;
    let text = answer.error_text(422, "invalid_executable");
    assert!(text.contains("CONTAINER_ALLOW_EGRESS"), "{text}");
    assert_eq!(strict.resources().await, [""; 0]);

    let open = DockerFarm::of(docker_builder().env("CONTAINER_ALLOW_EGRESS", "true")).await;
    for (address, more, internal) in [("asks", wanted, false), ("does-not", json!({}), true)] {
        open.load_with(address, &image, more).await.is_no_content();
        let name = open.container_name(address).await;
        let network = open.docker.inspect_network(&name, None).await.unwrap();
        assert_eq!(network.internal, Some(internal));
        let start = if internal { "exb-c" } else { "exb-o" };
        let bridge = open.bridge(address).await;
        assert!(bridge.starts_with(start), "{bridge}");
    }
    // Even with egress the host is unreachable. The control is the same as above.
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let gateway = gateway(&open, "asks").await;
    let service = format!("{gateway}:{}", listener.local_addr().unwrap().port());
    TcpStream::connect(&service).await.unwrap();
    assert_ne!(open.call("asks", "connect", json!(service)).await, "done");
    open.stop().await;
    strict.stop().await;
}
