//! The audit log: who changed what.

use std::collections::HashMap;

use reqwest::Method;
use serde_json::Value;

use super::{caller, create, start};
use crate::support::client::send;
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// The lines of the audit log, as caller, action, subject and outcome.
fn audited(farm: &Farm) -> Vec<[String; 4]> {
    let log = farm.apis[0].log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let audits = lines.filter(|line| line["target"] == "audit");
    let field = |line: &Value, name: &str| {
        let text = line[name].as_str();
        text.unwrap_or_else(|| panic!("no {name}: {line}"))
            .to_owned()
    };
    audits
        .map(|line| ["caller", "action", "subject", "outcome"].map(|name| field(&line, name)))
        .collect()
}

/// The newest entry in Redis, once there are so many.
async fn last_entry(farm: &Farm, count: usize) -> HashMap<String, String> {
    let connection = farm.redis.connection().await;
    wait::until("all entries to be in Redis", DEFAULT_LIMIT, async || {
        let mut entries: Vec<(String, HashMap<String, String>)> = redis::cmd("XREVRANGE")
            .arg("exec:audit")
            .arg(&["+", "-"])
            .query_async(&mut connection.clone())
            .await
            .ok()?;
        (entries.len() == count).then(|| entries.remove(0).1)
    })
    .await
}

#[tokio::test]
async fn whoever_changes_something_is_recorded() {
    let farm = start(Farm::builder().env("LOG_FORMAT", "json")).await;
    let admin = farm.client();
    let (id, key) = create(admin, &["contracts:load", "contracts:unload"]).await;
    let client = admin.as_caller(&key);
    client.must_load("abcd", "{ echo: (a) => a }").await;
    client
        .load("bad", "{ echo: ")
        .await
        .error(422, "invalid_executable");
    client.unload("abcd").await.is_no_content();
    // Not permitted, and so not carried out.
    caller(admin, &["farm:read"])
        .await
        .unload("abcd")
        .await
        .error(403, "insufficient_scope");
    send(admin.request(Method::DELETE, "/dead-letters/1-0"))
        .await
        .error(404, "dead_letter_not_found");
    send(admin.request(Method::DELETE, &format!("/keys/{id}")))
        .await
        .is_no_content();

    let lines = audited(&farm);
    let who = format!("key:{id}");
    for (action, subject, outcome) in [
        ("load", "abcd", "ok"),
        ("load", "bad", "invalid_executable"),
        ("unload", "abcd", "ok"),
    ] {
        let expected = [who.as_str(), action, subject, outcome].map(str::to_owned);
        assert!(
            lines.contains(&expected),
            "{expected:?} is not in {lines:?}"
        );
    }
    let others = lines.iter().filter(|[caller, ..]| *caller != who);
    let others: Vec<_> = others
        .map(|[_, action, _, outcome]| (action.as_str(), outcome.as_str()))
        .collect();
    assert_eq!(
        others,
        [
            ("create_key", "ok"),
            ("create_key", "ok"),
            ("remove_dead_letter", "dead_letter_not_found"),
            ("revoke_key", "ok"),
        ]
    );
    let last = last_entry(&farm, lines.len()).await;
    let [action, subject] = ["action", "subject"].map(|name| last[name].as_str());
    assert_eq!((action, subject), ("revoke_key", id.as_str()));
    farm.stop().await;
}
