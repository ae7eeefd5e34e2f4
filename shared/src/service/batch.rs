//! Batching without a timer, so that a single item does not wait.

/// Yields once to the runtime, then adds up to `room` more items that arrived meanwhile.
///
/// During the yield, sockets are read and other tasks run that may produce items. Without such work
/// the yield takes no time.
pub async fn join_batch<T>(
    batch: &mut impl Extend<T>,
    room: usize,
    next: impl FnMut() -> Option<T>,
) {
    tokio::task::yield_now().await;
    batch.extend(std::iter::from_fn(next).take(room));
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn items_that_arrive_during_the_yield_join_the_batch() {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let sending = tokio::spawn(async move { (1..=3).try_for_each(|n| sender.send(n)) });
        let mut batch = vec![0];
        join_batch(&mut batch, 2, || receiver.try_recv().ok()).await;
        assert_eq!(batch, [0, 1, 2]);
        assert_eq!(receiver.recv().await, Some(3));
        sending.await.unwrap().unwrap();
    }
}
