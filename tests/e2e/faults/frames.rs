//! What stands in the queue cannot be understood.

use serde_json::{Value, json};

use super::{builder, load_books, shared};
use crate::support::farm::Farm;
use crate::support::wait::{self, PATIENCE};

/// An api that nobody has started: the test reads what it is told.
const NOBODY: &str = "00000000000040008000000000000001";

#[tokio::test]
async fn fault_31_frames_that_nobody_can_read() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let worker = farm.join().await;
    let client = farm.client().clone();
    let address = load_books(&client, 1).await.remove(0);
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

    let letters = wait::until("the dead letters", PATIENCE, async || {
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
        forget(&farm, letter).await;
    }
    assert_eq!(client.dead_letters().await, Vec::<Value>::new());
    farm.redis_command::<()>(&["DEL", "exec:dead-letters"])
        .await;
    farm.is_quiet().await;
    farm.stop().await;
}

async fn append(farm: &Farm, stream: &str, frame: &str) {
    farm.redis_command::<String>(&["XADD", stream, "NOMKSTREAM", "*", "b", frame])
        .await;
}

async fn forget(farm: &Farm, letter: &Value) {
    let path = format!(
        "/dead-letters/{}",
        letter["id"].as_str().expect("checked to be text")
    );
    let delete = || farm.client().request(reqwest::Method::DELETE, &path);
    crate::support::client::send(delete()).await.is_done();
    crate::support::client::send(delete())
        .await
        .error(404, "dead_letter_not_found");
}

#[tokio::test]
async fn fault_31_a_frame_of_another_version_is_answered() {
    let _machine = shared().await;
    let mut farm = builder().workers(0).start().await;
    let worker = farm.join().await;
    let address = load_books(farm.client(), 1).await.remove(0);
    let replies = format!("exec:{{a:{NOBODY}}}:re");
    farm.redis_command::<String>(&["XADD", &replies, "*", "b", "first"])
        .await;
    let frame =
        json!({ "v": 99, "api": NOBODY, "jobs": [{ "id": 7, "what": "is this" }, { "id": 8 }] });
    append(
        &farm,
        &format!("exec:{{w:{}}}:in", worker.id),
        &frame.to_string(),
    )
    .await;
    let answered = wait::until("an answer", PATIENCE, async || {
        // An entry is its id and its one field with the value.
        let entries: Vec<(String, [String; 2])> =
            farm.redis_command(&["XRANGE", &replies, "-", "+"]).await;
        entries.into_iter().nth(1).map(|(_, [_, body])| body)
    })
    .await;
    let answered: Value = serde_json::from_str(&answered).expect("a frame is JSON");
    let told = answered["replies"].as_array().expect("replies are a list");
    let ids: Vec<_> = told.iter().map(|reply| reply["id"].as_u64()).collect();
    assert_eq!(ids, [Some(7), Some(8)], "{answered}");
    for reply in told {
        let failure = &reply["outcome"]["Err"];
        assert_eq!(failure["code"], "unsupported_version", "{answered}");
        assert_eq!(failure["started"], false, "{answered}");
    }
    assert_eq!(
        farm.client()
            .execute(&address, "add", &json!(1))
            .await
            .data()["count"],
        1
    );
    farm.redis_command::<()>(&["DEL", &replies]).await;
    farm.is_quiet().await;
    farm.stop().await;
}
