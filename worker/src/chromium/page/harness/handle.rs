//! The worker's handle on the harness of one page: one method for each of the harness' functions,
//! and the page's own controls that go with them.
//!
//! `protocol` defines the texts; `cdp::client` carries them.

use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::page::{
    SetWebLifecycleStateParams, SetWebLifecycleStateState,
};
use chromiumoxide_cdp::cdp::js_protocol::runtime::{EvaluateParams, TerminateExecutionParams};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::protocol;
use crate::chromium::cdp::client::{ClientError, PageSession};
use crate::chromium::cdp::commands::{CallFunction, Place};
use crate::chromium::cdp::execute::{COMMAND_LIMIT, CdpError};

/// Starts the calls of the message that the arguments are parts of; without any, of the one that was
/// sent in pieces.
const RUN: &str = "function(){\"use strict\";return this.run(arguments)}";

/// The harness of one page. Clones are handles on the same harness.
#[derive(Debug, Clone)]
pub(crate) struct Harness {
    pub(crate) session: PageSession,
    object_id: String,
}

/// The harness' reply, or why there is none. It has no time limit, and stays pending once the page
/// is dead: its user handles both.
pub(crate) type PendingReply = BoxFuture<'static, Result<String, String>>;

impl Harness {
    /// Evaluates the harness in a page that shows the document at `url`.
    pub(crate) async fn create(
        session: PageSession,
        url: &str,
        result_limit: u32,
    ) -> Result<Self, CdpError> {
        let evaluate = EvaluateParams::new(protocol::expression(url, result_limit));
        let object = session.execute(COMMAND_LIMIT, &evaluate).await?.result;
        let Some(object_id) = object.object_id else {
            let reason = "the page shows another document".to_owned();
            return Err(CdpError::Refused("the harness".into(), reason));
        };
        Ok(Self {
            session,
            object_id: object_id.into(),
        })
    }

    /// Starts the calls of a message, written by `protocol::encode`. `wake` unfreezes the page
    /// first.
    pub(crate) fn run(&self, message: &str, wake: bool) -> PendingReply {
        self.waking(wake, self.call(&self.function(RUN).text(message)))
    }

    /// Sends the next piece of a message. The reply to the last piece says that it is parsed.
    pub(crate) fn take(&self, piece: &str, is_last: bool, wake: bool) -> PendingReply {
        let function = "function(){\"use strict\";return this.take(arguments)}";
        let take = self.function(function).argument(is_last).text(piece);
        self.waking(wake, self.call(&take))
    }

    /// Starts the calls of the message that was sent in pieces.
    pub(crate) fn run_taken(&self) -> PendingReply {
        self.call(&self.function(RUN))
    }

    /// Unfreezes the page beside a command, if `wake` is set.
    fn waking(&self, wake: bool, reply: PendingReply) -> PendingReply {
        if !wake {
            return reply;
        }
        let waking = self.set_state(SetWebLifecycleStateState::Active);
        async move { tokio::join!(waking, reply).1 }.boxed()
    }

    /// Freezes the page: its timers and queues stop until it is woken.
    pub(crate) fn freeze(&self) -> BoxFuture<'static, ()> {
        self.set_state(SetWebLifecycleStateState::Frozen).boxed()
    }

    fn set_state(
        &self,
        state: SetWebLifecycleStateState,
    ) -> impl Future<Output = ()> + Send + 'static {
        let command = SetWebLifecycleStateParams::new(state);
        let setting = self.session.execute(COMMAND_LIMIT, &command);
        async move {
            // A page that does not wake up lets its calls run into their time limit.
            if let Err(error) = setting.await {
                tracing::debug!(%error, "page could not be frozen or woken");
            }
        }
    }

    /// Waits for promises to settle.
    pub(crate) fn collect(&self) -> PendingReply {
        let function = self.function("function(){\"use strict\";return this.collect()}");
        self.call(&function.awaiting())
    }

    /// Asks for everything that may not have arrived.
    pub(crate) fn status(&self) -> PendingReply {
        self.call(&self.function("function(){\"use strict\";return this.status()}"))
    }

    /// Sends the next piece of an executable.
    pub(crate) fn feed(&self, piece: &str, is_head: bool) -> PendingReply {
        let function = "function(){\"use strict\";return this.feed(arguments)}";
        self.call(&self.function(function).argument(is_head).text(piece))
    }

    /// Returns the place of the syntax error of the executable that was sent, in what the harness
    /// compiles. None of it runs.
    pub(crate) fn locate(&self, may_be_expression: bool) -> BoxFuture<'static, Option<Place>> {
        let function = "function(a){\"use strict\";return this.locate(a)}";
        let call = self.function(function).argument(may_be_expression);
        let reply = self.session.send(&call);
        async move { reply.await.ok()?.syntax_error() }.boxed()
    }

    /// Evaluates the executable that was sent, and waits for what it provides.
    pub(crate) fn load(&self, may_be_expression: bool) -> PendingReply {
        let function = "function(a){\"use strict\";return this.load(a)}";
        let load = self.function(function).argument(may_be_expression);
        self.call(&load.awaiting())
    }

    /// Terminates the JavaScript that runs; works on a page that replies to no other command.
    pub(crate) async fn terminate(&self, limit: Duration) -> Result<(), CdpError> {
        let command = TerminateExecutionParams::default();
        self.session.execute(limit, &command).await.map(drop)
    }

    fn function(&self, declaration: &'static str) -> CallFunction {
        CallFunction::new(self.object_id.clone(), declaration)
    }

    /// The message is queued for sending before this returns.
    fn call(&self, call: &CallFunction) -> PendingReply {
        let reply = self.session.send(call);
        async move {
            match reply.await {
                Ok(returned) => Ok(returned.into_text()?),
                // The death of the page or the browser is reported elsewhere, with the reason.
                Err(ClientError::Closed) => std::future::pending().await,
                Err(error) => Err(error.to_string()),
            }
        }
        .boxed()
    }
}
