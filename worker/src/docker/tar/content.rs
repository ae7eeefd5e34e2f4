//! Measures a file of the tar on its way to the daemon: what it takes if it is a layer.

use std::io::{self, Read, Write};

use flate2::write::MultiGzDecoder;

use super::is_gzip;
use super::layer::{LayerError, LayerMeter};

/// How many bytes tell the compression of a layer. The daemon inspects as many.
const MAGIC: usize = 10;

/// The start of a layer whose compression the daemon may detect, besides gzip: bzip2, xz, zstd.
const OTHERS: [&[u8]; 3] = [b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"];

/// A file of the tar. It need not be a layer.
#[derive(Debug)]
pub(super) enum Content {
    /// The first bytes, which do not tell the compression yet.
    Start {
        bytes: Vec<u8>,
        limit: u64,
    },
    Plain(Box<LayerMeter>),
    Gzip(Box<MultiGzDecoder<LayerMeter>>),
    NoLayer(LayerError),
}

impl Content {
    /// `limit` is for what the file takes on disk as a layer, in bytes.
    pub(super) fn new(limit: u64) -> Self {
        Self::Start {
            bytes: Vec::with_capacity(MAGIC),
            limit,
        }
    }

    /// Receives a piece. Fails only over the limit: another file need not be a layer.
    fn receive(&mut self, mut piece: &[u8]) -> Result<(), LayerError> {
        if let Self::Start { bytes, limit } = self {
            let taken = piece.len().min(MAGIC - bytes.len());
            bytes.extend_from_slice(&piece[..taken]);
            piece = &piece[taken..];
            if bytes.len() < MAGIC {
                return Ok(());
            }
            let (bytes, limit) = (std::mem::take(bytes), *limit);
            *self = Self::detect(&bytes, limit);
            self.expand(&bytes)?;
        }
        self.expand(piece)
    }

    fn detect(start: &[u8], limit: u64) -> Self {
        let meter = LayerMeter::new(limit);
        if is_gzip(start) {
            Self::Gzip(Box::new(MultiGzDecoder::new(meter)))
        } else if OTHERS.iter().any(|magic| start.starts_with(magic)) || is_zstd_frame(start) {
            Self::NoLayer(LayerError::Compressed)
        } else {
            Self::Plain(Box::new(meter))
        }
    }

    fn expand(&mut self, piece: &[u8]) -> Result<(), LayerError> {
        let error = match self {
            Self::Plain(meter) => meter.write_all(piece).err().and(meter.error()),
            Self::Gzip(expander) => {
                let failed = expander.write_all(piece).is_err();
                failed.then(|| expander.get_ref().error().unwrap_or(LayerError::Damaged))
            }
            Self::Start { .. } | Self::NoLayer(_) => None,
        };
        match error {
            Some(LayerError::TooLarge) => Err(LayerError::TooLarge),
            Some(error) => {
                *self = Self::NoLayer(error);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// What the whole file takes on disk as a layer, in bytes.
    pub(super) fn finish(self) -> Result<u64, LayerError> {
        match self {
            Self::Start { bytes, .. } if bytes.is_empty() => Ok(0),
            Self::Start { .. } => Err(LayerError::Damaged),
            Self::Plain(meter) => meter.finish(),
            Self::Gzip(mut expander) => {
                // Only now does the meter get the rest.
                let ended = expander.try_finish();
                let meter = expander.get_ref();
                match ended {
                    Ok(()) => meter.finish(),
                    Err(_) => Err(meter.error().unwrap_or(LayerError::Damaged)),
                }
            }
            Self::NoLayer(error) => Err(error),
        }
    }
}

/// Whether zstd would skip the start, whatever it is.
fn is_zstd_frame(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Reads a file and measures it.
#[derive(Debug)]
pub(super) struct Metered<R> {
    pub(super) inner: R,
    pub(super) content: Content,
    /// The bytes that were read.
    pub(super) bytes: u64,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        let received = self.content.receive(&buffer[..read]);
        received.map_err(io::Error::other).map(|()| read)
    }
}
