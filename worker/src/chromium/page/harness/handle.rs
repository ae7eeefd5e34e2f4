//! The harness of one page as the worker holds it: each of its functions, and the page's own controls
//! that go with them. What is said is `harness`'s, how it travels is `wire`'s.

use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::page::{
    SetWebLifecycleStateParams, SetWebLifecycleStateState,
};
use chromiumoxide::cdp::js_protocol::runtime::{EvaluateParams, TerminateExecutionParams};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::chromium::cdp::client::{Session, WireError};
use crate::chromium::cdp::commands::{COMMAND_LIMIT, CallFunction, Trouble, within};
use crate::chromium::page::blank::execute;
use crate::chromium::page::harness::protocol as harness;

/// The harness of one page, and the way to it. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Harness {
    pub(crate) page: chromiumoxide::Page,
    session: Session,
    object_id: String,
}

/// The harness' answer, or why there is none. Without a deadline, and pending for ever once the page
/// is dead: its user knows of both.
pub(crate) type Reply = BoxFuture<'static, Result<String, String>>;

impl Harness {
    /// Evaluates the harness in a page that shows the document at `url`.
    pub(crate) async fn make(
        page: chromiumoxide::Page,
        session: Session,
        url: &str,
        result_limit: u32,
    ) -> Result<Self, Trouble> {
        let evaluate = EvaluateParams::new(harness::expression(url, result_limit));
        let evaluating = session.send(&evaluate);
        let object = within(COMMAND_LIMIT, "the harness", evaluating)
            .await?
            .result;
        let Some(object_id) = object.object_id else {
            let reason = "the page shows another document".to_owned();
            return Err(Trouble::Refused("the harness".into(), reason));
        };
        Ok(Self {
            page,
            session,
            object_id: object_id.into(),
        })
    }

    /// Starts the calls of a batch, as `harness::encode` writes it; wakes the page for them.
    pub(crate) fn run(&self, batch: String, wake: bool) -> Reply {
        let function = "function(a){\"use strict\";return this.run(a)}";
        let reply = self.call(&self.function(function).argument(batch));
        if !wake {
            return reply;
        }
        let waking = self.set_state(SetWebLifecycleStateState::Active);
        async move { tokio::join!(waking, reply).1 }.boxed()
    }

    /// Has the page's timers and queues stand still, until it is woken.
    pub(crate) fn freeze(&self) -> BoxFuture<'static, ()> {
        self.set_state(SetWebLifecycleStateState::Frozen).boxed()
    }

    fn set_state(
        &self,
        state: SetWebLifecycleStateState,
    ) -> impl Future<Output = ()> + Send + 'static {
        let page = self.page.clone();
        async move {
            // One that fails to wake up lets its calls run over their time.
            let command = SetWebLifecycleStateParams::new(state);
            if let Err(trouble) = execute(&page, COMMAND_LIMIT, command).await {
                tracing::debug!(%trouble, "a page could not be frozen or woken");
            }
        }
    }

    /// Waits for promises to settle.
    pub(crate) fn collect(&self) -> Reply {
        let function = self.function("function(){\"use strict\";return this.collect()}");
        self.call(&function.awaiting())
    }

    /// What may not have arrived.
    pub(crate) fn status(&self) -> Reply {
        self.call(&self.function("function(){\"use strict\";return this.status()}"))
    }

    /// Hands over the next piece of an executable.
    pub(crate) fn feed(&self, piece: &str) -> Reply {
        let function = "function(a){\"use strict\";return this.feed(a)}";
        self.call(&self.function(function).argument(piece))
    }

    /// Evaluates the executable that was handed over.
    pub(crate) fn load(&self, is_literal: bool) -> Reply {
        let function = "function(a){\"use strict\";return this.load(a)}";
        self.call(&self.function(function).argument(is_literal))
    }

    /// Ends whatever JavaScript runs; works on a page that answers nothing else.
    pub(crate) async fn terminate(&self, limit: Duration) -> Result<(), Trouble> {
        execute(&self.page, limit, TerminateExecutionParams::default())
            .await
            .map(drop)
    }

    fn function(&self, declaration: &'static str) -> CallFunction {
        CallFunction::new(self.object_id.clone(), declaration)
    }

    /// The message leaves before this returns.
    fn call(&self, call: &CallFunction) -> Reply {
        let answer = self.session.send(call);
        async move {
            match answer.await {
                Ok(returned) => Ok(returned.into_text()?),
                // The death of either is announced, with the reason.
                Err(WireError::Closed) => std::future::pending().await,
                Err(error) => Err(error.to_string()),
            }
        }
        .boxed()
    }
}
