//! Which image a name stands for: it is resolved at every load, and never in between.

use bollard::query_parameters::{RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder};
use serde_json::{Value, json};

use super::docker_farm::{DockerFarm, docker_builder};
use super::faults::wait_for_field;
use super::test_image::TestImage;
use crate::support::wait::{self, DEFAULT_LIMIT};

impl DockerFarm {
    /// Builds another image under a name that the daemon knows. Returns its id.
    pub(super) async fn rebuild(&self, tag: &str) -> String {
        let next = TestImage::new().tag(tag);
        self.import(&next.tar()).await;
        next.id()
    }

    /// Kills the only worker and removes what it leaves on the daemon, as the loss of its machine
    /// does. `image` is removed as well, with all its names.
    pub(super) async fn lose_machine(&mut self, address: &str, image: &str) {
        self.inner().workers[0].kill().await;
        let name = self.container_name(address).await;
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        let removed = self.docker.remove_container(&name, Some(options)).await;
        removed.expect("the daemon answers");
        let removed = self.docker.remove_network(&name).await;
        removed.expect("the daemon answers");
        let options = RemoveImageOptionsBuilder::new().force(true).build();
        let removed = self.docker.remove_image(image, Some(options), None).await;
        removed.expect("the daemon answers");
        assert!(!self.has_image(image).await);
    }
}

/// A farm whose reapers do not wait, so that a contract moves as soon as its worker's lease lapses.
async fn hasty() -> DockerFarm {
    DockerFarm::of(docker_builder().env("REAP_GRACE_MS", "0")).await
}

/// The image of a contract's container, once there is only one. An earlier one may be closing.
async fn running_image(farm: &DockerFarm, address: &str) -> Option<String> {
    wait::until_true("one container", DEFAULT_LIMIT, async || {
        farm.containers(address).await.len() == 1
    })
    .await;
    farm.container(address).await.image
}

async fn shown_image(farm: &DockerFarm, address: &str) -> String {
    let shown = farm.client().contract(address).await;
    shown["image"]
        .as_str()
        .expect("it runs an image")
        .to_owned()
}

#[tokio::test]
async fn a_rebuilt_tag_is_another_executable() {
    let mut farm = DockerFarm::start().await;
    let tag = farm.image(TestImage::new()).await;
    farm.load("a", &tag).await.is_no_content();
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    let (first, before) = (
        shown_image(&farm, "a").await,
        farm.client().generation("a").await,
    );
    // Unchanged: the load is a no-op.
    farm.load("a", &tag).await.is_no_content();
    assert_eq!(farm.client().generation("a").await, before);
    assert_eq!(farm.call("a", "count", Value::Null).await, 2);

    let next = farm.rebuild(&tag).await;
    assert_ne!(next, first);
    assert_eq!(
        shown_image(&farm, "a").await,
        first,
        "nothing was loaded yet"
    );
    farm.load("a", &tag).await.is_no_content();
    assert_eq!(shown_image(&farm, "a").await, next);
    assert_eq!(running_image(&farm, "a").await, Some(next));
    assert!(farm.client().generation("a").await > before);
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    let after = farm.client().generation("a").await;
    farm.load("a", &tag).await.is_no_content();
    assert_eq!(farm.client().generation("a").await, after);
    farm.remove_on_stop(&first);
    farm.stop().await;
}

#[tokio::test]
async fn the_death_of_a_worker_deploys_no_rebuilt_tag() {
    let mut farm = hasty().await;
    let tag = farm.image(TestImage::new()).await;
    farm.load("a", &tag).await.is_no_content();
    let (first, before) = (
        shown_image(&farm, "a").await,
        farm.client().generation("a").await,
    );
    farm.rebuild(&tag).await;
    farm.inner().workers[0].kill().await;
    farm.inner().join_with(&[]).await;
    wait::until_true("another worker to run it", DEFAULT_LIMIT, async || {
        farm.client().generation("a").await > before
    })
    .await;
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    assert_eq!(shown_image(&farm, "a").await, first);
    wait_for_field(&farm, "a", "state", json!("ready")).await;
    // The container of the dead worker is swept.
    assert_eq!(running_image(&farm, "a").await.as_ref(), Some(&first));
    farm.remove_on_stop(&first);
    farm.client().unload("a").await.is_no_content();
    farm.stop_ignoring_keys().await;
}

/// It serves again as soon as some worker has the image.
#[tokio::test]
async fn without_its_image_a_contract_waits_and_says_so() {
    let mut farm = hasty().await;
    let first = TestImage::new();
    let tag = farm.image(first.clone()).await;
    farm.load("a", &tag).await.is_no_content();
    let id = shown_image(&farm, "a").await;
    assert_eq!(id, first.id());
    let rebuilt = farm.rebuild(&tag).await;
    farm.lose_machine("a", &id).await;
    farm.inner().join_with(&[]).await;
    wait_for_field(&farm, "a", "state", json!("image_missing")).await;
    let shown = farm.client().contract("a").await;
    assert_eq!(
        (shown["image"].as_str(), &shown["host"]),
        (Some(id.as_str()), &Value::Null)
    );
    for _ in 0..3 {
        let text = farm
            .client()
            .call("a", "count")
            .await
            .error_text(503, "image_unavailable");
        assert!(text.contains("GET /contracts"), "{text}");
    }
    let letters = farm.client().dead_letters().await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    let expected = json!({"kind": "image_missing", "contract": "a", "image": id});
    for (field, value) in expected.as_object().expect("it was made as one") {
        assert_eq!(&letters[0][field], value, "{letters:?}");
    }
    assert!(farm.containers("a").await.is_empty());

    farm.import(&first.tar()).await;
    wait::until_true("the contract to serve", DEFAULT_LIMIT, async || {
        farm.client().call("a", "count").await.status == 200
    })
    .await;
    assert_eq!(shown_image(&farm, "a").await, id);
    assert_eq!(farm.client().contract("a").await["state"], "ready");
    assert_ne!(id, rebuilt);
    farm.client().unload("a").await.is_no_content();
    farm.remove_on_stop(&id);
    farm.stop_ignoring_keys().await;
}

/// What the name stands for by then is the caller's decision.
#[tokio::test]
async fn a_load_replaces_an_image_that_is_gone() {
    let mut farm = hasty().await;
    let tag = farm.image(TestImage::new()).await;
    farm.load("a", &tag).await.is_no_content();
    let id = shown_image(&farm, "a").await;
    let rebuilt = farm.rebuild(&tag).await;
    farm.lose_machine("a", &id).await;
    farm.inner().join_with(&[]).await;
    wait_for_field(&farm, "a", "state", json!("image_missing")).await;
    farm.load("a", &tag).await.is_no_content();
    assert_eq!(farm.call("a", "count", Value::Null).await, 1);
    assert_eq!(shown_image(&farm, "a").await, rebuilt);
    farm.client().unload("a").await.is_no_content();
    farm.stop_ignoring_keys().await;
}
