//! The headers of an answer.

use serde_json::json;

use crate::support::client::{Answer, send};
use crate::support::farm::Farm;

const CONTRACT: &str = "{ echo: (a) => a, fails: () => { throw new Error('on purpose') } }";

#[tokio::test]
async fn a_request_id_is_propagated_or_generated() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    let paths = [
        "/execute/abcd/echo",
        "/execute/abcd/fails",
        "/execute/other/echo",
        "/no/such/route",
    ];
    for path in paths {
        let request = client.request(reqwest::Method::POST, path);
        let answer = send(request.header("x-request-id", "my-Request.7")).await;
        assert_eq!(
            answer.header("x-request-id"),
            Some("my-Request.7"),
            "{path}"
        );

        // A request id of any length must not reach the answer and the logs.
        let long = "x".repeat(1000);
        let request = client.request(reqwest::Method::POST, path);
        let answer = send(request.header("x-request-id", &long)).await;
        assert!(
            answer.header("x-request-id").is_some_and(|id| id != long),
            "{path}"
        );

        let (one, two) = (
            client.post(path, &json!(1)).await,
            client.post(path, &json!(1)).await,
        );
        let made = [one.header("x-request-id"), two.header("x-request-id")];
        assert!(
            made.iter().all(|id| id.is_some_and(|id| id.len() >= 8)),
            "{made:?}"
        );
        assert_ne!(made[0], made[1]);
    }
    farm.stop().await;
}

/// The durations in `Server-Timing`, in milliseconds, by name.
fn timing(answer: &Answer) -> Vec<(String, f64)> {
    let header = answer
        .header("server-timing")
        .unwrap_or_else(|| panic!("none in {answer:?}"));
    header
        .split(',')
        .map(|metric| {
            let (name, duration) = metric
                .trim()
                .split_once(";dur=")
                .expect("name;dur=duration");
            (
                name.to_owned(),
                duration.parse().expect("a duration is a number"),
            )
        })
        .collect()
}

#[tokio::test]
async fn an_answer_reports_its_queue_execution_and_processor_time() {
    let farm = Farm::start().await;
    let client = farm.client();
    // Half a second of work, so that the measured time cannot be zero.
    let executable = "{
        quick: () => 1,
        works: () => { const end = performance.now() + 500; while (performance.now() < end); },
        waits: () => new Promise((resolve) => setTimeout(resolve, 500)),
        fails: () => { throw new Error('on purpose') },
    }";
    client.must_load("abcd", executable).await;
    let mut used = 0.0;
    for method in ["quick", "works", "waits", "fails"] {
        let answer = client.call("abcd", method).await;
        let [(queue, waited), (exec, ran), (processor, cpu)] = &timing(&answer)[..] else {
            panic!("not three durations: {answer:?}")
        };
        let names = [queue.as_str(), exec.as_str(), processor.as_str()];
        assert_eq!(names, ["queue", "exec", "cpu"]);
        assert!(*waited >= 0.0 && *ran >= 0.0, "{answer:?}");
        used += cpu;
        match method {
            "works" => assert!(*ran >= 400.0 && *cpu >= 50.0, "{answer:?}"),
            "waits" => assert!(*ran >= 400.0 && *cpu <= 100.0, "{answer:?}"),
            _ => assert!(*cpu >= 0.0 && *cpu <= 100.0, "{answer:?}"),
        }
    }
    let status = client.contract("abcd").await;
    let total = status["cpuMs"].as_f64().expect("a measured contract");
    assert!((total - used).abs() <= 1.0, "{total} of {used}: {status}");
    farm.stop().await;
}

#[tokio::test]
async fn an_answer_reports_the_generation_of_its_state() {
    let farm = Farm::start().await;
    let client = farm.client();
    client.must_load("abcd", CONTRACT).await;
    let listed = client.generation("abcd").await;
    assert_eq!(client.call("abcd", "echo").await.generation(), listed);
    assert_eq!(client.call("abcd", "fails").await.generation(), listed);
    client.must_load("abcd", "{ echo: () => 'new' }").await;
    let answer = client.call("abcd", "echo").await;
    assert!(answer.generation() > listed);
    assert_eq!(answer.generation(), client.generation("abcd").await);
    farm.stop().await;
}
