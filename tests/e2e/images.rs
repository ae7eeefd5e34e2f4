//! What the build of the images gets of this repository. `make test-compose` builds them for real.

use std::path::{Path, PathBuf};

/// Without the manifest of a member of the workspace cargo builds nothing.
#[test]
fn the_image_build_gets_every_member_of_the_workspace() {
    let members = members();
    assert!(members.len() > 3, "{members:?}");
    let rules = read(".dockerignore");
    for member in members {
        for file in ["Cargo.toml", "src/lib.rs", "lib.rs"] {
            let path = format!("{member}/{file}");
            if root().join(&path).exists() {
                assert!(!is_ignored(&rules, &path), "{path} is in .dockerignore");
            }
        }
    }
}

/// The members that the manifest of the workspace lists.
fn members() -> Vec<String> {
    let manifest = read("Cargo.toml");
    let lines = manifest.lines().map(|line| line.strip_prefix("members = "));
    let list = lines.flatten().next().expect("the workspace has members");
    serde_json::from_str(list).expect("a list of strings on one line")
}

/// As Docker decides it: the last rule that matches the path or a folder of it.
fn is_ignored(rules: &str, path: &str) -> bool {
    let mut ignored = false;
    for rule in rules.lines().map(str::trim) {
        let exception = rule.strip_prefix('!');
        let pattern = exception.unwrap_or(rule);
        let folders = Path::new(path).ancestors();
        let mut names = folders
            .filter_map(Path::to_str)
            .filter(|name| !name.is_empty());
        if names.any(|name| matches(pattern, name)) {
            ignored = exception.is_none();
        }
    }
    ignored
}

/// Patterns are compared part by part. A part may be `*` or `*.EXTENSION`, the first one `**`.
fn matches(pattern: &str, path: &str) -> bool {
    if let Some(rest) = pattern.strip_prefix("**/") {
        return path
            .rsplit('/')
            .next()
            .is_some_and(|name| part_matches(rest, name));
    }
    let (patterns, parts) = (pattern.split('/'), path.split('/'));
    patterns.clone().count() == parts.clone().count()
        && patterns
            .zip(parts)
            .all(|(pattern, part)| part_matches(pattern, part))
}

fn part_matches(pattern: &str, part: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => part.starts_with(start) && part.ends_with(end),
        None => pattern == part,
    }
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).expect("the file can be read")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
