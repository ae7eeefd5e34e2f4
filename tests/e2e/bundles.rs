//! Real libraries and compilers: what bundlers make of them gives in a page what it gives in
//! Node.js. `tests/bundles` has the sources; the libraries come from npm.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::support::farm::Farm;

/// Runs a program in the folder of the bundles; returns what it prints.
async fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(folder).output().await;
    let output = output
        .unwrap_or_else(|error| panic!("{program}: {error}; `scripts/setup --tools` installs it"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).expect("it prints text")
}

/// The folder of the bundles, once for all tests.
async fn installed() -> &'static Path {
    static FOLDER: OnceCell<PathBuf> = OnceCell::const_new();
    FOLDER.get_or_init(install).await
}

/// A copy of the sources with the libraries. They are installed again only when they have changed.
async fn install() -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bundles");
    std::fs::create_dir_all(&folder).expect("the folder of a build is writable");
    let lock = |folder: &Path| std::fs::read(folder.join("package-lock.json")).unwrap_or_default();
    let is_current = lock(&folder) == lock(&sources) && folder.join("node_modules").exists();
    let (from, to) = (sources.display(), folder.display());
    run(
        &folder,
        "cp",
        &["-r", &format!("{from}/."), &to.to_string()],
    )
    .await;
    if !is_current {
        let arguments = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
        run(&folder, "npm", &arguments).await;
    }
    folder
}

#[tokio::test]
async fn bundles_of_real_libraries_give_what_node_gives() {
    let folder = installed().await;
    let printed = run(folder, "node", &["build.mjs", "out"]).await;
    let farm = Farm::start().await;
    let mut count = 0;
    for line in printed.lines() {
        let (name, expected) = line.split_once(' ').expect("a name and a result");
        let expected: Value = serde_json::from_str(expected).expect("the result is JSON");
        let executable = std::fs::read_to_string(folder.join(format!("out/{name}.js")));
        let executable = executable.expect("it was built");
        farm.client().must_load(name, &executable).await;
        let answer = farm.client().call(name, "run").await;
        assert_eq!(answer.data(), expected, "{name}");
        farm.client().unload(name).await.is_no_content();
        count += 1;
    }
    assert_eq!(count, 13, "{printed}");
    farm.stop().await;
}

/// The whole of docs/contracts.md, in a folder where `npx` finds esbuild.
#[tokio::test]
async fn the_guide_for_authors_can_be_followed() {
    let folder = installed().await;
    crate::guide::follow(folder, true).await;
}
