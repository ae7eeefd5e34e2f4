//! Image tars: unpacked and checked on their way to the daemon, so that none of them does more
//! than to add an image.
//!
//! A tar can name images (the daemon would move existing tags), hold links and paths that lead
//! elsewhere, and unpack to far more than it is. What leaves here has one manifest without tags,
//! plain files only, and a bounded size.

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

/// Entries of a tar at most: an image has some hundred layers at most, each of three entries.
const MAX_ENTRIES: usize = 2048;

/// Bytes of a manifest at most; it names a file per layer.
const MAX_MANIFEST: u64 = 1 << 20;

/// What the daemon is handed at once.
const CHUNK: usize = 256 * 1024;

/// The standard alphabet; encoders differ in whether they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What would name images, beside the manifest's own tags.
const NAMING: [&str; 3] = ["repositories", "index.json", "oci-layout"];

/// Why a tar is no image. Its text is for the caller.
#[derive(Debug, thiserror::Error)]
pub(super) enum TarError {
    /// It says so itself.
    #[error("The image tar {0}")]
    Refused(String),
    /// It is no base64, no tar, or cut off.
    #[error("The executable is neither an image reference nor an image tar in base64: {0}")]
    Unreadable(#[from] io::Error),
    /// Nobody wants it any more.
    #[error("The daemon broke off")]
    BrokenOff,
}

fn refused(what: impl Into<String>) -> TarError {
    TarError::Refused(what.into())
}

/// Reads an image tar, plain or gzip, from base64 text; passes it on to the daemon in pieces.
/// Blocks.
pub(super) fn check(
    text: &str,
    limit: u64,
    pieces: mpsc::Sender<io::Result<Bytes>>,
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
    let mut out = Builder::new(Pieces {
        pieces,
        gathered: Vec::with_capacity(CHUNK),
    });
    let copied = copy(&mut archive, &mut out, limit).and_then(|()| {
        out.finish()?;
        out.get_mut().flush().map_err(TarError::from)
    });
    if budget.is_spent() {
        return Err(refused(format!("has more than {limit} bytes")));
    }
    if out.get_ref().pieces.is_closed() && copied.is_err() {
        return Err(TarError::BrokenOff);
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
        if NAMING.contains(&path.as_str()) {
            continue;
        }
        let mut header = entry.header().clone();
        if path == "manifest.json" {
            manifests += 1;
            let manifest = without_tags(&mut entry)?;
            header.set_size(manifest.len() as u64);
            out.append_data(&mut header, &path, manifest.as_slice())?;
        } else if entry.header().entry_type() == EntryType::Directory {
            // Whatever size it claims: what follows would be taken for its content.
            header.set_size(0);
            out.append_data(&mut header, &path, io::empty())?;
        } else {
            expanded += copy_file(&mut entry, header, &path, out, limit - expanded)?;
        }
    }
    match manifests {
        1 => Ok(()),
        0 => Err(refused("has no manifest.json; make it with `docker save`")),
        _ => Err(refused("has several manifests")),
    }
}

/// The entry's path, if it is a file or folder that stays within.
fn checked_path<R: Read>(entry: &Entry<'_, R>) -> Result<String, TarError> {
    let bytes = entry.path_bytes();
    let path = std::str::from_utf8(&bytes)
        .map_err(|_| refused("has a path that is not UTF-8"))?
        .trim_start_matches("./");
    let shown = path.get(..100).unwrap_or(path);
    let kind = entry.header().entry_type();
    if !matches!(kind, EntryType::Regular | EntryType::Directory) {
        return Err(refused(format!(
            "has an entry that is no plain file: {shown:?}"
        )));
    }
    let inside = |part: Component<'_>| matches!(part, Component::Normal(_));
    if path.is_empty() && kind == EntryType::Directory {
        return Ok("./".to_owned());
    }
    if path.is_empty() || !Path::new(path).components().all(inside) {
        return Err(refused(format!(
            "has a path that leads out of it: {shown:?}"
        )));
    }
    Ok(path.to_owned())
}

/// The manifest of the one image, without the names that it would get.
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
            "holds {} images; it must be one",
            manifest.len()
        )));
    };
    image.remove("RepoTags");
    // A map of JSON values is always JSON again.
    serde_json::to_vec(&manifest).map_err(|error| refused(error.to_string()))
}

/// Copies a file; gives how many bytes it would take on the daemon's disk.
fn copy_file<R: Read, W: Write>(
    entry: &mut Entry<'_, R>,
    mut header: Header,
    path: &str,
    out: &mut Builder<W>,
    limit: u64,
) -> Result<u64, TarError> {
    let mut meter = Meter {
        inner: entry,
        layer: Layer::Unknown,
        limit,
    };
    let appended = out.append_data(&mut header, path, &mut meter);
    if let Layer::Refused(reason) = meter.layer {
        return Err(refused(format!("has a layer that {reason}: {path:?}")));
    }
    appended?;
    match meter.layer {
        Layer::Gzip(expander) => Ok(expander.get_ref().bytes),
        _ => Ok(0),
    }
}

fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b])
}

/// How a file within the tar is packed: the daemon unpacks layers by what they begin with.
enum Layer {
    Unknown,
    Plain,
    Gzip(Box<Expander<Counter>>),
    Refused(&'static str),
}

impl Layer {
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

/// Counts what is written.
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

/// Reads a file and watches what it expands to.
struct Meter<R> {
    inner: R,
    layer: Layer,
    limit: u64,
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let piece = &buffer[..read];
        if matches!(self.layer, Layer::Unknown) && read > 0 {
            self.layer = Layer::of(piece);
        }
        if let Layer::Gzip(expander) = &mut self.layer {
            if expander.write_all(piece).is_err() {
                self.layer = Layer::Refused("is damaged");
            } else if expander.get_ref().bytes > self.limit {
                self.layer = Layer::Refused("unpacks to more than is allowed");
            }
        }
        match self.layer {
            Layer::Refused(reason) => Err(io::Error::other(reason)),
            _ => Ok(read),
        }
    }
}

/// How many bytes may still come out of a tar.
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

/// Gathers what is written and sends it on in pieces.
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    gathered: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.gathered, Vec::with_capacity(CHUNK));
        let sent = self.pieces.blocking_send(Ok(piece.into()));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests;
