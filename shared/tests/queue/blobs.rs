//! Executables and large arguments.

use shared::queue::blobs::digest;

use super::*;

#[tokio::test]
async fn a_blob_is_kept_while_a_contract_refers_to_it() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (content, one, other) = (b"{ a() {} }".as_slice(), address("one"), address("other"));
    let digest = digest(content);
    assert!(!queue.keep_blob(&digest, &one).await.unwrap(), "not stored");
    queue.stage_blob(&digest, content, LONG).await.unwrap();
    assert!(queue.keep_blob(&digest, &one).await.unwrap());
    queue
        .stage_blob(&digest, content, Duration::from_secs(1))
        .await
        .unwrap();
    assert!(queue.keep_blob(&digest, &other).await.unwrap());
    assert!(
        !queue.release_blob(&digest, &one).await.unwrap(),
        "the other contract needs it"
    );
    assert_eq!(
        queue.fetch_blob(&digest).await.unwrap().as_deref(),
        Some(content)
    );
    assert!(queue.release_blob(&digest, &other).await.unwrap());
    assert_eq!(queue.fetch_blob(&digest).await.unwrap(), None);
    assert_eq!(redis.keys().await, Vec::<String>::new());
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
    let blob = format!("test:{{blob:{digest}}}");
    assert_eq!(redis.keys().await, ["test:blobs", &blob]);
}

#[tokio::test]
async fn a_reference_without_its_contract_is_removed() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (content, loaded, gone) = (b"{ a() {} }".as_slice(), address("loaded"), address("gone"));
    let digest = digest(content);
    let worker = worker(&queue).await;
    let generation = load(&queue, &loaded, worker, &spec(&digest)).await;
    for contract in [&loaded, &gone] {
        queue.store_blob(&digest, content, contract).await.unwrap();
    }
    assert!(queue.sweep().await.unwrap());
    assert_eq!(
        redis.members(&format!("test:{{blob:{digest}}}:refs")).await,
        ["loaded"]
    );
    assert!(!redis.expires(&format!("test:{{blob:{digest}}}")).await);

    let held = Standing::of(worker, generation);
    let unloaded = queue.unload(&loaded, held).await.unwrap();
    assert!(unloaded.done().is_some());
    redis.command::<()>(&["DEL", "test:lock:sweep"]).await;
    assert!(queue.sweep().await.unwrap());
    assert!(redis.expires(&format!("test:{{blob:{digest}}}")).await);
    assert!(
        redis
            .members(&format!("test:{{blob:{digest}}}:refs"))
            .await
            .is_empty()
    );
}
