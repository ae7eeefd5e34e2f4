//! Tests of the lines that contracts keep, and of their bounds.

use shared::queue::logs::{LogLine, Retention};

use super::*;

fn line(text: &str) -> LogLine {
    LogLine {
        request: String::new(),
        method: "m".to_owned(),
        text: text.to_owned(),
    }
}

/// The texts of all lines of a contract.
async fn texts(queue: &Queue, contract: &ContractAddress) -> Vec<String> {
    let page = queue.read_logs(contract, None, 5000).await.unwrap();
    page.lines.into_iter().map(|(_, line)| line.text).collect()
}

async fn keep(queue: &Queue, contract: &ContractAddress, lines: &[LogLine]) {
    let kept = queue.append_logs(contract, lines, Retention::Kept).await;
    kept.unwrap();
}

#[tokio::test]
async fn the_last_lines_of_a_contract_are_kept() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (owner, contract) = (worker(&queue).await, address("abcd"));
    // Nothing is kept of a contract that is not loaded.
    keep(&queue, &contract, &[line("early")]).await;
    assert!(texts(&queue, &contract).await.is_empty());
    let generation = load(&queue, &contract, owner, &spec("1")).await;
    for batch in 0..3 {
        let lines: Vec<_> = (0..450).map(|n| line(&format!("{batch} {n}"))).collect();
        keep(&queue, &contract, &lines).await;
    }
    let kept = texts(&queue, &contract).await;
    assert_eq!(kept.len(), 1000);
    assert_eq!((kept[0].as_str(), kept[999].as_str()), ("0 350", "2 449"));
    let long: Vec<_> = (0..300).map(|_| line(&"x".repeat(2000))).collect();
    keep(&queue, &contract, &long).await;
    let kept = texts(&queue, &contract).await;
    assert!(kept.iter().all(|text| text.len() == 1024));
    assert_eq!(kept.len(), 256 * 1024 / (1024 + 33));
    // What is read does not depend on what was there before.
    keep(&queue, &contract, &vec![line("short"); 900]).await;
    let short = texts(&queue, &contract).await;
    let short = short.iter().filter(|text| *text == "short").count();
    assert_eq!(short, 900);
    let standing = Standing::of(owner, generation);
    queue.unload(&contract, standing).await.unwrap();
    for key in queue.keys().logs(&contract) {
        assert_eq!(redis.command::<u64>(&["EXISTS", &key]).await, 0, "{key}");
    }
    keep(&queue, &contract, &[line("late")]).await;
    assert!(texts(&queue, &contract).await.is_empty());
}

#[tokio::test]
async fn lines_that_are_followed_end_soon() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (owner, contract) = (worker(&queue).await, address("abcd"));
    load(&queue, &contract, owner, &spec("1")).await;
    for (retention, most) in [
        (Retention::Followed, 60_000),
        (Retention::Kept, 604_800_000),
    ] {
        let appended = queue.append_logs(&contract, &[line("a")], retention).await;
        appended.unwrap();
        for key in queue.keys().logs(&contract) {
            let left: i64 = redis.command(&["PTTL", &key]).await;
            assert!((most - 30_000..=most).contains(&left), "{key}: {left}");
        }
    }
}

/// Many contracts keep fewer lines each, and the sweep applies that to those that write nothing.
#[tokio::test]
async fn all_kept_lines_together_are_bounded() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let owner = worker(&queue).await;
    let (first, second) = (address("first"), address("second"));
    let long: Vec<_> = (0..250).map(|_| line(&"x".repeat(1024))).collect();
    for contract in [&first, &second] {
        load(&queue, contract, owner, &spec("1")).await;
        keep(&queue, contract, &long).await;
    }
    let full = texts(&queue, &first).await.len();
    assert_eq!(full, 256 * 1024 / (1024 + 33));
    let list = queue.keys().kept_logs();
    for number in 0..1022 {
        let name = format!("other-{number}");
        let time = u64::MAX >> 12;
        redis
            .command::<u64>(&["ZADD", &list, &time.to_string(), &name])
            .await;
    }
    // 1,024 contracts may keep 32 KiB each.
    keep(&queue, &first, &[line("now")]).await;
    assert_eq!(
        texts(&queue, &first).await.len(),
        1 + 32 * 1024 / (1024 + 33) - 1
    );
    assert_eq!(texts(&queue, &second).await.len(), full);
    assert!(queue.sweep().await.unwrap());
    assert_eq!(texts(&queue, &second).await.len(), 32 * 1024 / (1024 + 33));
    // The others have no lines at all.
    let listed: Vec<String> = redis.command(&["ZRANGE", &list, "0", "-1"]).await;
    assert_eq!(listed, ["second", "first"]);
    // With too many, the ones that have written last keep theirs.
    for number in 0..2047 {
        let name = format!("other-{number}");
        let time = u64::MAX >> 12;
        redis
            .command::<u64>(&["ZADD", &list, &time.to_string(), &name])
            .await;
    }
    redis
        .command::<u64>(&["DEL", &queue.keys().sweep_lock()])
        .await;
    assert!(queue.sweep().await.unwrap());
    assert!(texts(&queue, &second).await.is_empty());
    assert_eq!(
        texts(&queue, &first).await.len(),
        32 * 1024 / (1024 + 33) - 15
    );
}
