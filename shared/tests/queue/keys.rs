//! The keys of callers: what changed since a version.

use super::Redis;
use shared::protocol::quota::Quota;
use shared::protocol::tenant::Tenant;
use shared::queue::key_store::{Added, KeyRecord, KeyStore};

fn record(name: &str) -> KeyRecord {
    KeyRecord {
        name: name.to_owned(),
        tenant: Tenant::default(),
        quota: Quota::default(),
        sha256: "ab".repeat(32),
        scopes: vec!["farm:read".to_owned()],
        created: 1,
        expires: None,
        is_from_file: false,
        revoked: None,
    }
}

/// All changes after a version: the ids in their order, and the new version.
async fn changes(store: &KeyStore, mut version: u64) -> (Vec<String>, u64) {
    let mut ids = Vec::new();
    loop {
        let changes = store.changes(version).await.unwrap();
        assert!(!changes.is_older);
        ids.extend(changes.records.into_iter().map(|(id, _)| id));
        version = changes.version;
        if !changes.has_more {
            return (ids, version);
        }
    }
}

#[tokio::test]
async fn changes_are_read_from_a_version_on() {
    let redis = Redis::start();
    let store = KeyStore::new(redis.queue().await);
    assert_eq!(changes(&store, 0).await, (vec![], 0));
    for id in ["a", "b"] {
        assert_eq!(store.add(id, &record(id)).await.unwrap(), Added::Stored);
    }
    assert_eq!(store.add("a", &record("x")).await.unwrap(), Added::IdTaken);
    let (ids, version) = changes(&store, 0).await;
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(changes(&store, version).await, (vec![], version));

    assert!(store.revoke("a").await.unwrap());
    assert!(!store.revoke("c").await.unwrap());
    let found = store.changes(version).await.unwrap();
    let [(id, revoked)] = &found.records[..] else {
        panic!("one change: {found:?}")
    };
    assert!(id == "a" && revoked.revoked.is_some(), "{found:?}");
    // The first moment counts.
    assert!(store.revoke("a").await.unwrap());
    assert_eq!(changes(&store, found.version).await.0, Vec::<String>::new());

    store.record_use(&[("b".to_owned(), 7)]).await.unwrap();
    let used = store.last_used(&["a", "b"]).await.unwrap();
    assert_eq!(used.into_iter().collect::<Vec<_>>(), [("b".to_owned(), 7)]);
    store.forget(&["a".to_owned()]).await.unwrap();
    assert_eq!(changes(&store, 0).await.0, ["b"]);
}

#[tokio::test]
async fn more_changes_than_a_page_are_all_read() {
    let redis = Redis::start();
    let store = KeyStore::new(redis.queue().await);
    let ids: Vec<_> = (0..2_500).map(|number| format!("{number:05}")).collect();
    for id in &ids {
        store.add(id, &record("")).await.unwrap();
    }
    assert_eq!(changes(&store, 0).await, (ids, 2_500));
}

#[tokio::test]
async fn lost_data_is_noticed() {
    let redis = Redis::start();
    let store = KeyStore::new(redis.queue().await);
    store.add("a", &record("")).await.unwrap();
    store.add("b", &record("")).await.unwrap();
    let (_, version) = changes(&store, 0).await;
    redis.command::<()>(&["FLUSHALL"]).await;
    assert!(store.changes(version).await.unwrap().is_older);
    store.add("c", &record("")).await.unwrap();
    assert!(store.changes(version).await.unwrap().is_older);
    assert_eq!(changes(&store, 0).await.0, ["c"]);
}

/// A version without tenants reads `scopes` alone, and takes every key for one of the whole farm.
#[test]
fn a_key_of_a_tenant_permits_nothing_to_older_versions() {
    let record = KeyRecord {
        tenant: "acme".parse().unwrap(),
        ..record("")
    };
    let text = serde_json::to_string(&record).unwrap();
    let stored: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stored["scopes"], serde_json::json!([]), "{text}");
    assert_eq!(serde_json::from_str::<KeyRecord>(&text).unwrap(), record);
    let old = r#"{"sha256":"ab","scopes":["farm:read"],"created":1}"#;
    let old: KeyRecord = serde_json::from_str(old).unwrap();
    assert!(old.tenant.is_default() && old.scopes == ["farm:read"]);
}
