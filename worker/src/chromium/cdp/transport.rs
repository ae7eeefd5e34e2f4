//! Reads and writes whole messages. Each message is one CBOR envelope, whose head has its length.

use std::io;

use bytes::{Bytes, BytesMut};
use shared::service::batch::join_batch;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::cbor::{CborError, ENVELOPE, ENVELOPE_HEAD};

/// The size limit of one message from the browser, in bytes. The harness bounds what a page replies
/// far below it; a page that gets round the harness gets no reply.
const MESSAGE_LIMIT: usize = 64 << 20;
/// How much of a message over the limit is read, in bytes: enough for the number of its command.
const KEPT: usize = 64;
/// How much is read at once, in bytes.
const READ: usize = 64 << 10;
/// How many messages are written in one batch at most.
const WRITE_BATCH: usize = 64;
/// Messages of at most this size are joined for one system call, in bytes.
const JOINED: usize = 16 << 10;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// The browser has closed its end.
    #[error("the browser closed the pipe")]
    Ended,
    /// The pipe cannot be used.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The browser sent something that is no message.
    #[error("malformed message: {0}")]
    Malformed(#[from] CborError),
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A message.
    Message(Bytes),
    /// The beginning of a message over [`MESSAGE_LIMIT`], the rest of which was not kept.
    TooLong(Bytes),
}

/// Reads messages.
pub(super) struct MessageReader<R> {
    stream: R,
    buffer: BytesMut,
    /// How many of the next bytes belong to a message that is not kept.
    ignored: usize,
}

impl<R: AsyncRead + Unpin> MessageReader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: BytesMut::with_capacity(READ),
            ignored: 0,
        }
    }

    /// Reads the next message.
    pub(super) async fn next(&mut self) -> Result<Incoming, ConnectionError> {
        loop {
            let ignored = self.ignored.min(self.buffer.len());
            self.ignored -= ignored;
            drop(self.buffer.split_to(ignored));
            let missing = match message_length(&self.buffer)? {
                Some(length) if length > MESSAGE_LIMIT && self.buffer.len() >= KEPT => {
                    let begin = self.buffer.split_to(KEPT).freeze();
                    self.ignored = length - KEPT;
                    return Ok(Incoming::TooLong(begin));
                }
                Some(length) if length <= self.buffer.len() => {
                    return Ok(Incoming::Message(self.buffer.split_to(length).freeze()));
                }
                Some(length) if length <= MESSAGE_LIMIT => length - self.buffer.len(),
                _ => READ,
            };
            self.buffer.reserve(missing.max(READ));
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(ConnectionError::Ended);
            }
        }
    }
}

/// The size of the message at the beginning, with its head; none if the head is incomplete.
fn message_length(bytes: &[u8]) -> Result<Option<usize>, CborError> {
    let known = bytes.len().min(ENVELOPE.len());
    for (found, expected) in bytes.iter().zip(&ENVELOPE[..known]) {
        if found != expected {
            return Err(CborError::Unexpected(*found));
        }
    }
    let length = bytes
        .get(ENVELOPE.len()..ENVELOPE_HEAD)
        .and_then(<[u8]>::first_chunk);
    let length = length.map(|length| u32::from_be_bytes(*length) as usize + ENVELOPE_HEAD);
    Ok(length)
}

/// Writes the messages of a queue until the queue ends.
pub(super) async fn write(
    mut stream: impl AsyncWrite + Unpin,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
) -> io::Result<()> {
    let mut batch = Vec::with_capacity(WRITE_BATCH);
    let mut joined = Vec::new();
    while queue.recv_many(&mut batch, WRITE_BATCH).await > 0 {
        // Yields once, so that calls of other pages join the batch: the browser then wakes up once
        // for all of them.
        let room = WRITE_BATCH - batch.len();
        join_batch(&mut batch, room, || queue.try_recv().ok()).await;
        for message in batch.drain(..) {
            if message.len() <= JOINED {
                joined.extend_from_slice(&message);
                if joined.len() < JOINED {
                    continue;
                }
            }
            stream.write_all(&joined).await?;
            joined.clear();
            if message.len() > JOINED {
                stream.write_all(&message).await?;
            }
        }
        stream.write_all(&joined).await?;
        joined.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(content: usize) -> Vec<u8> {
        let length = u32::try_from(content).unwrap().to_be_bytes();
        let head = ENVELOPE.into_iter().chain(length);
        head.chain((0..content).map(|n| n.to_le_bytes()[0]))
            .collect()
    }

    #[tokio::test]
    async fn messages_are_separated_however_they_arrive() {
        let messages = [message(0), message(5), message(3 * READ), message(1)];
        let all = messages.concat();
        for size in [1, 6, 7, 8, 1000, all.len()] {
            let mut script = tokio_test_stream(&all, size);
            let mut reader = MessageReader::new(&mut script);
            for expected in &messages {
                let read = reader.next().await.unwrap();
                assert_eq!(read, Incoming::Message(expected.clone().into()));
            }
            let end = reader.next().await.unwrap_err();
            assert!(matches!(end, ConnectionError::Ended));
        }
    }

    /// Yields at most `size` bytes at a time.
    fn tokio_test_stream(bytes: &[u8], size: usize) -> impl AsyncRead + Unpin {
        let pieces: Vec<_> = bytes
            .chunks(size)
            .map(|c| Ok(Bytes::copy_from_slice(c)))
            .collect();
        tokio_util::io::StreamReader::new(futures::stream::iter::<Vec<io::Result<_>>>(pieces))
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_not_kept() {
        let long = message(MESSAGE_LIMIT + 1);
        let short = message(9);
        let all = [&long[..], &short[..]].concat();
        let mut reader = MessageReader::new(&all[..]);
        let read = reader.next().await.unwrap();
        assert_eq!(read, Incoming::TooLong(long[..KEPT].to_vec().into()));
        let read = reader.next().await.unwrap();
        assert_eq!(read, Incoming::Message(short.into()));
        assert!(reader.buffer.capacity() < 4 * READ);
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_connection() {
        for bytes in [&b"{\"id\":1}"[..], b"\xd8\x19", b"\xbf"] {
            let error = MessageReader::new(bytes).next().await.unwrap_err();
            assert!(matches!(error, ConnectionError::Malformed(_)), "{error}");
        }
    }

    #[tokio::test]
    async fn messages_are_written_in_order_and_whole() {
        let (ours, theirs) = tokio::io::duplex(100);
        let (sender, queue) = mpsc::unbounded_channel();
        let messages = [1, 5000, 20_000, 0, 15_000, 15_000].map(message);
        for sent in &messages {
            sender.send(sent.clone()).unwrap();
        }
        drop(sender);
        let mut reader = MessageReader::new(theirs);
        let reading = async {
            for expected in &messages {
                let read = reader.next().await.unwrap();
                assert_eq!(read, Incoming::Message(expected.clone().into()));
            }
        };
        let (written, ()) = tokio::join!(write(ours, queue), reading);
        written.unwrap();
    }
}
