//! A browser for tests that use a page as a person does. Its sandbox is on, and it reaches only
//! this machine.

use std::ffi::OsString;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use chromiumoxide::Page;
use chromiumoxide::handler::HandlerConfig;
use chromiumoxide::page::ScreenshotParams;
use futures::StreamExt;
use nix::unistd::{Uid, User};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::process::Process;
use super::programs;
use super::wait::{self, DEFAULT_LIMIT};

const PROGRAM: &str = "/usr/lib/chromium/chromium-headless-shell";

const ARGUMENTS: [&str; 7] = [
    "--headless",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--disable-gpu",
    "--window-size=1280,1600",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "about:blank",
];

/// A running browser. End it with [`Browser::stop`].
pub(crate) struct Browser {
    pub(crate) cdp: chromiumoxide::Browser,
    events: JoinHandle<()>,
    pub(crate) process: Process,
    profile: TempDir,
}

impl Browser {
    /// Starts a browser as an unprivileged user, because Chromium has no sandbox for root.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[], HandlerConfig::default()).await
    }

    /// The same with more arguments. If two arguments conflict, the last one wins.
    pub(crate) async fn start_with(more: &[String], config: HandlerConfig) -> Self {
        let profile = TempDir::with_prefix("execution-browser-").expect("a folder can be made");
        let process = Process::start("browser", command(profile.path(), more), profile.path());
        let address = wait::until("the browser's address", DEFAULT_LIMIT, async || {
            let log = process.log();
            let (_, rest) = log.split_once("DevTools listening on ")?;
            let (address, _) = rest.split_once('\n')?;
            Some(address.trim().to_owned())
        })
        .await;
        let (cdp, mut handler) = chromiumoxide::Browser::connect_with_config(address, config)
            .await
            .expect("a browser that listens takes connections");
        let events = tokio::spawn(async move { while handler.next().await.is_some() {} });
        Self {
            cdp,
            events,
            process,
            profile,
        }
    }

    /// Opens a page.
    pub(crate) async fn open(&self, url: &str) -> Page {
        let page = self.cdp.new_page(url).await;
        page.unwrap_or_else(|error| panic!("{url} cannot be opened: {error}"))
    }

    /// Closes the browser and removes its profile.
    pub(crate) async fn stop(mut self) {
        self.cdp.close().await.expect("a browser can be closed");
        self.process.end(DEFAULT_LIMIT).await;
        self.events.await.expect("the connection ends");
        self.profile.close().expect("a profile can be removed");
    }
}

fn command(profile: &Path, more: &[String]) -> Command {
    let mut command = Command::new(program());
    command
        .args(ARGUMENTS)
        .args(more)
        .arg(format!("--user-data-dir={}", profile.display()));
    confine(&mut command, profile);
    command
}

/// Chromium's program.
pub(crate) fn program() -> OsString {
    std::env::var_os("CHROMIUM_PATH").unwrap_or_else(|| PROGRAM.into())
}

/// Makes a command that becomes a browser with this profile run as an unprivileged user, with an
/// empty environment.
pub(crate) fn confine(command: &mut Command, profile: &Path) {
    command.env_clear().env("HOME", profile);
    if Uid::effective().is_root() {
        let user = User::from_name("nobody").expect("users can be looked up");
        let user = user.expect("every system has this user");
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        chown(profile, Some(uid), Some(gid)).expect("root can give a folder away");
        command.uid(uid).gid(gid);
    }
}

/// Clicks the element that `selector` matches, once it exists.
pub(crate) async fn click(page: &Page, selector: &str) {
    let element = wait::until(selector, DEFAULT_LIMIT, async || {
        page.find_element(selector).await.ok()
    })
    .await;
    let clicked = element.click().await;
    clicked.unwrap_or_else(|error| panic!("{selector} cannot be clicked: {error}"));
}

/// Evaluates `expression` until its value is not null, and returns that value.
pub(crate) async fn found(page: &Page, expression: &str) -> serde_json::Value {
    wait::until(expression, DEFAULT_LIMIT, async || {
        let result = page.evaluate(expression).await.ok()?;
        result.value().filter(|value| !value.is_null()).cloned()
    })
    .await
}

/// Saves a screenshot of the page in `target/screenshots` for a person to view.
pub(crate) async fn save_screenshot(page: &Page, name: &str) {
    let folder = programs::folder().with_file_name("screenshots");
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    let whole = ScreenshotParams::builder().full_page(true).build();
    let file = folder.join(format!("{name}.png"));
    let saved = page.save_screenshot(whole, &file).await;
    saved.unwrap_or_else(|error| panic!("{} cannot be made: {error}", file.display()));
}
