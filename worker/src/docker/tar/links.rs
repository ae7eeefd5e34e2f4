//! Links among the entries of an image tar, in whose place the daemon gets the files themselves.
//!
//! `docker save` links a layer that an image has twice; other tools link the layers of an older
//! form of the archive. A link is only a name here: nothing follows it on a disk.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path};

use tar::{Entry, EntryType};

use super::{TarError, inner_path, leads_out, refused, shown};

/// The maximum number of links that lead to one file, one after the other.
const MAX_STEPS: usize = 8;

/// The links of a tar: the path of each, and where it leads.
#[derive(Debug, Default)]
pub(super) struct Links(BTreeMap<String, String>);

impl Links {
    /// Whether an entry is a link.
    pub(super) fn is_link(kind: EntryType) -> bool {
        matches!(kind, EntryType::Symlink | EntryType::Link)
    }

    /// Notes a link. Its number is bounded by the number of entries, its length as that of a path.
    pub(super) fn add<R: Read>(
        &mut self,
        entry: &Entry<'_, R>,
        path: &str,
    ) -> Result<(), TarError> {
        let target = entry.link_name_bytes().unwrap_or_default();
        let target = std::str::from_utf8(&target)
            .map_err(|_| refused("has a link to a path that is not UTF-8"))?;
        if target.is_empty() {
            return Err(refused(format!("has a link to nothing: {:?}", shown(path))));
        }
        // A symbolic link is relative to its folder, another one to the archive.
        let is_symbolic = entry.header().entry_type() == EntryType::Symlink;
        let folder = Path::new(path).parent().filter(|_| is_symbolic);
        let target = joined(folder.unwrap_or(Path::new("")), target)?;
        if self.0.insert(path.to_owned(), target).is_some() {
            return Err(refused(format!("has two links {:?}", shown(path))));
        }
        Ok(())
    }

    /// Whether there is a link at a path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// The path that a path stands for.
    pub(super) fn resolve<'a>(&'a self, path: &'a str) -> Result<&'a str, TarError> {
        let mut at = path;
        for _ in 0..=MAX_STEPS {
            match self.0.get(at) {
                Some(target) => at = target,
                None => return Ok(at),
            }
        }
        Err(refused(format!(
            "has links that lead nowhere: {:?}",
            shown(path)
        )))
    }
}

/// A path within the archive that a folder's link leads to.
fn joined(folder: &Path, target: &str) -> Result<String, TarError> {
    let mut parts = Vec::new();
    for part in folder.components().chain(Path::new(target).components()) {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => parts.extend(part.to_str()),
            Component::ParentDir if !parts.is_empty() => {
                parts.pop();
            }
            _ => return Err(leads_out(target)),
        }
    }
    inner_path(&parts.join("/"))
}
