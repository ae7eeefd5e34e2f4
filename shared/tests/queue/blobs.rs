//! Executables and large arguments.

use shared::queue::blobs::digest;

use super::*;

const CONTENT: &[u8] = b"{ a() {} }";

fn blob(digest: &str) -> String {
    format!("test:{{blob:{digest}}}")
}

/// What the store has for the executable.
async fn members(redis: &Redis, digest: &str) -> Vec<String> {
    let mut members = redis.members(&format!("{}:refs", blob(digest))).await;
    members.sort();
    members
}

/// Sweeps although somebody has just done so.
async fn sweep(redis: &Redis, queue: &Queue) {
    redis.command::<()>(&["DEL", "test:lock:sweep"]).await;
    assert!(queue.sweep().await.unwrap());
}

/// Loads a contract as a worker does: the reference comes before the record.
async fn load(
    queue: &Queue,
    contract: &ContractAddress,
    worker: WorkerId,
    digest: &str,
) -> (Standing, Reference) {
    queue.stage_blob(digest, CONTENT, LONG).await.unwrap();
    let (held, load) = begin(queue, contract, worker, digest).await;
    let reference = Reference::new(contract, &load);
    assert!(queue.keep_blob(digest, &reference).await.unwrap());
    record(queue, contract, held, (&load, digest)).await;
    (held, reference)
}

/// Claims a contract for a load.
async fn begin(
    queue: &Queue,
    contract: &ContractAddress,
    worker: WorkerId,
    digest: &str,
) -> (Standing, LoadId) {
    let before = queue.ownership(contract).await.unwrap().standing;
    let asked = spec(digest);
    let claimed = queue.claim(contract, before, worker, Some(&asked)).await;
    let generation = claimed.unwrap().done().expect("the claim is granted");
    (Standing::of(worker, generation), LoadId::new(generation))
}

async fn record(
    queue: &Queue,
    contract: &ContractAddress,
    held: Standing,
    (load, digest): (&LoadId, &str),
) {
    let load = (load, &spec(digest));
    let recorded = queue
        .record_load(contract, held, load, &Sandbox::default())
        .await;
    assert!(recorded.unwrap().done().is_some());
}

async fn unload(queue: &Queue, contract: &ContractAddress, held: Standing) {
    let unloaded = queue.unload(contract, held).await.unwrap();
    assert!(unloaded.done().is_some());
}

#[tokio::test]
async fn a_blob_is_kept_while_a_load_refers_to_it_and_for_some_time_after_it() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let digest = digest(CONTENT);
    let reference = |contract| Reference::new(&address(contract), &LoadId::new(1));
    let (one, other) = (reference("one"), reference("other"));
    assert!(!queue.keep_blob(&digest, &one).await.unwrap(), "not stored");
    queue.stage_blob(&digest, CONTENT, LONG).await.unwrap();
    assert!(queue.keep_blob(&digest, &one).await.unwrap());
    queue
        .stage_blob(&digest, CONTENT, Duration::from_secs(1))
        .await
        .unwrap();
    assert!(queue.keep_blob(&digest, &other).await.unwrap());
    queue.release_blob(&digest, &one).await.unwrap();
    assert!(!redis.expires(&blob(&digest)).await, "the other needs it");
    queue.release_blob(&digest, &other).await.unwrap();
    assert!(redis.expires(&blob(&digest)).await);
    assert_eq!(
        queue.fetch_blob(&digest).await.unwrap().as_deref(),
        Some(CONTENT)
    );
    assert!(queue.keep_blob(&digest, &one).await.unwrap());
    assert!(!redis.expires(&blob(&digest)).await, "it is needed again");
}

#[tokio::test]
async fn a_stored_argument_expires() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let deadline = queue.clock().after(LONG);
    let name = queue
        .store_body(ApiId::random(), JobId(1), b"[1]", deadline)
        .await
        .unwrap();
    assert_eq!(
        queue.fetch_body(&name).await.unwrap().as_deref(),
        Some("[1]")
    );
    queue.remove_body(&name).await.unwrap();
    assert_eq!(queue.fetch_body(&name).await.unwrap(), None);
}

#[tokio::test]
async fn a_large_blob_is_returned_unchanged() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let content: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest = digest(&content);
    // Whichever upload ends first, the blob is stored once and completely, and nothing else
    // remains.
    let staged = tokio::join!(
        queue.stage_blob(&digest, &content, LONG),
        queue.stage_blob(&digest, &content, LONG)
    );
    assert!(staged.0.is_ok() && staged.1.is_ok());
    assert_eq!(queue.fetch_blob(&digest).await.unwrap(), Some(content));
    assert_eq!(
        redis.keys().await,
        ["test:blobs", "test:executables", &blob(&digest)]
    );
}

/// The unload of a contract ends on one worker while another one loads it again: the same
/// executable, the same address.
#[tokio::test]
async fn an_unload_that_ends_late_does_not_remove_the_executable_of_the_next_load() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (contract, digest) = (address("a"), digest(CONTENT));
    let (held, earlier) = load(&queue, &contract, worker(&queue).await, &digest).await;
    unload(&queue, &contract, held).await;
    let (_, later) = load(&queue, &contract, worker(&queue).await, &digest).await;
    // The calls of the first worker have ended.
    queue.release_blob(&digest, &earlier).await.unwrap();
    assert_eq!(members(&redis, &digest).await, [later.to_string()]);
    assert!(!redis.expires(&blob(&digest)).await);
}

#[tokio::test]
async fn a_reference_without_its_load_is_removed() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (contract, digest) = (address("a"), digest(CONTENT));
    let worker = worker(&queue).await;
    let failed = Reference::new(&address("failed"), &LoadId::new(5));
    let (_, earlier) = load(&queue, &contract, worker, &digest).await;
    let (held, current) = load(&queue, &contract, worker, &digest).await;
    queue.keep_blob(&digest, &failed).await.unwrap();
    assert_eq!(members(&redis, &digest).await.len(), 3);
    assert!(
        members(&redis, &digest)
            .await
            .contains(&earlier.to_string())
    );
    sweep(&redis, &queue).await;
    assert_eq!(members(&redis, &digest).await, [current.to_string()]);
    assert!(!redis.expires(&blob(&digest)).await);

    unload(&queue, &contract, held).await;
    sweep(&redis, &queue).await;
    assert!(redis.expires(&blob(&digest)).await);
    assert!(members(&redis, &digest).await.is_empty());
}

/// Between its reference and its record a load looks as if it had failed.
#[tokio::test]
async fn the_reference_of_a_load_in_progress_is_not_swept() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (contract, digest) = (address("a"), digest(CONTENT));
    let worker = worker(&queue).await;
    queue.stage_blob(&digest, CONTENT, LONG).await.unwrap();
    for loads in 1..=2 {
        let (held, load) = begin(&queue, &contract, worker, &digest).await;
        let reference = Reference::new(&contract, &load);
        queue.keep_blob(&digest, &reference).await.unwrap();
        sweep(&redis, &queue).await;
        let kept = members(&redis, &digest).await;
        assert!(kept.contains(&reference.to_string()), "load {loads}");
        record(&queue, &contract, held, (&load, &digest)).await;
        sweep(&redis, &queue).await;
        assert_eq!(members(&redis, &digest).await, [reference.to_string()]);
    }
}

#[tokio::test]
async fn a_missing_reference_is_added_by_the_sweep() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (contract, digest) = (address("a"), digest(CONTENT));
    let (_, reference) = load(&queue, &contract, worker(&queue).await, &digest).await;
    redis
        .command::<()>(&["DEL", &format!("{}:refs", blob(&digest))])
        .await;
    sweep(&redis, &queue).await;
    assert_eq!(members(&redis, &digest).await, [reference.to_string()]);
    assert!(!redis.expires(&blob(&digest)).await);
}

/// Versions without load ids add and look for references that name the contract alone.
#[tokio::test]
async fn references_of_an_older_version_are_kept_until_a_load_replaces_them() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (contract, digest) = (address("a"), digest(CONTENT));
    let worker = worker(&queue).await;
    let (held, reference) = load(&queue, &contract, worker, &digest).await;
    let refs = format!("{}:refs", blob(&digest));
    // As an older version leaves it.
    redis.command::<()>(&["HDEL", "test:{c:a}", "load"]).await;
    redis.command::<()>(&["DEL", &refs]).await;
    redis.command::<()>(&["SADD", &refs, "a", "gone"]).await;
    sweep(&redis, &queue).await;
    assert_eq!(members(&redis, &digest).await, ["a"]);
    assert!(!redis.expires(&blob(&digest)).await);

    // The older version loads it with a load id, but adds no reference with it.
    let load = reference.to_string().split_once('@').unwrap().1.to_owned();
    redis
        .command::<()>(&["HSET", "test:{c:a}", "load", &load])
        .await;
    sweep(&redis, &queue).await;
    assert_eq!(members(&redis, &digest).await, [reference.to_string()]);
    unload(&queue, &contract, held).await;
    // It removes the reference that it knows.
    redis.command::<()>(&["SREM", &refs, "a"]).await;
    assert_eq!(members(&redis, &digest).await, [reference.to_string()]);
    sweep(&redis, &queue).await;
    assert!(redis.expires(&blob(&digest)).await);
}
