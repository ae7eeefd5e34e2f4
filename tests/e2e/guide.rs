//! The commands of docs/contracts.md, run one after the other as a reader would: each must print
//! what the document says. Ids and times may differ.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::support::farm::Farm;

const DOCUMENT: &str = include_str!("../../docs/contracts.md");

/// The steps that need tools of npm, which `make test-tools` installs.
const WITH_TOOLS: [&str; 2] = ["6. Bundle", "7. Test"];

/// Printed between the outputs of commands.
const MARK: &str = "-- end of a command --";

#[tokio::test]
async fn every_command_prints_what_the_guide_says() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    follow(folder.path(), false).await;
}

/// Follows the guide in a folder; the steps with tools as well, if they are there.
pub(crate) async fn follow(folder: &Path, with_tools: bool) {
    let farm = Farm::builder().workers(2).start().await;
    let steps = steps(with_tools);
    assert!(steps.len() > 20, "{}", steps.len());
    let mut script = String::new();
    for step in &steps {
        match step {
            Step::File(name, text) => write(&folder.join(name), text),
            Step::Command(command, _) => {
                script += command;
                script += &["\necho; echo '", MARK, "'\n"].concat();
            }
        }
    }
    let port = format!("127.0.0.1:{}", farm.client().port());
    let printed = run(folder, &script.replace("127.0.0.1:9000", &port)).await;
    let mut outputs = printed.split(MARK);
    let mut wrong = Vec::new();
    for step in &steps {
        if let Step::Command(command, expected) = step {
            let output = outputs.next().unwrap_or_default().trim().replace('\r', "");
            if masked(&output) != masked(expected.trim()) {
                wrong.push(format!(
                    "{command}\n  prints  {output}\n  not     {expected}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    farm.stop().await;
}

/// What the reader does.
enum Step {
    /// Writes a file.
    File(PathBuf, String),
    /// Runs a command, which prints this.
    Command(String, String),
}

/// The blocks of the document: files begin with a comment that names them, commands with `$`.
fn steps(with_tools: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in DOCUMENT.replace("\n## ", "\n### ").split("\n### ") {
        if !with_tools && WITH_TOOLS.iter().any(|title| part.starts_with(title)) {
            continue;
        }
        for block in part.split("\n```").skip(1).step_by(2) {
            let (kind, text) = block.split_once('\n').expect("a block has lines");
            match (kind, text.strip_prefix("// ")) {
                ("sh", _) => commands(text, &mut steps),
                (_, Some(named)) if named.split('\n').next().is_some_and(|n| n.contains('.')) => {
                    let (name, body) = named.split_once('\n').expect("a file has lines");
                    // Lines are counted with the comment. JSON has none.
                    let text = if kind == "json" { body } else { text };
                    steps.push(Step::File(name.into(), format!("{text}\n")));
                }
                _ => {}
            }
        }
    }
    steps
}

fn commands(block: &str, steps: &mut Vec<Step>) {
    for text in format!("\n{block}").split("\n$ ").skip(1) {
        let mut command = String::new();
        let mut lines = text.lines();
        for line in lines.by_ref() {
            command += line;
            command.push('\n');
            // A command goes on in the next line after a backslash, or while a quote is open.
            if !line.ends_with('\\') && command.matches('\'').count().is_multiple_of(2) {
                break;
            }
        }
        let expected: Vec<_> = lines.collect();
        steps.push(Step::Command(
            command.trim().to_owned(),
            expected.join("\n"),
        ));
    }
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

/// Runs a script; returns what it prints.
async fn run(folder: &Path, script: &str) -> String {
    // curl shows its progress where the output is no terminal.
    write(&folder.join(".curlrc"), "silent\nshow-error\n");
    write(&folder.join("guide.sh"), script);
    let output = Command::new("bash")
        .arg("guide.sh")
        .current_dir(folder)
        .env("CURL_HOME", folder)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("bash can be started");
    String::from_utf8(output.stdout).expect("it prints text")
}

/// Ids and times, which differ each time, as `#`.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let id = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_time = id.len() >= 13 && id.bytes().all(|byte| byte.is_ascii_digit());
        if is_id || is_time {
            masked.push('#');
            masked += &word[id.len()..];
        } else {
            masked += word;
        }
    }
    masked
}
