//! A worker for arm64, which an emulator runs, with Docker contracts for this machine's processor.

use std::time::Duration;

use serde_json::json;
use shared::queue::timing::LEASE;

use super::docker_farm::{DockerFarm, docker_builder};
use crate::arm64::Emulated;
use crate::support::wait;

#[tokio::test]
async fn a_worker_for_arm64_runs_containers_and_keeps_its_lease() {
    let emulated = Emulated::new();
    let mut farm = DockerFarm::of(docker_builder().programs(emulated.folder())).await;
    farm.load_all(&["a", "b"]).await;
    assert_eq!(farm.call("a", "echo", json!([1.5])).await, json!([1.5]));
    let generation = farm.client().generation("a").await;
    // Without renewals, it would have been taken for dead by now.
    wait::pass(LEASE + Duration::from_secs(2)).await;
    assert_eq!(farm.call("a", "echo", json!("ü")).await, json!("ü"));
    assert_eq!(farm.client().generation("a").await, generation);
    farm.stop().await;
}
