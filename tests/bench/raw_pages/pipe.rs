//! The pipe to a browser: whole messages in, replies out.

use std::process::{Command, Stdio};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::cbor::{ENVELOPE, HEAD, reply_to};

/// Both ends.
pub(super) struct Pipe {
    to: ChildStdin,
    from: ChildStdout,
    read: BytesMut,
}

impl Pipe {
    /// Starts a program, with the pipe as its standard input and output.
    pub(super) fn to(mut command: Command) -> (Child, Self) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        let mut child = command.kill_on_drop(true).spawn().expect("Chromium starts");
        let pipe = Self {
            to: child.stdin.take().expect("it is piped"),
            from: child.stdout.take().expect("it is piped"),
            read: BytesMut::new(),
        };
        (child, pipe)
    }

    /// Sends messages.
    pub(super) async fn send(&mut self, messages: &[u8]) {
        let sent = self.to.write_all(messages).await;
        sent.expect("a browser that runs reads its pipe");
    }

    /// Waits for the reply to the message with this id.
    pub(super) async fn reply(&mut self, id: u32) -> Vec<u8> {
        let begin = reply_to(id);
        loop {
            while let Some(message) = self.message() {
                if message[HEAD..].starts_with(&begin) {
                    return message.to_vec();
                }
            }
            self.fill().await;
        }
    }

    /// Waits for replies to messages with this id; returns how many have arrived.
    pub(super) async fn replies(&mut self, id: u32) -> usize {
        let begin = reply_to(id);
        let mut count = 0;
        while count == 0 {
            self.fill().await;
            while let Some(message) = self.message() {
                count += usize::from(message[HEAD..].starts_with(&begin));
            }
        }
        count
    }

    /// The next message that has arrived.
    fn message(&mut self) -> Option<BytesMut> {
        let mut head = self.read.get(..HEAD)?;
        assert_eq!(head[..ENVELOPE.len()], ENVELOPE, "a message is an envelope");
        head.advance(ENVELOPE.len());
        let length = HEAD + usize::try_from(head.get_u32()).expect("it fits");
        (self.read.len() >= length).then(|| self.read.split_to(length))
    }

    async fn fill(&mut self) {
        self.read.reserve(64 << 10);
        let read = self.from.read_buf(&mut self.read).await;
        assert!(read.expect("a pipe can be read") > 0, "the browser ended");
    }
}
