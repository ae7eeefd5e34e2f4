//! Frames that the test appends to the queue itself: unreadable ones and repeated ones.

use std::time::Duration;

use serde_json::{Value, json};

use super::{builder, load_recorders, shared};
use crate::support::chaos::{freeze, thaw};
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// The id of an api that does not run. The test reads its reply stream.
const FAKE_API: &str = "00000000000040008000000000000001";

#[tokio::test]
async fn fault_31_unreadable_frames() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let worker = farm.join().await;
    let client = farm.client().clone();
    let address = load_recorders(&client, 1).await.remove(0);
    let inbox = format!("exec:{{w:{}}}:in", worker.id);
    let apis: Vec<String> = farm
        .redis_command(&["ZRANGE", "exec:apis", "0", "-1"])
        .await;
    let replies = format!("exec:{{a:{}}}:re", apis[0]);
    let garbage = ["{", "\u{0}\u{1}", r#"{"v":1,"jobs":7}"#, r#"{"v":99}"#];
    for frame in garbage {
        append(&farm, &inbox, frame).await;
        append(&farm, &replies, frame).await;
    }
    append(&farm, "exec:place:javascript", "{").await;
    assert_eq!(
        client.execute(&address, "add", &json!(1)).await.data()["count"],
        1
    );

    let letters = wait::until("the dead letters", DEFAULT_LIMIT, async || {
        let letters = client.dead_letters().await;
        (letters.len() > garbage.len()).then_some(letters)
    })
    .await;
    for letter in &letters {
        assert!(
            letter["kind"].is_string() && letter["id"].is_string(),
            "{letter}"
        );
    }
    let ids: Vec<&str> = letters
        .iter()
        .filter_map(|letter| letter["id"].as_str())
        .collect();
    assert!(
        ids.is_sorted_by(|newer, older| newer > older),
        "newest first: {ids:?}"
    );
    for letter in &letters {
        delete_dead_letter(&farm, letter).await;
    }
    assert_eq!(client.dead_letters().await, Vec::<Value>::new());
    farm.redis_command::<()>(&["DEL", "exec:dead-letters"])
        .await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// Waits for `count` replies in a stream that already holds one entry from the test.
async fn received_replies(farm: &Farm, replies: &str, count: usize) -> Vec<Value> {
    wait::until("the replies", DEFAULT_LIMIT, async || {
        // An entry is an id and one field with its value.
        let entries: Vec<(String, [String; 2])> =
            farm.redis_command(&["XRANGE", replies, "-", "+"]).await;
        let frames = entries.into_iter().skip(1).map(|(_, [_, body])| {
            let frame: Value = serde_json::from_str(&body).expect("a frame is JSON");
            frame["replies"].as_array().cloned()
        });
        let received: Vec<_> = frames.flatten().flatten().collect();
        (received.len() >= count).then_some(received)
    })
    .await
}

async fn append(farm: &Farm, stream: &str, frame: &str) {
    farm.redis_command::<String>(&["XADD", stream, "NOMKSTREAM", "*", "b", frame])
        .await;
}

async fn delete_dead_letter(farm: &Farm, letter: &Value) {
    let path = format!(
        "/dead-letters/{}",
        letter["id"].as_str().expect("checked to be text")
    );
    let delete = || farm.client().request(reqwest::Method::DELETE, &path);
    crate::support::client::send(delete()).await.is_no_content();
    crate::support::client::send(delete())
        .await
        .error(404, "dead_letter_not_found");
}

#[tokio::test]
async fn fault_31_a_frame_of_another_version_is_answered() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let worker = farm.join().await;
    let address = load_recorders(farm.client(), 1).await.remove(0);
    let replies = format!("exec:{{a:{FAKE_API}}}:re");
    farm.redis_command::<String>(&["XADD", &replies, "*", "b", "first"])
        .await;
    let frame =
        json!({ "v": 99, "api": FAKE_API, "jobs": [{ "id": 7, "what": "is this" }, { "id": 8 }] });
    append(
        &farm,
        &format!("exec:{{w:{}}}:in", worker.id),
        &frame.to_string(),
    )
    .await;
    let received = received_replies(&farm, &replies, 2).await;
    let ids: Vec<_> = received.iter().map(|reply| reply["id"].as_u64()).collect();
    assert_eq!(ids, [Some(7), Some(8)], "{received:?}");
    for reply in &received {
        let failure = &reply["outcome"]["Err"];
        assert_eq!(failure["code"], "unsupported_version", "{reply}");
        assert_eq!(failure["started"], false, "{reply}");
    }
    assert_eq!(
        farm.client()
            .execute(&address, "add", &json!(1))
            .await
            .data()["count"],
        1
    );
    farm.redis_command::<()>(&["DEL", &replies]).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// An api that got no reply sends a frame again. Meanwhile its worker failed over and came back
/// with a new inbox. Calls of the old inbox have already been answered.
#[tokio::test]
async fn fault_17_a_frame_is_resent_after_its_worker_failed_over() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let worker = farm.join().await;
    let client = farm.client().clone();
    let address = load_recorders(&client, 1).await.remove(0);
    let before = client.generation(&address).await;
    let replies = format!("exec:{{a:{FAKE_API}}}:re");
    farm.redis_command::<String>(&["XADD", &replies, "*", "b", "first"])
        .await;
    let (sent_before, _) = farm.redis_command::<(u64, u64)>(&["TIME"]).await;

    freeze(&mut farm.workers[worker.index]);
    wait::until_true("the worker to fail over", DEFAULT_LIMIT, async || {
        farm.redis.workers("exec:").await.is_empty()
    })
    .await;
    thaw(&mut farm.workers[worker.index]);
    wait::until_true("the worker to serve again", DEFAULT_LIMIT, async || {
        client.call(&address, "repeated").await.status == 200
    })
    .await;

    // Frames sent within a second after the failover may have been sent before it, because clocks
    // differ. The timestamps below are whole seconds.
    wait::pass(Duration::from_secs(3)).await;
    let (now, _) = farm.redis_command::<(u64, u64)>(&["TIME"]).await;
    let inbox = |id: &str| format!("exec:{{w:{id}}}:in");
    let current = farm.redis.workers("exec:").await.remove(0);
    assert_ne!(current, worker.id, "a worker takes a new id");
    let call = |id: u64| {
        let execute = json!({ "address": address, "method": "add", "argument": { "json": id } });
        json!({ "id": id, "deadline": (now + 60) * 1000, "attempt": 1, "job": { "execute": execute } })
    };
    let frame = |id: u64, first_sent: u64| {
        json!({ "v": 1, "api": FAKE_API, "first_sent": first_sent * 1000, "jobs": [call(id)] })
            .to_string()
    };
    // The inbox of the earlier id is gone for good: what is sent to it again is not taken.
    let entry: Option<String> = farm
        .redis_command(&[
            "XADD",
            &inbox(&worker.id),
            "NOMKSTREAM",
            "*",
            "b",
            &frame(7, sent_before),
        ])
        .await;
    assert_eq!(entry, None);
    append(&farm, &inbox(&current), &frame(8, now)).await;
    let received = received_replies(&farm, &replies, 1).await;
    let eight = received.iter().find(|reply| reply["id"] == 8);
    let eight = eight.unwrap_or_else(|| panic!("{received:?}"));
    assert!(eight["outcome"]["Ok"].is_object(), "{eight}");
    let known = client.execute(&address, "known", &json!([7, 8])).await;
    assert_eq!(
        known.data(),
        json!([8]),
        "a call that was answered as not run has run"
    );
    assert_eq!(known.generation(), before, "the page was recreated");
    farm.redis_command::<()>(&["DEL", &replies]).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}
