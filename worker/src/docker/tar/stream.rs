//! The two ends of a check: reading within limits, and sending to the daemon in chunks.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::CHUNK;

/// The number of bytes that may still be read from a tar, and from one header in it.
#[derive(Debug, Clone)]
pub(super) struct Budget(Rc<Limits>);

#[derive(Debug)]
struct Limits {
    tar: Cell<u64>,
    header: Cell<u64>,
    exceeded: Cell<Option<Exceeded>>,
}

/// The limit that a tar exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exceeded {
    Tar,
    Header,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        Self(Rc::new(Limits {
            tar: Cell::new(bytes),
            header: Cell::new(u64::MAX),
            exceeded: Cell::new(None),
        }))
    }

    /// The limit that was exceeded.
    pub(super) fn exceeded(&self) -> Option<Exceeded> {
        self.0.exceeded.get()
    }

    /// From here on a header is read, of at most this number of bytes.
    pub(super) fn begin_header(&self, bytes: u64) {
        self.0.header.set(bytes);
    }

    /// From here on a content is read.
    pub(super) fn begin_content(&self) {
        self.0.header.set(u64::MAX);
    }

    fn take(&self, bytes: u64) -> io::Result<()> {
        let limits = [
            (&self.0.tar, Exceeded::Tar),
            (&self.0.header, Exceeded::Header),
        ];
        for (left, limit) in limits {
            let Some(less) = left.get().checked_sub(bytes) else {
                self.0.exceeded.set(Some(limit));
                return Err(io::Error::other("too large"));
            };
            left.set(less);
        }
        Ok(())
    }
}

/// Reads within a budget.
pub(super) struct Bounded<R> {
    pub(super) inner: R,
    pub(super) budget: Budget,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.budget.take(read as u64)?;
        Ok(read)
    }
}

/// Collects written bytes and sends them on in chunks.
pub(super) struct ChunkWriter {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl ChunkWriter {
    pub(super) fn new(chunks: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Self {
            chunks,
            buffer: Vec::with_capacity(CHUNK),
        }
    }

    /// Whether nobody receives the chunks any more.
    pub(super) fn is_closed(&self) -> bool {
        self.chunks.is_closed()
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        let sent = self.chunks.blocking_send(Ok(chunk.into()));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
