//! Finds Chromium's program.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::LaunchError;

/// Where distributions install Chromium. Only the program itself is listed: the wrappers in
/// `/usr/bin` are shell scripts that start Chromium as a child, which would outlive them.
const PATHS: [&str; 7] = [
    "/usr/lib/chromium/chromium-headless-shell",
    "/usr/lib/chromium/chromium",
    "/usr/lib/chromium-browser/chromium-browser",
    "/usr/lib64/chromium-browser/headless_shell",
    "/usr/lib64/chromium-browser/chromium-browser",
    "/headless-shell/headless-shell",
    "/opt/google/chrome/chrome",
];

/// Finds Chromium's program: the configured one, or else the first known path that exists.
pub fn find(configured: Option<&Path>) -> Result<PathBuf, LaunchError> {
    let found = match configured {
        Some(path) => Some(path).filter(|path| path.is_file()),
        None => PATHS.iter().map(Path::new).find(|path| path.is_file()),
    };
    let Some(path) = found else {
        let tried = configured.map_or_else(|| PATHS.join(", "), |p| p.display().to_string());
        return Err(LaunchError::NotFound { tried });
    };
    let mut start = [0; 2];
    if File::open(path)
        .and_then(|mut file| file.read_exact(&mut start))
        .is_ok()
        && start == *b"#!"
    {
        return Err(LaunchError::Script(path.to_owned()));
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_and_a_missing_program_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("chromium");
        std::fs::write(&script, "#!/bin/sh\nchromium-real\n").unwrap();
        assert!(matches!(find(Some(&script)), Err(LaunchError::Script(path)) if path == script));
        let missing = folder.path().join("missing");
        assert!(matches!(
            find(Some(&missing)),
            Err(LaunchError::NotFound { .. })
        ));
    }
}
