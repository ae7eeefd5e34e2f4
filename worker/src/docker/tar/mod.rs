//! Checks image tars on their way to the daemon, so that a tar can only add one image.
//!
//! A tar can name images, and the daemon would then move existing tags. It can contain links and
//! paths that lead out of the archive. It can expand to far more than its own size. The output of
//! this module has one manifest without tags, plain files only, and a bounded size.

use std::io::{self, Read, Write};
use std::path::{Component, Path};

use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::read::DecoderReader;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::write::MultiGzDecoder as Expander;
use serde_json::Value;
use tar::{Archive, Builder, Entry, EntryType, Header};
use tokio::sync::mpsc;

/// The maximum number of entries in a tar. An image has at most some hundred layers, with three
/// entries each.
const MAX_ENTRIES: usize = 2048;

/// The maximum size of a manifest in bytes. It names one file per layer.
const MAX_MANIFEST: u64 = 1 << 20;

/// The size of the chunks that are sent to the daemon, in bytes.
const CHUNK: usize = 256 * 1024;

/// The standard alphabet. Padding is optional, because not every encoder adds it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The files that can name images, besides the manifest's own tags.
const NAMING_FILES: [&str; 3] = ["repositories", "index.json", "oci-layout"];

/// Why a tar is refused. The caller gets this text.
#[derive(Debug, thiserror::Error)]
pub(super) enum TarError {
    /// The content of the tar is not allowed.
    #[error("The image tar {0}")]
    Refused(String),
    /// The text is not base64, or its content is not a complete tar.
    #[error("The executable is neither an image reference nor an image tar in base64: {0}")]
    Unreadable(#[from] io::Error),
    /// The daemon stopped reading.
    #[error("The Docker daemon stopped reading the image tar")]
    DaemonStopped,
}

fn refused(what: impl Into<String>) -> TarError {
    TarError::Refused(what.into())
}

/// Reads an image tar, plain or gzip, from base64 text and passes it on to the daemon in chunks.
/// Blocks the thread.
pub(super) fn check(
    text: &str,
    limit: u64,
    chunks: mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), TarError> {
    let decoded = DecoderReader::new(text.as_bytes(), &BASE64);
    let mut reader = io::BufReader::with_capacity(CHUNK, decoded);
    let compressed = is_gzip(io::BufRead::fill_buf(&mut reader)?);
    let reader: Box<dyn Read + '_> = if compressed {
        Box::new(MultiGzDecoder::new(reader))
    } else {
        Box::new(reader)
    };
    let budget = Budget::new(limit);
    let mut archive = Archive::new(Bounded {
        inner: reader,
        budget: budget.clone(),
    });
    let mut out = Builder::new(ChunkWriter {
        chunks,
        buffer: Vec::with_capacity(CHUNK),
    });
    let copied = copy(&mut archive, &mut out, limit).and_then(|()| {
        out.finish()?;
        out.get_mut().flush().map_err(TarError::from)
    });
    if budget.is_spent() {
        return Err(refused(format!("has more than {limit} bytes")));
    }
    if out.get_ref().chunks.is_closed() && copied.is_err() {
        return Err(TarError::DaemonStopped);
    }
    copied
}

fn copy<R: Read, W: Write>(
    archive: &mut Archive<R>,
    out: &mut Builder<W>,
    limit: u64,
) -> Result<(), TarError> {
    let mut manifests = 0;
    let mut expanded = 0;
    for (index, entry) in archive.entries()?.enumerate() {
        if index == MAX_ENTRIES {
            return Err(refused(format!("has more than {MAX_ENTRIES} entries")));
        }
        let mut entry = entry?;
        let path = checked_path(&entry)?;
        if NAMING_FILES.contains(&path.as_str()) {
            continue;
        }
        let mut header = entry.header().clone();
        if path == "manifest.json" {
            manifests += 1;
            let manifest = without_tags(&mut entry)?;
            header.set_size(manifest.len() as u64);
            out.append_data(&mut header, &path, manifest.as_slice())?;
        } else if entry.header().entry_type() == EntryType::Directory {
            // A directory has no content. With another size in its header, the daemon would read
            // the next entries as its content.
            header.set_size(0);
            out.append_data(&mut header, &path, io::empty())?;
        } else {
            expanded += copy_file(&mut entry, header, &path, out, limit - expanded)?;
        }
    }
    match manifests {
        1 => Ok(()),
        0 => Err(refused(
            "has no manifest.json; create the tar with `docker save`",
        )),
        _ => Err(refused("has several manifests")),
    }
}

/// The entry's path, if the entry is a file or directory within the archive.
fn checked_path<R: Read>(entry: &Entry<'_, R>) -> Result<String, TarError> {
    let bytes = entry.path_bytes();
    let path = std::str::from_utf8(&bytes)
        .map_err(|_| refused("has a path that is not UTF-8"))?
        .trim_start_matches("./");
    let shown = path.get(..100).unwrap_or(path);
    let kind = entry.header().entry_type();
    if !matches!(kind, EntryType::Regular | EntryType::Directory) {
        return Err(refused(format!(
            "has an entry that is no plain file or directory: {shown:?}"
        )));
    }
    let inside = |part: Component<'_>| matches!(part, Component::Normal(_));
    if path.is_empty() && kind == EntryType::Directory {
        return Ok("./".to_owned());
    }
    if path.is_empty() || !Path::new(path).components().all(inside) {
        return Err(refused(format!(
            "has a path that leads out of the archive: {shown:?}"
        )));
    }
    Ok(path.to_owned())
}

/// The manifest of the single image, without its tags.
fn without_tags<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, TarError> {
    if entry.size() > MAX_MANIFEST {
        return Err(refused("has a manifest that is too large"));
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text)?;
    let mut manifest: Vec<serde_json::Map<String, Value>> = serde_json::from_slice(&text)
        .map_err(|error| refused(format!("has a manifest.json that cannot be read: {error}")))?;
    let [image] = manifest.as_mut_slice() else {
        return Err(refused(format!(
            "contains {} images; it must contain exactly one",
            manifest.len()
        )));
    };
    image.remove("RepoTags");
    // Cannot fail: the map contains only JSON values.
    serde_json::to_vec(&manifest).map_err(|error| refused(error.to_string()))
}

/// Copies a file and returns the size of its expanded content, or 0 if it is not compressed.
fn copy_file<R: Read, W: Write>(
    entry: &mut Entry<'_, R>,
    mut header: Header,
    path: &str,
    out: &mut Builder<W>,
    limit: u64,
) -> Result<u64, TarError> {
    let mut meter = Meter {
        inner: entry,
        compression: Compression::Unknown,
        limit,
    };
    let appended = out.append_data(&mut header, path, &mut meter);
    if let Compression::Refused(reason) = meter.compression {
        return Err(refused(format!("has a layer that {reason}: {path:?}")));
    }
    appended?;
    match meter.compression {
        Compression::Gzip(expander) => Ok(expander.get_ref().bytes),
        _ => Ok(0),
    }
}

fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b])
}

/// How a file in the tar is compressed. The daemon detects that from the first bytes of a layer.
enum Compression {
    Unknown,
    Plain,
    Gzip(Box<Expander<Counter>>),
    Refused(&'static str),
}

impl Compression {
    fn of(start: &[u8]) -> Self {
        const OTHERS: [&[u8]; 3] = [
            b"BZh",
            &[0xfd, b'7', b'z', b'X', b'Z'],
            &[0x28, 0xb5, 0x2f, 0xfd],
        ];
        if is_gzip(start) {
            Self::Gzip(Box::new(Expander::new(Counter { bytes: 0 })))
        } else if OTHERS.iter().any(|magic| start.starts_with(magic)) {
            Self::Refused("is compressed by something other than gzip")
        } else {
            Self::Plain
        }
    }
}

/// Counts the written bytes.
struct Counter {
    bytes: u64,
}

impl Write for Counter {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.bytes += piece.len() as u64;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a file and measures the size of its expanded content.
struct Meter<R> {
    inner: R,
    compression: Compression,
    limit: u64,
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let piece = &buffer[..read];
        if matches!(self.compression, Compression::Unknown) && read > 0 {
            self.compression = Compression::of(piece);
        }
        if let Compression::Gzip(expander) = &mut self.compression {
            if expander.write_all(piece).is_err() {
                self.compression = Compression::Refused("is damaged");
            } else if expander.get_ref().bytes > self.limit {
                self.compression = Compression::Refused("unpacks to more than is allowed");
            }
        }
        match self.compression {
            Compression::Refused(reason) => Err(io::Error::other(reason)),
            _ => Ok(read),
        }
    }
}

/// The number of bytes that may still be read from a tar.
#[derive(Clone)]
struct Budget(std::rc::Rc<std::cell::Cell<Option<u64>>>);

impl Budget {
    fn new(bytes: u64) -> Self {
        Self(std::rc::Rc::new(std::cell::Cell::new(Some(bytes))))
    }

    fn is_spent(&self) -> bool {
        self.0.get().is_none()
    }

    fn take(&self, bytes: usize) -> io::Result<()> {
        self.0
            .set(self.0.get().and_then(|left| left.checked_sub(bytes as u64)));
        if self.is_spent() {
            Err(io::Error::other("too large"))
        } else {
            Ok(())
        }
    }
}

/// Reads within a budget.
struct Bounded<R> {
    inner: R,
    budget: Budget,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.budget.take(read)?;
        Ok(read)
    }
}

/// Collects written bytes and sends them on in chunks.
struct ChunkWriter {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
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

#[cfg(test)]
mod tests;
