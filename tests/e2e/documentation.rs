//! The documents for readers of this repository: links lead somewhere, the codemap is complete,
//! README is short. No farm is needed.

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// README is read to the end only while it is short.
const README_LINES: usize = 150;

#[test]
fn readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines");
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut broken = Vec::new();
    for document in tracked_files() {
        if Path::new(&document)
            .extension()
            .is_none_or(|extension| extension != "md")
        {
            continue;
        }
        let folder = Path::new(&document).parent().expect("a file has a folder");
        for target in links(&read(&document)) {
            let (path, anchor) = target.split_once('#').unwrap_or((target.as_str(), ""));
            let file = if path.is_empty() {
                document.clone()
            } else {
                normal(&folder.join(path))
            };
            let leads_somewhere = root().join(&file).exists()
                && (anchor.is_empty() || anchors(&read(&file)).contains(anchor));
            if !leads_somewhere {
                broken.push(format!("{document}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// A folder is opened by the codemap when something beneath it is named. All that an opened folder
/// contains must be named too, so that a new file cannot be forgotten.
#[test]
fn the_codemap_names_what_exists() {
    let Codemap { named, mentioned } = codemap();
    assert!(
        named.len() > 100 && mentioned.len() > 10,
        "{named:?} {mentioned:?}"
    );
    let files = tracked_files();
    let existing: BTreeSet<String> = files.iter().flat_map(|file| ancestors(file)).collect();
    let missing: Vec<_> = named
        .union(&mentioned)
        .filter(|&path| !existing.contains(path))
        .collect();

    let opened: BTreeSet<_> = named.iter().map(|path| parent(path)).collect();
    let unnamed: Vec<_> = existing
        .difference(&named)
        .filter(|path| opened.contains(&parent(path)) && !opened.contains(*path))
        .collect();
    assert!(
        missing.is_empty() && unnamed.is_empty(),
        "named, but not there: {missing:#?}\nthere, but not named: {unnamed:#?}"
    );
}

/// The paths of the codemap, from the root.
#[derive(Default)]
struct Codemap {
    /// The first column of the tables of files, below the folder that the table's heading names.
    named: BTreeSet<String>,
    /// The second column of the other tables.
    mentioned: BTreeSet<String>,
}

fn codemap() -> Codemap {
    let text = read("ARCHITECTURE.md");
    let (_, rest) = text.split_once("\n## Codemap\n").expect("a codemap");
    let section = rest.split("\n## ").next().unwrap_or_default();
    let mut folder = None;
    let mut codemap = Codemap::default();
    for line in section.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            folder = in_backticks(heading).next();
        } else if let Some(row) = line.strip_prefix('|') {
            let mut cells = row.split('|');
            if let Some(folder) = folder {
                let cell = cells.next().unwrap_or_default();
                let paths = in_backticks(cell).flat_map(expand_braces);
                let paths = paths.map(|path| normal(&Path::new(folder).join(path)));
                codemap.named.extend(paths);
            } else {
                let words = in_backticks(cells.nth(1).unwrap_or_default());
                let paths = words.filter(|word| word.contains('/'));
                codemap
                    .mentioned
                    .extend(paths.map(|path| normal(Path::new(path))));
            }
        }
    }
    codemap
}

/// `a/{b,c}.rs` is `a/b.rs` and `a/c.rs`.
fn expand_braces(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else {
        return vec![path.to_owned()];
    };
    let (choices, after) = rest.split_once('}').expect("a brace is closed");
    choices
        .split(',')
        .map(|choice| format!("{before}{choice}{after}"))
        .collect()
}

/// A path and the folders that it is in.
fn ancestors(path: &str) -> Vec<String> {
    let paths = Path::new(path).ancestors().map(normal);
    paths.filter(|path| !path.is_empty()).collect()
}

fn parent(path: &str) -> String {
    Path::new(path).parent().map(normal).unwrap_or_default()
}

/// The path with `/`, without `.`, `..` and a trailing `/`.
fn normal(path: &Path) -> String {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(name) => parts.push(name.to_string_lossy()),
            _ => {}
        }
    }
    parts.join("/")
}

/// The targets of a document's links to files and headings of this repository.
fn links(document: &str) -> Vec<String> {
    let text = without_code(document);
    let targets = text.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next()?;
        let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
        (!is_elsewhere).then(|| target.to_owned())
    });
    targets.collect()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(document: &str) -> BTreeSet<String> {
    let mut seen = HashMap::new();
    let mut anchors = BTreeSet::new();
    for line in without_fences(document).lines() {
        let text = line.trim_start_matches('#');
        if text.len() == line.len() || !text.starts_with(' ') {
            continue;
        }
        let anchor = slug(text.trim());
        let count = seen.entry(anchor.clone()).or_insert(0_u32);
        anchors.insert(if *count == 0 {
            anchor
        } else {
            format!("{anchor}-{count}")
        });
        *count += 1;
    }
    anchors
}

/// Lower case; letters, digits, `-` and `_` stay, a space becomes `-`, all else goes.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    kept.collect::<String>().to_lowercase()
}

/// The texts between backticks.
fn in_backticks(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The document without blocks of code.
fn without_fences(document: &str) -> String {
    let mut is_code = false;
    let mut kept = String::new();
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The document without blocks of code, and without code within its lines.
fn without_code(document: &str) -> String {
    without_fences(document).split('`').step_by(2).collect()
}

/// The files that git knows, so that what a build or an editor leaves here does not count.
fn tracked_files() -> Vec<String> {
    let listing = Command::new("git")
        // The checkout may belong to another user.
        .args(["-c", "safe.directory=*", "ls-files"])
        .current_dir(root())
        .output()
        .expect("git can be started");
    assert!(listing.status.success(), "git ls-files: {listing:?}");
    let paths = String::from_utf8(listing.stdout).expect("paths are UTF-8");
    let files = paths.lines().map(str::to_owned);
    // A file that was just moved is still listed where it was.
    files.filter(|file| root().join(file).exists()).collect()
}

fn read(file: &str) -> String {
    let path = root().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
