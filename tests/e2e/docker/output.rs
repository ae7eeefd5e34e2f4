//! What containers print, as it is followed and kept.

use bollard::query_parameters::LogsOptionsBuilder;
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use super::docker_farm::DockerFarm;
use super::test_image::TestImage;
use crate::support::client::Client;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// The events of the lines of a contract, so far.
async fn lines(client: &Client, address: &str) -> Vec<Value> {
    let request = client.request(Method::GET, &format!("/contracts/{address}/logs"));
    let response = request.send().await.expect("the api answers");
    assert_eq!(response.status(), 200);
    let text = response.text().await.expect("it ends");
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).expect("JSON"))
        .collect()
}

/// What the daemon has read from a contract's container.
async fn printed(farm: &DockerFarm, address: &str) -> String {
    let containers = farm.containers(address).await;
    let name = containers[0].id.as_deref().expect("it has an id");
    let options = LogsOptionsBuilder::new().stdout(true).build();
    let parts: Vec<_> = farm.docker.logs(name, Some(options)).collect().await;
    parts.iter().flatten().map(ToString::to_string).collect()
}

fn has(lines: &[Value], text: &str) -> bool {
    lines.iter().any(|data| data["line"] == text)
}

#[tokio::test]
async fn the_output_of_a_container_is_kept_from_its_start() {
    let mut farm = DockerFarm::start().await;
    let image = farm.image(TestImage::new()).await;
    let kept = farm.load_with("a", &image, json!({"logs": "keep"})).await;
    kept.is_no_content();
    farm.load("b", &image).await.is_no_content();
    for address in ["a", "b"] {
        farm.call(address, "say", json!("hello")).await;
    }
    let client = farm.client();
    let found = wait::until("the lines", DEFAULT_LIMIT, async || {
        let found = lines(client, "a").await;
        let texts = ["listening on 8080", "said hello", "warned hello"];
        texts.iter().all(|text| has(&found, text)).then_some(found)
    })
    .await;
    // Nobody knows during which call a container has printed a line.
    let is_unknown = |data: &Value| data["call"].is_null() && data["method"].is_null();
    assert!(found.iter().all(is_unknown), "{found:?}");
    assert_eq!(found.len(), 3, "{found:?}");
    // What it prints at its end is there as well, and so is what the next one prints.
    client.execute("a", "exit", &json!(3)).await;
    farm.call("a", "say", json!("anew")).await;
    wait::until_true("the lines of both", DEFAULT_LIMIT, async || {
        let found = lines(client, "a").await;
        let starts = found
            .iter()
            .filter(|data| data["line"] == "listening on 8080");
        starts.count() == 2 && has(&found, "said hello") && has(&found, "said anew")
    })
    .await;
    assert!(lines(client, "b").await.is_empty(), "nobody has asked");
    farm.stop().await;
}

#[tokio::test]
async fn the_output_of_a_container_is_followed() {
    let mut farm = DockerFarm::start().await;
    farm.load_all(&["a"]).await;
    let client = farm.client();
    farm.call("a", "say", json!("before")).await;
    // The daemon reads what a container prints a moment later.
    wait::until_true("the daemon to read the line", DEFAULT_LIMIT, async || {
        printed(&farm, "a").await.contains("said before")
    })
    .await;
    let request = client.request(Method::GET, "/contracts/a/logs?follow=true");
    let mut body = request.send().await.expect("it answers").bytes_stream();
    let mut text = String::new();
    let reading = async {
        while !text.contains("said now") {
            let piece = body.next().await.expect("it goes on").expect("a piece");
            text += &String::from_utf8_lossy(&piece);
        }
        text
    };
    let calling = async {
        loop {
            farm.call("a", "say", json!("now")).await;
            wait::pass(std::time::Duration::from_millis(100)).await;
        }
    };
    let text = tokio::select! {
        text = tokio::time::timeout(DEFAULT_LIMIT, reading) => text.expect("a line in time"),
        () = calling => unreachable!("it goes on"),
    };
    assert!(!text.contains("before"), "{text}");
    drop(body);
    farm.stop().await;
}

/// A container that prints without end keeps nobody busy, and its last lines are there.
#[tokio::test]
async fn a_container_that_floods_its_output_leaves_lines_out() {
    let mut farm = DockerFarm::start().await;
    let image = farm.image(TestImage::new()).await;
    let kept = farm.load_with("a", &image, json!({"logs": "keep"})).await;
    kept.is_no_content();
    farm.call("a", "chatter", json!(3)).await;
    farm.call("a", "say", json!("the end")).await;
    let client = farm.client();
    wait::until_true("the last line", DEFAULT_LIMIT, async || {
        let found = lines(client, "a").await;
        has(&found, "said the end") && found.len() <= 1000
    })
    .await;
    farm.stop().await;
}
