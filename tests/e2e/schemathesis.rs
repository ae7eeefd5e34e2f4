//! schemathesis checks the description of the interface with valid and invalid requests.
//! `make test-openapi` installs and runs it; `make test` does not run it.

use std::process::Command;
use std::time::Duration;

use crate::access::{self, created_by_command};
use crate::support::farm::Farm;
use crate::support::process::Process;
use crate::support::programs;

/// Enough for a busy machine.
const LIMIT: Duration = Duration::from_mins(9);

/// The conformance checks verify that a status is documented, with one of the codes documented for
/// it. A service may refuse valid requests, so no check forbids that.
const CHECKS: &str = "status_code_conformance,content_type_conformance,response_headers_conformance,\
    response_schema_conformance,negative_data_rejection,missing_required_header,unsupported_method,\
    allow_header_conformance";

#[tokio::test]
async fn the_service_conforms_to_its_description() {
    let farm = Farm::start().await;
    conforms(farm, None).await.stop().await;
}

#[tokio::test]
async fn a_service_with_keys_conforms_to_its_description() {
    let mut farm = Farm::builder().env("AUTH", "keys").start().await;
    // Nobody without a key gets further than 401.
    let checks = format!("{CHECKS},not_a_server_error");
    try_out(&farm, None, "--exclude-operation-id", &["drain"], &checks).await;
    let key = created_by_command(&farm, &["--admin"]).await;
    farm.clients[0] = farm.clients[0].as_caller(&key);
    let mut farm = conforms(farm, Some(&key)).await;
    // That one may be revoked by now.
    let key = created_by_command(&farm, &["--admin"]).await;
    farm.clients[0] = farm.clients[0].as_caller(&key);
    access::stop(farm).await;
}

/// Tries all operations as a caller with this key.
async fn conforms(mut farm: Farm, key: Option<&str>) -> Farm {
    // The contract that the examples call.
    let contract = "{ add: ({number1, number2}) => number1 + number2 }";
    farm.client().must_load("abcd", contract).await;
    // A contract's failure is the service's 500, and more replicas than workers are its 503.
    let may_fail = ["load", "execute"];
    try_out(&farm, key, "--include-operation-id", &may_fail, CHECKS).await;
    // A healthy farm answers all other operations without a server error.
    let checks = format!("{CHECKS},not_a_server_error");
    let others = ["load", "execute", "drain", "revokeKey"];
    try_out(&farm, key, "--exclude-operation-id", &others, &checks).await;
    farm.all_run();
    // These may find and drain the farm's worker, or revoke the key, so they come last.
    for last in ["drain", "revokeKey"] {
        try_out(&farm, key, "--include-operation-id", &[last], &checks).await;
    }
    farm
}

/// Tries some of the operations.
async fn try_out(farm: &Farm, key: Option<&str>, option: &str, operations: &[&str], checks: &str) {
    let target = programs::folder();
    let target = target.parent().expect("a profile's folder is in target");
    let program = target.join("schemathesis/bin/schemathesis");
    assert!(
        program.is_file(),
        "run `make test-openapi`: it installs schemathesis"
    );
    let mut command = Command::new(program);
    command
        .current_dir(farm.folder())
        .env("NO_COLOR", "1")
        .env("NO_PROXY", "*")
        .arg("run")
        .arg(farm.client().url("/openapi.json"))
        .args(operations.iter().flat_map(|name| [option, name]))
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--checks", checks])
        .args(["--max-examples", "60", "--seed", "7"])
        // Threads of Python 3.11 cannot parse Python at the same time, as it does to explain itself:
        // https://github.com/python/cpython/issues/106905
        .args(["--workers", "1"])
        .args(["--request-timeout", "45", "--suppress-health-check", "all"])
        .args(["--continue-on-failure", "--no-shrink"]);
    if let Some(key) = key {
        command.args(["--header", &format!("Authorization: Bearer {key}")]);
    }
    let mut run = Process::start("schemathesis", command, farm.folder());
    let status = run.end(LIMIT).await;
    assert!(status.success(), "{}", run.log());
}
