//! How Redis is reached: users, passwords and certificates.

use std::path::{Path, PathBuf};

use shared::queue::{QueueError, ReaperConfig, RedisConfig, reaper};
use tempfile::TempDir;

use super::*;
use redis_servers::Authority;

/// The rights that `docs/operations.md` says are needed, with the prefix of the tests.
const RIGHTS: [&str; 8] = [
    "reset",
    "on",
    "~test:*",
    "&test:*",
    "+@all",
    "-@admin",
    "-@dangerous",
    "+info",
];

/// Whether a queue that is connected can be used.
async fn is_usable(queue: &Queue) -> bool {
    queue.ping().await.is_ok() && queue.workers().await.is_ok()
}

async fn becomes_usable(queue: &Queue) {
    tokio::time::timeout(LONG, async {
        while !is_usable(queue).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the queue is usable again");
}

/// Closes the connections of everybody but the test.
async fn close_connections(redis: &Redis) {
    redis
        .command::<redis::Value>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        .await;
}

/// Lets `farm` in with a password, which it also writes to a file.
async fn let_in(redis: &Redis, password: &str, file: &Path) {
    let password_right = format!(">{password}");
    let user = ["ACL", "SETUSER", "farm"];
    let all = [&user[..], &RIGHTS, &[&password_right]].concat();
    redis.command::<()>(&all).await;
    std::fs::write(file, format!("{password}\n")).unwrap();
}

async fn user(redis: &Redis, folder: &TempDir) -> (RedisConfig, PathBuf) {
    let file = folder.path().join("password");
    drop(redis.queue().await);
    let_in(redis, "first", &file).await;
    (redis.config_of_user("farm", file.clone()), file)
}

#[tokio::test]
async fn the_documented_rights_are_enough() {
    let (redis, folder) = (Redis::start(), TempDir::new().unwrap());
    let (config, _) = user(&redis, &folder).await;
    let queue = Queue::connect(&config).await.unwrap();
    let (worker, api, contract) = (worker(&queue).await, ApiId::random(), address("abcd"));
    let _presence = queue.subscribe_alive(worker).await.unwrap();
    assert!(queue.missing_workers(&[worker]).await.unwrap().is_empty());
    queue.api_heartbeat(api).await.unwrap();
    queue.farm(None).await.unwrap();
    queue.renew_lease(worker).await.unwrap();
    load(&queue, &contract, worker, &spec("1")).await;
    send(&queue, api, worker, 3).await;
    let (_, entries) = read(&mut inbox::Reader::new(queue.clone(), worker), 3).await;
    let replies = [(api, reply_frame(worker, 1))];
    queue.settle(worker, &replies, &entries).await.unwrap();
    let mut reader = replies::Reader::new(queue.clone(), api);
    assert_eq!(read_replies(&mut reader, 1).await, [1]);
    queue.list_contracts(None, 10).await.unwrap();
    queue.sweep().await.unwrap();
    let probes = queue.probe_servers(LONG, true).await;
    assert!(probes.iter().all(|probe| probe.memory.is_some()));
    queue.dead_letters(|_| true).await.unwrap();
    // A reaper needs more than a worker.
    queue.abandon_worker(worker).await.unwrap();
    let life = Lifecycle::new();
    let config = ReaperConfig {
        grace: Duration::ZERO,
        quarantine: LONG,
    };
    life.spawn("reaper", reaper::run(queue.clone(), config, life.clone()));
    while !queue.owned_by(worker).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    life.stop();
}

/// Row 38: the next connections use the new password.
#[tokio::test]
async fn a_password_that_was_rotated_is_read_again() {
    let (redis, folder) = (Redis::start(), TempDir::new().unwrap());
    let (config, file) = user(&redis, &folder).await;
    let queue = Queue::connect(&config).await.unwrap();
    assert!(is_usable(&queue).await);
    let_in(&redis, "second", &file).await;
    close_connections(&redis).await;
    becomes_usable(&queue).await;
    std::fs::write(&file, "wrong").unwrap();
    close_connections(&redis).await;
    assert!(!is_usable(&queue).await);
    assert!(Queue::connect(&config).await.is_err());
    std::fs::write(&file, "second").unwrap();
    becomes_usable(&queue).await;
}

/// Row 38: another authority signs for both sides.
#[tokio::test]
async fn certificates_that_were_replaced_are_read_again() {
    let mut redis = Redis::exclusive(Kind::Tls);
    let queue = redis.queue().await;
    let RedisConfig { files, .. } = redis.config();
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let (certificate, key) = authority.issue(folder.path(), "server");
    let own = authority.issue(folder.path(), "client");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    redis
        .command::<()>(&[
            "CONFIG",
            "SET",
            "tls-ca-cert-file",
            &text(&authority.file),
            "tls-cert-file",
            &text(&certificate),
            "tls-key-file",
            &text(&key),
        ])
        .await;
    let replace = |from: &Path, to: Option<PathBuf>| std::fs::copy(from, to.unwrap()).unwrap();
    replace(&authority.file, files.ca);
    replace(&own.0, files.certificate);
    replace(&own.1, files.key);
    redis.reread_certificates();
    close_connections(&redis).await;
    becomes_usable(&queue).await;
    Queue::connect(&redis.config()).await.unwrap();
}

/// A managed Redis hides `CONFIG`, but not what it does.
#[tokio::test]
async fn a_redis_that_evicts_is_refused() {
    let (redis, folder) = (Redis::start(), TempDir::new().unwrap());
    let (config, _) = user(&redis, &folder).await;
    for policy in ["allkeys-lru", "volatile-ttl"] {
        redis
            .command::<()>(&["CONFIG", "SET", "maxmemory-policy", policy])
            .await;
        let error = Queue::connect(&config).await.unwrap_err();
        assert!(
            matches!(&error, QueueError::Settings(text) if text.contains(policy)),
            "{error}"
        );
    }
}
