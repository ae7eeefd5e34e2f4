//! Measures what the daemon writes to the disk when it unpacks a layer.
//!
//! A layer can take far more on disk than it has bytes: a sparse file is written with its zeros,
//! and each name can create folders. The daemon checks the digest of a layer, so a layer can only
//! be passed on as it is. Therefore this module reads it exactly as the daemon does, with Go's
//! `archive/tar`, and refuses what that and other readers understand differently.

use std::io::{self, Write};

use super::header::{BLOCK, Header, Kind, is_zero};
use super::pax::Records;

/// What each started block of a content takes on disk, and each folder, link and empty file, in
/// bytes: a block of the usual file systems.
const DISK_BLOCK: u64 = 4096;

/// The maximum size of an extended header in bytes, as in Go.
const MAX_EXTENSION: u64 = 1 << 20;

/// Links to files in this folder are unpacked as copies by the drivers of some daemons.
const COPIED_LINKS: &[u8] = b".wh..wh.plnk";

/// Why a file is not a layer that the daemon may get. The caller gets this text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LayerError {
    #[error("unpacks to more than is allowed")]
    TooLarge,
    #[error("is compressed by something other than gzip")]
    Compressed,
    #[error("is damaged")]
    Damaged,
    #[error("has an extended header of more than 1 MiB")]
    LongHeader,
    #[error("has an entry that programs understand differently")]
    Ambiguous,
    #[error("has links in the manner of AUFS")]
    CopiedLinks,
}

/// What the next block of a layer is.
#[derive(Debug)]
enum Next {
    Header,
    /// A block of an extended header.
    Extension {
        kind: Kind,
        size: usize,
        body: Vec<u8>,
    },
    /// A further block of the map of a GNU sparse file. A content of `content` bytes follows.
    SparseMap {
        content: u64,
    },
    /// The archive has ended; what follows is ignored.
    Nothing,
}

/// The extended headers of the next file.
#[derive(Debug, Default)]
struct Extensions {
    records: Option<Records>,
    /// A GNU long name.
    name: Option<Vec<u8>>,
    /// Whether there is a GNU long link.
    has_link: bool,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.records.is_none() && self.name.is_none() && !self.has_link
    }
}

/// Receives an expanded layer in pieces of any size.
#[derive(Debug)]
pub(super) struct LayerMeter {
    /// The maximum of [`LayerMeter::bytes`].
    limit: u64,
    /// The bytes received, and what the entries take beyond them.
    bytes: u64,
    block: [u8; BLOCK],
    filled: usize,
    /// The number of bytes to skip before the next block.
    skip: u64,
    next: Next,
    extensions: Extensions,
    /// The name of the entry before.
    previous: Vec<u8>,
    error: Option<LayerError>,
}

impl LayerMeter {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            bytes: 0,
            block: [0; BLOCK],
            filled: 0,
            skip: 0,
            next: Next::Header,
            extensions: Extensions::default(),
            previous: Vec::new(),
            error: None,
        }
    }

    /// Why the layer was refused so far.
    pub(super) fn error(&self) -> Option<LayerError> {
        self.error
    }

    /// What the layer takes on disk, in bytes. Call it after the last piece.
    pub(super) fn finish(&self) -> Result<u64, LayerError> {
        match (&self.error, &self.next) {
            (Some(error), _) => Err(*error),
            (None, Next::Nothing) => Ok(self.bytes),
            // The end of the archive is not marked in every tar.
            (None, Next::Header)
                if self.skip == 0 && self.filled == 0 && self.extensions.is_empty() =>
            {
                Ok(self.bytes)
            }
            _ => Err(LayerError::Damaged),
        }
    }

    fn receive(&mut self, mut piece: &[u8]) -> Result<(), LayerError> {
        self.charge(piece.len() as u64)?;
        while !piece.is_empty() && !matches!(self.next, Next::Nothing) {
            let skipped = piece
                .len()
                .min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            if skipped > 0 {
                self.skip -= skipped as u64;
                piece = &piece[skipped..];
                continue;
            }
            let taken = piece.len().min(BLOCK - self.filled);
            self.block[self.filled..self.filled + taken].copy_from_slice(&piece[..taken]);
            self.filled += taken;
            piece = &piece[taken..];
            if self.filled == BLOCK {
                self.filled = 0;
                self.read_block()?;
            }
        }
        Ok(())
    }

    fn charge(&mut self, bytes: u64) -> Result<(), LayerError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limit {
            Err(LayerError::TooLarge)
        } else {
            Ok(())
        }
    }

    fn read_block(&mut self) -> Result<(), LayerError> {
        let block = self.block;
        match std::mem::replace(&mut self.next, Next::Header) {
            // Go ends here, or fails if another header follows.
            Next::Header if is_zero(&block) => self.next = Next::Nothing,
            Next::Header => self.read_header(&block)?,
            Next::Extension {
                kind,
                size,
                mut body,
            } => {
                body.extend_from_slice(&block[..BLOCK.min(size - body.len())]);
                if body.len() < size {
                    self.next = Next::Extension { kind, size, body };
                } else {
                    self.read_extension(kind, &body)?;
                }
            }
            Next::SparseMap { content } => {
                // Go reads on as long as a block says that another one follows.
                if block[504] == 0 {
                    self.skip = padded(content);
                } else {
                    self.next = Next::SparseMap { content };
                }
            }
            Next::Nothing => {}
        }
        Ok(())
    }

    fn read_header(&mut self, block: &[u8; BLOCK]) -> Result<(), LayerError> {
        let header = Header::parse(block).ok_or(LayerError::Damaged)?;
        match header.kind {
            Kind::Pax | Kind::LongName | Kind::LongLink => {
                let size = usize::try_from(header.size).unwrap_or(usize::MAX);
                if header.size > MAX_EXTENSION {
                    return Err(LayerError::LongHeader);
                }
                if size == 0 {
                    return self.read_extension(header.kind, &[]);
                }
                self.next = Next::Extension {
                    kind: header.kind,
                    size,
                    body: Vec::with_capacity(size),
                };
                Ok(())
            }
            // Go ignores its content, and with it the extended headers before it.
            Kind::GlobalPax if header.size > MAX_EXTENSION => Err(LayerError::LongHeader),
            Kind::GlobalPax if self.extensions.is_empty() => {
                self.skip = padded(header.size);
                Ok(())
            }
            Kind::GlobalPax => Err(LayerError::Ambiguous),
            _ => self.read_entry(&header),
        }
    }

    fn read_extension(&mut self, kind: Kind, body: &[u8]) -> Result<(), LayerError> {
        let Extensions {
            records,
            name,
            has_link,
        } = &mut self.extensions;
        if kind != Kind::LongName && contains(body, COPIED_LINKS) {
            return Err(LayerError::CopiedLinks);
        }
        let repeated = match kind {
            Kind::Pax => {
                let read = Records::parse(body).ok_or(LayerError::Damaged)?;
                records.replace(read).is_some()
            }
            Kind::LongName => name.replace(until_nul(body).to_vec()).is_some(),
            _ => std::mem::replace(has_link, true),
        };
        if repeated {
            return Err(LayerError::Ambiguous);
        }
        Ok(())
    }

    /// Charges an entry for what it takes on disk beyond its bytes in the tar.
    fn read_entry(&mut self, header: &Header) -> Result<(), LayerError> {
        let extensions = std::mem::take(&mut self.extensions);
        let records = extensions.records.unwrap_or_default();
        if contains(&header.link, COPIED_LINKS) {
            return Err(LayerError::CopiedLinks);
        }
        let long = extensions.name.filter(|name| !name.is_empty());
        let name = long.or(records.path).unwrap_or_else(|| header.name());
        let size = records.size.unwrap_or(header.size);
        let content = match header.kind {
            Kind::NoContent => 0,
            // Go takes it for a folder, which has no content; others for a file.
            Kind::OldFile if name.ends_with(b"/") && size > 0 => {
                return Err(LayerError::Ambiguous);
            }
            _ => size,
        };
        let sparse = records.sparse_size.max(header.sparse_size());
        let written = sparse.unwrap_or(0).max(content);
        let blocks = written.checked_next_multiple_of(DISK_BLOCK);
        self.charge(blocks.unwrap_or(u64::MAX) - content)?;
        let names = self.new_names(records.sparse_name.unwrap_or(name));
        // The blocks of a content are charged already.
        let names = names.saturating_sub(u64::from(written > 0));
        self.charge(names.saturating_mul(DISK_BLOCK))?;
        if header.has_more_sparse() {
            self.next = Next::SparseMap { content };
        } else {
            self.skip = padded(content);
        }
        Ok(())
    }

    /// How many files and folders this name may create. Folders that the entry before is in exist.
    fn new_names(&mut self, name: Vec<u8>) -> u64 {
        let previous = std::mem::replace(&mut self.previous, name);
        let mut before = parts(&previous);
        let new = parts(&self.previous).skip_while(|part| before.next() == Some(*part));
        new.count() as u64
    }
}

impl Write for LayerMeter {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.error.is_none() {
            self.error = self.receive(piece).err();
        }
        match self.error {
            Some(error) => Err(io::Error::other(error)),
            None => Ok(piece.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The parts of a name between slashes.
fn parts(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let parts = name.split(|byte| *byte == b'/');
    parts.filter(|part| !part.is_empty() && *part != b".")
}

fn padded(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK as u64)
        .unwrap_or(u64::MAX)
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0);
    &bytes[..end.unwrap_or(bytes.len())]
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
pub(super) mod tests;
