//! The ceiling of many contracts: messages to as many pages, from a program that does nothing else.
//! The browser is driven as a worker drives its own, over a pipe in CBOR. Each message calls a
//! function with one argument, as a call does.

mod cbor;
mod pipe;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Child;

use crate::contracts::ADD_BODY;
use crate::processor::{KINDS, Times};
use crate::support::browser;
use pipe::Pipe;

/// The function that is called, with its text as the argument, as the harness has it.
const TABLE: &str = "({ run: (text) => {
    const { number1, number2 } = JSON.parse(text);
    return JSON.stringify(number1 + number2);
} })";
const CALL: &str = "function(a){\"use strict\";return this.run(a)}";

/// The id of every message that is measured: nothing needs different ones.
const ID: u32 = 1_000_000;

/// What was measured.
pub(crate) struct Measured {
    /// Messages per second.
    pub(crate) rate: f64,
    /// Microseconds of processor time for each message, by kind of process.
    pub(crate) processor: [f64; KINDS.len()],
}

/// A browser with pages. End it with [`RawPages::stop`].
pub(crate) struct RawPages {
    child: Child,
    pipe: Pipe,
    profile: TempDir,
    /// The message to each page.
    messages: Vec<Vec<u8>>,
    /// The page that gets the next message.
    next: usize,
}

impl RawPages {
    /// Opens so many pages in a browser with these arguments, each in a context and a renderer of
    /// its own.
    pub(crate) async fn start(arguments: &[String], count: usize) -> Self {
        let profile = TempDir::with_prefix("execution-browser-").expect("a folder can be made");
        // The browser takes the pipe as its descriptors 3 and 4.
        let mut command = Command::new("/bin/sh");
        command
            .args([
                "-c",
                "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1",
                "sh",
            ])
            .arg(browser::program())
            .args(arguments)
            .arg("--remote-debugging-pipe=cbor")
            .arg(format!("--user-data-dir={}", profile.path().display()));
        browser::confine(&mut command, profile.path());
        let (child, pipe) = Pipe::to(command);
        let messages = Vec::with_capacity(count);
        let mut pages = Self {
            child,
            pipe,
            profile,
            messages,
            next: 0,
        };
        for _ in 0..count {
            let message = pages.open().await;
            pages.messages.push(message);
        }
        pages
    }

    /// Opens a page; returns the message for it.
    async fn open(&mut self) -> Vec<u8> {
        let none = json!({});
        let context = self.command("Target.createBrowserContext", &none, None);
        let context = cbor::text_of(&context.await, "browserContextId");
        let new = json!({"url": "about:blank", "browserContextId": context});
        let target = self.command("Target.createTarget", &new, None).await;
        let target = json!({"targetId": cbor::text_of(&target, "targetId"), "flatten": true});
        let session = self.command("Target.attachToTarget", &target, None).await;
        let session = cbor::text_of(&session, "sessionId");
        let table = json!({"expression": TABLE});
        let table = self.command("Runtime.evaluate", &table, Some(&session));
        let call = json!({
            "objectId": cbor::text_of(&table.await, "objectId"),
            "functionDeclaration": CALL,
            "arguments": [{"value": ADD_BODY}],
            "returnByValue": true,
            "silent": true,
        });
        let message = message(ID, "Runtime.callFunctionOn", &call, Some(&session));
        self.pipe.send(&message).await;
        let reply = self.pipe.reply(ID).await;
        assert_eq!(cbor::text_of(&reply, "value"), "3");
        message
    }

    /// Sends a command and returns its reply.
    async fn command(&mut self, method: &str, params: &Value, session: Option<&str>) -> Vec<u8> {
        self.pipe.send(&message(1, method, params, session)).await;
        self.pipe.reply(1).await
    }

    /// Keeps so many messages under way, to the pages in turn.
    pub(crate) async fn run(&mut self, under_way: usize, span: Duration) -> Measured {
        let before = Times::now();
        let start = Instant::now();
        self.send(under_way).await;
        let (mut count, mut left) = (0, under_way);
        while left > 0 {
            let replies = self.pipe.replies(ID).await;
            count += replies;
            if start.elapsed() < span {
                self.send(replies).await;
            } else {
                left -= replies;
            }
        }
        let elapsed = start.elapsed();
        let count = f64::from(u32::try_from(count).expect("a span is short"));
        Measured {
            rate: count / elapsed.as_secs_f64(),
            processor: before.until(&Times::now()).map(|time| time / count),
        }
    }

    /// Sends so many messages, to the pages in turn.
    async fn send(&mut self, count: usize) {
        let mut bytes = Vec::new();
        for _ in 0..count {
            bytes.extend(&self.messages[self.next]);
            self.next = (self.next + 1) % self.messages.len();
        }
        self.pipe.send(&bytes).await;
    }

    /// Closes the browser and removes its profile.
    pub(crate) async fn stop(mut self) {
        let close = message(1, "Browser.close", &json!({}), None);
        self.pipe.send(&close).await;
        let ended = self.child.wait().await;
        ended.expect("a child can be awaited");
        self.profile.close().expect("a profile can be removed");
    }
}

fn message(id: u32, method: &str, params: &Value, session: Option<&str>) -> Vec<u8> {
    let mut message = json!({"id": id, "method": method, "params": params});
    if let Some(session) = session {
        message["sessionId"] = session.into();
    }
    cbor::encode(&message)
}
