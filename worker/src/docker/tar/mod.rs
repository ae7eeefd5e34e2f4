//! Checks image tars on their way to the daemon, so that a tar can only add one image, within a
//! limit for what it takes on disk.
//!
//! A tar can name images, and the daemon would then move existing tags. It can contain links and
//! paths that lead out of the archive. It can expand to far more than its own size. The output of
//! this module is written anew: one manifest without tags, plain files only, and a bounded size.
//!
//! - `stream`: reading within limits, and sending to the daemon.
//! - `manifest`: which files are loaded, and how often; `oci`: the same of an OCI archive.
//! - `links`: what links among the entries stand for.
//! - `content`: one file, compressed or not; `layer`, `header`, `pax`: what it takes on disk when
//!   the daemon unpacks it.

mod content;
mod header;
mod layer;
mod links;
mod manifest;
mod oci;
mod pax;
mod stream;

use std::io::{self, Read, Write};
use std::path::{Component, Path};

use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::read::DecoderReader;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use tar::{Archive, Builder, Entry, EntryType, Header};
use tokio::sync::mpsc;

use self::content::{Content, Metered};
use self::links::Links;
use self::manifest::{File, Files, Manifest};
use self::oci::Notes;
use self::stream::{Bounded, Budget, ChunkWriter, Exceeded};

/// The maximum number of entries in a tar. An image has at most some hundred layers, with three
/// entries each.
const MAX_ENTRIES: usize = 2048;

/// The maximum size of a manifest in bytes. It names one file per layer.
const MAX_MANIFEST: u64 = 1 << 20;

/// The maximum size of one entry's headers in bytes, which are read as a whole.
const MAX_HEADER: u64 = 1 << 20;

/// The maximum length of a path in bytes and in parts: each part can create a folder. `docker save`
/// writes paths of three parts at most.
const MAX_PATH: usize = 255;
const MAX_PARTS: usize = 8;

/// The size of the chunks that are sent to the daemon, in bytes.
const CHUNK: usize = 256 * 1024;

/// The standard alphabet. Padding is optional, because not every encoder adds it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The file that says which others are loaded.
const MANIFEST: &str = "manifest.json";

/// The files that can name images, besides the manifest's own tags. They are not passed on.
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
/// Blocks the thread. `limit` is for the tar's own bytes, and again for what its layers take on
/// disk.
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
    let mut out = Builder::new(ChunkWriter::new(chunks));
    let copied = copy(&mut archive, &budget, &mut out, limit).and_then(|()| {
        out.finish()?;
        out.get_mut().flush().map_err(TarError::from)
    });
    match budget.exceeded() {
        Some(Exceeded::Tar) => Err(refused(format!("has more than {limit} bytes"))),
        Some(Exceeded::Header) => Err(refused(format!(
            "has an entry with headers of more than {MAX_HEADER} bytes"
        ))),
        None if out.get_ref().is_closed() && copied.is_err() => Err(TarError::DaemonStopped),
        None => copied,
    }
}

fn copy<R: Read, W: Write>(
    archive: &mut Archive<R>,
    budget: &Budget,
    out: &mut Builder<W>,
    limit: u64,
) -> Result<(), TarError> {
    let mut found = Found::default();
    let mut left = limit;
    let mut entries = archive.entries()?;
    for count in 0.. {
        budget.begin_header(MAX_HEADER);
        let Some(entry) = entries.next() else { break };
        budget.begin_content();
        if count == MAX_ENTRIES {
            return Err(refused(format!("has more than {MAX_ENTRIES} entries")));
        }
        let mut entry = entry?;
        found.take(&mut entry, out, &mut left)?;
        // What is left of it must not count as a header.
        io::copy(&mut entry, &mut io::sink())?;
    }
    let text = found.manifest(limit)?;
    let size = text.len();
    append(out, MANIFEST, EntryType::Regular, size, text.as_slice())?;
    Ok(())
}

/// What the entries of a tar have shown so far.
#[derive(Debug, Default)]
struct Found {
    manifest: Option<Manifest>,
    files: Files,
    links: Links,
    notes: Notes,
}

impl Found {
    /// Takes the next entry, and passes it on if it is a folder or a file. `left` is what the
    /// layers may still take on disk.
    fn take<R: Read, W: Write>(
        &mut self,
        entry: &mut Entry<'_, R>,
        out: &mut Builder<W>,
        left: &mut u64,
    ) -> Result<(), TarError> {
        let kind = entry.header().entry_type();
        let path = checked_path(entry)?;
        if kind == EntryType::Directory {
            // With another size in its header, the daemon would read the next entries as its
            // content.
            append(out, &path, EntryType::Directory, 0, io::empty())?;
            return Ok(());
        }
        if self.files.contains_key(&path) || self.links.has(&path) {
            return Err(refused(format!("has two files {path:?}")));
        }
        if Links::is_link(kind) {
            return self.links.add(entry, &path);
        }
        if path == MANIFEST {
            let read = read_manifest(entry)?;
            if self.manifest.replace(read).is_some() {
                return Err(refused("has several manifests"));
            }
            return Ok(());
        }
        let is_naming = NAMING_FILES.contains(&path.as_str());
        let file = if Notes::wants(&path, entry.size()) {
            let mut text = Vec::new();
            entry.read_to_end(&mut text)?;
            self.notes.keep(&path, &text);
            if is_naming {
                return Ok(());
            }
            copy_file(text.as_slice(), entry.size(), &path, out, *left)?
        } else if is_naming {
            return Ok(());
        } else {
            let size = entry.size();
            copy_file(entry, size, &path, out, *left)?
        };
        *left = left.saturating_sub(file.unpacked.unwrap_or(file.size));
        self.files.insert(path, file);
        Ok(())
    }

    /// The text of the manifest, once every entry was taken. The daemon reads it last.
    fn manifest(self, limit: u64) -> Result<Vec<u8>, TarError> {
        let manifest = match self.manifest {
            Some(manifest) => Some(manifest),
            None => self.notes.manifest()?,
        };
        let mut manifest = manifest.ok_or_else(|| {
            refused(
                "has no manifest.json and no index.json; create the tar with `docker save`, \
                 `podman save` or `skopeo copy ... docker-archive:FILE`",
            )
        })?;
        manifest.resolve(&self.links)?;
        manifest.check(&self.files, limit)?;
        manifest.text()
    }
}

/// The entry's path, if the entry is a file, a directory or a link within the archive.
fn checked_path<R: Read>(entry: &Entry<'_, R>) -> Result<String, TarError> {
    let bytes = entry.path_bytes();
    let path = std::str::from_utf8(&bytes).map_err(|_| refused("has a path that is not UTF-8"))?;
    let kind = entry.header().entry_type();
    if !matches!(kind, EntryType::Regular | EntryType::Directory) && !Links::is_link(kind) {
        return Err(refused(format!(
            "has an entry that is no plain file, directory or link: {:?}",
            shown(path)
        )));
    }
    if kind == EntryType::Directory && Path::new(path).components().eq([Component::CurDir]) {
        return Ok(".".to_owned());
    }
    inner_path(path)
}

/// The one form of a path within the archive.
fn inner_path(path: &str) -> Result<String, TarError> {
    let mut parts = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => parts.extend(part.to_str()),
            _ => return Err(leads_out(path)),
        }
    }
    if parts.is_empty() || path.contains('\0') {
        return Err(leads_out(path));
    }
    let joined = parts.join("/");
    if joined.len() > MAX_PATH || parts.len() > MAX_PARTS {
        return Err(refused(format!(
            "has a path that is too long: {:?}",
            shown(path)
        )));
    }
    Ok(joined)
}

fn leads_out(path: &str) -> TarError {
    refused(format!(
        "has a path that leads out of the archive: {:?}",
        shown(path)
    ))
}

/// The beginning of a path, for an error text.
fn shown(path: &str) -> &str {
    &path[..path.floor_char_boundary(100)]
}

/// Reads the manifest of the single image.
fn read_manifest<R: Read>(entry: &mut Entry<'_, R>) -> Result<Manifest, TarError> {
    if entry.size() > MAX_MANIFEST {
        return Err(refused("has a manifest that is too large"));
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text)?;
    Manifest::parse(&text)
}

/// Copies a file. `limit` is for what it takes on disk if it is a layer, in bytes.
fn copy_file<W: Write>(
    content: impl Read,
    size: u64,
    path: &str,
    out: &mut Builder<W>,
    limit: u64,
) -> Result<File, TarError> {
    let mut metered = Metered {
        inner: content,
        content: Content::new(limit),
        bytes: 0,
    };
    append(out, path, EntryType::Regular, size, &mut metered).map_err(|error| {
        match error.downcast::<layer::LayerError>() {
            Ok(why) => refused(format!("has a layer that {why}: {path:?}")),
            Err(error) => error.into(),
        }
    })?;
    if metered.bytes != size {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(File {
        size,
        unpacked: metered.content.finish(),
    })
}

/// Writes an entry with nothing of the header that it had.
fn append<W: Write>(
    out: &mut Builder<W>,
    path: &str,
    kind: EntryType,
    size: impl TryInto<u64>,
    content: impl Read,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory {
        0o755
    } else {
        0o644
    });
    header.set_size(size.try_into().map_err(|_| io::ErrorKind::InvalidInput)?);
    out.append_data(&mut header, path, content)
}

fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b])
}

#[cfg(test)]
mod tests;
