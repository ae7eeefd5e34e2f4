//! The commands without a reply, by their numbers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::client::ClientError;

/// The value of `result` in a reply, or why there is none.
pub(super) type Reply = Result<Bytes, ClientError>;

/// The commands without a reply.
#[derive(Debug, Default)]
pub(super) struct ExpectedReplies(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: u32,
    replies: HashMap<u32, Expected>,
    ended: bool,
}

#[derive(Debug)]
struct Expected {
    /// The page's session; none for a command to the browser.
    session: Option<Arc<str>>,
    reply: oneshot::Sender<Reply>,
}

impl ExpectedReplies {
    /// Gives a command its number. None once the connection has ended.
    pub(super) fn add(&self, session: Option<Arc<str>>) -> Option<(u32, oneshot::Receiver<Reply>)> {
        let mut state = self.lock();
        if state.ended {
            return None;
        }
        let number = state.free_number();
        let (reply, receiver) = oneshot::channel();
        state.replies.insert(number, Expected { session, reply });
        Some((number, receiver))
    }

    /// Passes a reply on. A number that no command waits for is ignored.
    pub(super) fn resolve(&self, number: u32, reply: Reply) {
        let expected = self.lock().replies.remove(&number);
        if let Some(Expected { reply: sender, .. }) = expected {
            // Fails when nobody waits for the reply any more.
            _ = sender.send(reply);
        }
    }

    /// Fails the commands to a page that is gone: it never replies.
    pub(super) fn end_session(&self, session: &str) {
        let is_other = |expected: &mut Expected| expected.session.as_deref() != Some(session);
        self.lock().replies.retain(|_, expected| is_other(expected));
    }

    /// Fails all commands, now and from now on.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.replies.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next number that no command has. Chromium's numbers have 31 bits, and a command may wait
    /// for as long as its page lives, so the numbers come round.
    fn free_number(&mut self) -> u32 {
        loop {
            self.last = (self.last + 1) & i32::MAX.cast_unsigned();
            if !self.replies.contains_key(&self.last) {
                return self.last;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_reaches_its_command() {
        let expected = ExpectedReplies::default();
        let (first, mut one) = expected.add(None).unwrap();
        let (second, mut two) = expected.add(None).unwrap();
        expected.resolve(7, Ok(Bytes::new()));
        expected.resolve(second, Ok("2".into()));
        expected.resolve(first, Err(ClientError::Refused("not now".to_owned())));
        assert_eq!(two.try_recv().unwrap().unwrap(), "2");
        assert_eq!(one.try_recv().unwrap().unwrap_err().to_string(), "not now");
        assert!(expected.lock().replies.is_empty());
    }

    #[test]
    fn commands_to_a_page_fail_with_it_and_all_with_the_browser() {
        let expected = ExpectedReplies::default();
        let [a, b] = ["a", "b"].map(Arc::from);
        let mut gone = expected.add(Some(a)).unwrap().1;
        let mut other = expected.add(Some(b)).unwrap().1;
        let mut browser = expected.add(None).unwrap().1;
        expected.end_session("a");
        assert_eq!(
            gone.try_recv().unwrap_err(),
            oneshot::error::TryRecvError::Closed
        );
        for waiting in [&mut other, &mut browser] {
            assert_eq!(
                waiting.try_recv().unwrap_err(),
                oneshot::error::TryRecvError::Empty
            );
        }
        expected.end();
        for ended in [&mut other, &mut browser] {
            assert_eq!(
                ended.try_recv().unwrap_err(),
                oneshot::error::TryRecvError::Closed
            );
        }
        assert!(expected.add(None).is_none());
    }

    #[test]
    fn numbers_come_round_and_pass_over_those_in_use() {
        let expected = ExpectedReplies::default();
        let (first, _watch) = expected.add(None).unwrap();
        expected.lock().last = i32::MAX.cast_unsigned() - 1;
        let numbers = [(); 3].map(|()| expected.add(None).unwrap().0);
        assert_eq!((first, numbers), (1, [i32::MAX.cast_unsigned(), 0, 2]));
    }
}
