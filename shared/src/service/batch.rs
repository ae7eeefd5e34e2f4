//! Sending together what is about to be sent: no timer, so that one alone does not wait.

/// Gives the runtime one turn, then takes up to `room` more of what has come by then. Whatever else can
/// be done is done once: sockets are read, tasks run that are about to have something to send. Where
/// there is nothing to do, that takes no time.
pub async fn join_batch<T>(
    gathered: &mut impl Extend<T>,
    room: usize,
    next: impl FnMut() -> Option<T>,
) {
    tokio::task::yield_now().await;
    gathered.extend(std::iter::from_fn(next).take(room));
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_others_are_about_to_send_comes_along_as_far_as_there_is_room() {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let sending = tokio::spawn(async move { (1..=3).try_for_each(|n| sender.send(n)) });
        let mut gathered = vec![0];
        join_batch(&mut gathered, 2, || receiver.try_recv().ok()).await;
        assert_eq!(gathered, [0, 1, 2]);
        assert_eq!(receiver.recv().await, Some(3));
        sending.await.unwrap().unwrap();
    }
}
