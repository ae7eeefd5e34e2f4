//! Servers that tests have passed on.

use std::sync::{Mutex, PoisonError};

use super::{Deployment, Kind};

static PASSED_ON: Mutex<Vec<Deployment>> = Mutex::new(Vec::new());

/// Servers as if they had just been started.
pub(crate) fn take(kind: Kind) -> Deployment {
    let mut passed_on = PASSED_ON.lock().unwrap_or_else(PoisonError::into_inner);
    let index = passed_on.iter().position(|each| each.kind == kind);
    let found = index.map(|index| passed_on.swap_remove(index));
    drop(passed_on);
    let Some(deployment) = found else {
        let deployment = Deployment::start(kind);
        prevent_failovers(&deployment);
        return deployment;
    };
    reset(&deployment);
    deployment
}

/// A test may stop the servers for some seconds. That must not move the data.
fn prevent_failovers(deployment: &Deployment) {
    for sentinel in &deployment.sentinels {
        let set = ["SENTINEL", "SET", "farm"];
        sentinel.must(&[&set[..], &["down-after-milliseconds", "60000"]].concat());
    }
    if deployment.kind == Kind::Cluster {
        for server in &deployment.servers {
            server.must(&["CONFIG", "SET", "cluster-node-timeout", "60000"]);
        }
    }
}

/// For the next test.
pub(crate) fn put(deployment: Deployment) {
    let mut passed_on = PASSED_ON.lock().unwrap_or_else(PoisonError::into_inner);
    passed_on.push(deployment);
}

/// The connections of the last test are closed first, so that nothing of it is carried out later.
fn reset(deployment: &Deployment) {
    for server in &deployment.servers[..deployment.primaries] {
        for kind in ["normal", "pubsub"] {
            server.must(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
        }
        server.must(&["CONFIG", "SET", "maxmemory", "0"]);
        server.must(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
        server.must(&["FLUSHALL"]);
        server.must(&["SCRIPT", "FLUSH"]);
        server.must(&["ACL", "DELUSER", "farm"]);
        server.must(&["CONFIG", "RESETSTAT"]);
    }
}
