//! What the containers and the pages in them can do, seen from inside.

use std::collections::BTreeMap;

use serde_json::json;

use crate::project::{Container, Project};

/// Prints `NAME VALUE` lines about every process of the container whose command line matches `$1`:
/// its status, its namespaces, and the interfaces that it sees.
const LOOK_AT: &str = r#"
look() {
  for folder in /proc/[0-9]*; do
    tr '\0' ' ' <"$folder/cmdline" 2>/dev/null | grep --quiet -e "$1" || continue
    [ "${folder#/proc/}" != "$$" ] || continue
    echo "process ${folder#/proc/}"
    grep -E '^(Uid|Seccomp|NoNewPrivs|CapEff|CapPrm|CapBnd|NSpid):' "$folder/status"
    for kind in user pid net; do echo "$kind: $(readlink "$folder/ns/$kind")"; done
    echo "interfaces: $(tail -n +3 "$folder/net/dev" | cut -d: -f1 | xargs)"
    echo "routes: $(tail -n +2 "$folder/net/route" | wc -l)"
  done
}
"#;

/// What is known of one process, by name.
type Facts = BTreeMap<String, String>;

fn look_at(container: &Container, command: &str) -> Vec<Facts> {
    let text = container.look(&format!("{LOOK_AT}\nlook '{command}'"));
    let mut all: Vec<Facts> = Vec::new();
    for line in text.lines() {
        if line.starts_with("process ") {
            all.push(Facts::new());
        } else if let (Some((name, value)), Some(facts)) = (line.split_once(':'), all.last_mut()) {
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            facts.insert(name.to_owned(), value);
        }
    }
    all
}

/// The container itself: nobody in it is root, has a capability or can get one, and there is nothing
/// to write to.
pub(crate) fn container_is_bare(container: &Container) {
    let programs = look_at(container, "^/usr/local/bin/execution-worker");
    assert!(!programs.is_empty(), "no worker in {}", container.id);
    for facts in &programs {
        assert_eq!(facts["Uid"], "10001 10001 10001 10001", "{facts:?}");
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(facts[set], "0000000000000000", "{facts:?}");
        }
        assert_eq!(facts["NoNewPrivs"], "1", "{facts:?}");
        assert_eq!(facts["Seccomp"], "2", "{facts:?}");
        // Its network's, and no way out of that.
        assert_eq!(facts["interfaces"], "lo eth0", "{facts:?}");
        assert_eq!(facts["routes"], "1", "{facts:?}");
    }
    for refused in [
        "touch /nowhere",
        "cp /bin/true /tmp && /tmp/true",
        "mount -t tmpfs none /mnt",
        "getent hosts deb.debian.org",
    ] {
        let output = container.run(refused);
        assert!(!output.status.success(), "{refused}: {output:?}");
    }
    // So the refusals are not the shell's.
    for allowed in ["touch /tmp/x && rm /tmp/x", "getent hosts redis"] {
        let output = container.run(allowed);
        assert!(output.status.success(), "{allowed}: {output:?}");
    }
}

/// Chromium's own sandbox is on: each renderer has namespaces of its own, a filter of its own, no
/// capability, and a network without anything in it. Gives how many there are.
pub(crate) fn renderers_are_sandboxed(container: &Container) -> usize {
    let worker = &look_at(container, "^/usr/local/bin/execution-worker$")[0];
    let renderers = look_at(container, "--type=renderer");
    for facts in &renderers {
        assert_eq!(facts["Seccomp"], "2", "{facts:?}");
        assert_eq!(facts["NoNewPrivs"], "1", "{facts:?}");
        assert_eq!(facts["CapEff"], "0000000000000000", "{facts:?}");
        for kind in ["user", "pid", "net"] {
            assert!(facts[kind].starts_with(kind), "{facts:?}");
            assert_ne!(facts[kind], worker[kind], "{kind}: {facts:?}");
        }
        // Its number in the container, and the one that it has in its own namespace.
        assert!(facts["NSpid"].split(' ').count() > 1, "{facts:?}");
        assert_eq!(facts["interfaces"], "lo", "{facts:?}");
        assert_eq!(facts["routes"], "0", "{facts:?}");
    }
    renderers.len()
}

/// A contract that tries to reach what its worker reaches.
const PROBER: &str = r"
const tries = {
    fetch: (url) => fetch(`http://${url}/`).then(() => 'reached'),
    blind: (url) => fetch(`http://${url}/`, { mode: 'no-cors' }).then(() => 'reached'),
    socket: (url) => new Promise((resolve, reject) => {
        const socket = new WebSocket(`ws://${url}/`);
        socket.onopen = () => resolve('reached');
        socket.onerror = () => reject(new Error('closed'));
    }),
    image: (url) => new Promise((resolve, reject) => {
        const image = new Image();
        image.onload = () => resolve('reached');
        image.onerror = () => reject(new Error('no image'));
        image.src = `http://${url}/`;
    }),
};
const reach = async (urls) => {
    const found = {};
    for (const url of urls)
        for (const [way, reached] of Object.entries(tries))
            try { found[`${way} ${url}`] = await reached(url); }
            catch (error) { found[`${way} ${url}`] = 'refused'; }
    return found;
};
const init = () => ({ reach });
";

/// A page reaches neither Redis nor the api, by name or by address, though its worker does.
pub(crate) async fn page_has_no_network(project: &Project) {
    let workers = project.containers("worker");
    let address = workers[0].look("getent hosts api | cut -d' ' -f1");
    let targets = [
        "redis:6379".to_owned(),
        "api:9000".to_owned(),
        format!("{}:9000", address.trim()),
    ];
    for (worker, target) in workers.iter().flat_map(|w| targets.iter().map(move |t| (w, t))) {
        let (host, port) = target.split_once(':').expect("a target has a port");
        let output = worker.run(&format!("exec 3<>/dev/tcp/{host}/{port}"));
        assert!(output.status.success(), "{target}: {output:?}");
    }
    let client = project.client();
    client.must_load("prober", PROBER).await;
    let found = client.execute("prober", "reach", &json!(targets)).await;
    let found = found.data();
    let found = found.as_object().expect("an object of outcomes");
    assert_eq!(found.len(), 12, "{found:?}");
    assert!(found.values().all(|outcome| outcome == "refused"), "{found:#?}");
    client.unload("prober").await.is_done();
}
