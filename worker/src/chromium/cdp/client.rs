//! The connection to a browser: sends commands, and matches each reply to its command.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chromiumoxide_cdp::cdp::browser_protocol::target::{AttachToTargetParams, TargetId};
use chromiumoxide_types::Command;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::cbor::CborError;
use super::cbor::decode::{first_number, from_slice};
use super::cbor::encode::to_vec;
use super::events::{self, EventSender, Events};
use super::execute::{CdpError, within};
use super::parts::MessageParts;
use super::replies::{ExpectedReplies, Reply};
use super::traffic::Traffic;
use super::transport::{self, ConnectionError, Incoming, MessageReader};

/// Why a command has no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The page or the browser is gone.
    #[error("the page is gone")]
    Closed,
    /// The browser refused the command, with this reason.
    #[error("{0}")]
    Refused(String),
    /// The command or the reply has no proper form.
    #[error("the message is malformed: {0}")]
    Malformed(#[from] CborError),
    /// The reply is over the size limit of a message.
    #[error("the reply is too long")]
    TooLong,
}

/// The connection. Commands are sent in order.
#[derive(Debug)]
pub(crate) struct CdpClient {
    expected: Arc<ExpectedReplies>,
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    traffic: Arc<Traffic>,
}

/// The connection's session with one page.
#[derive(Debug, Clone)]
pub(crate) struct PageSession {
    client: Arc<CdpClient>,
    id: Arc<str>,
}

/// A command as the protocol defines it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a, C> {
    id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    method: &'a str,
    params: &'a C,
}

#[derive(Debug, Deserialize)]
struct ErrorReply {
    code: i64,
    message: String,
}

impl ErrorReply {
    /// Chromium's code for an unknown session.
    const NO_SESSION: i64 = -32001;
}

impl From<ErrorReply> for ClientError {
    fn from(reply: ErrorReply) -> Self {
        match reply.code {
            ErrorReply::NO_SESSION => Self::Closed,
            _ => Self::Refused(reply.message),
        }
    }
}

impl CdpClient {
    /// A connection over the worker's end of a browser's pipe, with the browser's events. The last
    /// value is the task that drives the connection; it ends when either side closes it, or when a
    /// message is malformed, and cancels `dead` then.
    pub(crate) fn connect(
        pipe: UnixStream,
        dead: CancellationToken,
    ) -> (Arc<Self>, Events, impl Future<Output = ()> + Send + 'static) {
        let (outgoing, queue) = mpsc::unbounded_channel();
        let expected = Arc::<ExpectedReplies>::default();
        let (sender, events) = events::channel();
        let traffic = Arc::<Traffic>::default();
        let incoming = IncomingMessages {
            expected: Arc::clone(&expected),
            events: sender,
            traffic: Arc::clone(&traffic),
        };
        let client = Arc::new(Self {
            expected,
            outgoing,
            traffic,
        });
        (client, events, drive(pipe, queue, incoming, dead))
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Opens a session with a page.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        limit: Duration,
        page: TargetId,
    ) -> Result<PageSession, CdpError> {
        let mut attach = AttachToTargetParams::new(page);
        attach.flatten = Some(true);
        let id: String = self.execute(limit, &attach).await?.session_id.into();
        Ok(PageSession {
            client: Arc::clone(self),
            id: id.into(),
        })
    }

    /// Sends a command to the browser as a whole, at once and in order, and waits for the reply at
    /// most for `limit`.
    pub(crate) fn execute<C: Command>(
        &self,
        limit: Duration,
        command: &C,
    ) -> impl Future<Output = Result<C::Response, CdpError>> + Send + use<C> {
        within(limit, command.identifier(), self.send(None, command))
    }

    /// Sends a command to the browser as a whole, without waiting for its reply.
    pub(crate) fn post<C: Command>(&self, command: &C) {
        drop(self.send(None, command));
    }

    /// Sends a command at once. The wait for its reply has no time limit.
    fn send<C: Command>(
        &self,
        session: Option<&Arc<str>>,
        command: &C,
    ) -> impl Future<Output = Result<C::Response, ClientError>> + Send + use<C> {
        let sent = self.try_send(session, command);
        async move {
            let reply = sent?.await.map_err(|_| ClientError::Closed)??;
            Ok(from_slice(&reply)?)
        }
    }

    fn try_send<C: Command>(
        &self,
        session: Option<&Arc<str>>,
        command: &C,
    ) -> Result<oneshot::Receiver<Reply>, ClientError> {
        let added = self.expected.add(session.map(Arc::clone));
        let (number, reply) = added.ok_or(ClientError::Closed)?;
        let message = to_vec(&Request {
            id: number,
            session_id: session.map(|id| &**id),
            method: &command.identifier(),
            params: command,
        });
        match message {
            // Fails when the connection has ended. Then the reply fails, too.
            Ok(message) => {
                self.traffic.add(message.len());
                _ = self.outgoing.send(message);
            }
            Err(error) => self.expected.resolve(number, Err(error.into())),
        }
        Ok(reply)
    }
}

impl PageSession {
    /// The session's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Sends a command to the page, at once and in order. The wait for the reply has no time limit.
    pub(crate) fn send<C: Command>(
        &self,
        command: &C,
    ) -> impl Future<Output = Result<C::Response, ClientError>> + Send + use<C> {
        self.client.send(Some(&self.id), command)
    }

    /// Sends a command to the page, at once and in order, and waits for the reply at most for
    /// `limit`.
    pub(crate) fn execute<C: Command>(
        &self,
        limit: Duration,
        command: &C,
    ) -> impl Future<Output = Result<C::Response, CdpError>> + Send + use<C> {
        within(limit, command.identifier(), self.send(command))
    }
}

/// Writes and reads at the same time, until either ends.
async fn drive(
    mut pipe: UnixStream,
    queue: mpsc::UnboundedReceiver<Vec<u8>>,
    incoming: IncomingMessages,
    dead: CancellationToken,
) {
    // Dropped before `incoming`: when a command fails, the browser is already marked as dead.
    let _end = dead.drop_guard();
    let (reader, writer) = pipe.split();
    let ended = tokio::select! {
        ended = transport::write(writer, queue) => ended.map_err(ConnectionError::from),
        ended = incoming.read(MessageReader::new(reader)) => ended,
    };
    match ended {
        Ok(()) => {}
        Err(ConnectionError::Ended) => tracing::debug!("browser closed its connection"),
        Err(error) => tracing::warn!(%error, "browser connection failed"),
    }
}

/// Passes messages on to those who wait for them. Dropping it fails all commands.
struct IncomingMessages {
    expected: Arc<ExpectedReplies>,
    events: EventSender,
    traffic: Arc<Traffic>,
}

impl Drop for IncomingMessages {
    fn drop(&mut self) {
        self.expected.end();
    }
}

impl IncomingMessages {
    async fn read<R: AsyncRead + Unpin>(
        &self,
        mut reader: MessageReader<R>,
    ) -> Result<(), ConnectionError> {
        loop {
            match reader.next().await? {
                Incoming::Message(message) => self.pass(&message).await?,
                Incoming::TooLong(begin) => {
                    tracing::warn!("message of a browser is too long: ignored");
                    if let Some(number) = first_number(&begin) {
                        self.expected.resolve(number, Err(ClientError::TooLong));
                    }
                }
            }
        }
    }

    async fn pass(&self, message: &Bytes) -> Result<(), CborError> {
        let parts = MessageParts::read(message)?;
        let Some(number) = parts.number else {
            let closed = self.events.pass(parts.into_event(message.len())).await?;
            if let Some(session) = closed {
                self.expected.end_session(&session);
            }
            return Ok(());
        };
        self.traffic.add(message.len());
        let reply = match (parts.result, parts.error) {
            (Some(result), None) => Ok(result),
            (_, Some(error)) => Err(from_slice::<ErrorReply>(&error)?.into()),
            (None, None) => Err(ClientError::Refused("the reply is empty".to_owned())),
        };
        self.expected.resolve(number, reply);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chromiumoxide_cdp::cdp::browser_protocol::browser::GetVersionParams;
    use serde_json::{Value, json};
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::chromium::cdp::events::EndCause;

    const LIMIT: Duration = Duration::from_secs(10);

    /// The browser's side of a connection.
    struct Peer<R, W> {
        reader: MessageReader<R>,
        writer: W,
    }

    impl<R: AsyncRead + Unpin, W: tokio::io::AsyncWrite + Unpin> Peer<R, W> {
        async fn receive(&mut self) -> Value {
            match self.reader.next().await.unwrap() {
                Incoming::Message(message) => from_slice(&message).unwrap(),
                Incoming::TooLong(_) => panic!("a command is never so long"),
            }
        }

        async fn send(&mut self, message: Value) {
            self.writer
                .write_all(&to_vec(&message).unwrap())
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn commands_replies_and_events_find_their_way() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let dead = CancellationToken::new();
        let (client, mut events, driving) = CdpClient::connect(ours, dead.clone());
        let (reader, writer) = theirs.into_split();
        let reader = MessageReader::new(reader);
        let mut peer = Peer { reader, writer };
        let script = async {
            let attaching = client.attach(LIMIT, TargetId::new("T"));
            let serving = async {
                let attach = peer.receive().await;
                let params = json!({"targetId": "T", "flatten": true});
                let expected =
                    json!({"id": 1, "method": "Target.attachToTarget", "params": params});
                assert_eq!(attach, expected);
                peer.send(json!({"method": "Target.other", "params": {}}))
                    .await;
                peer.send(json!({"id": 1, "result": {"sessionId": "S"}}))
                    .await;
            };
            let session = tokio::join!(attaching, serving).0.unwrap();
            let lost = session.send(&GetVersionParams::default());
            assert_eq!(peer.receive().await["sessionId"], "S");
            let refused = client.execute(LIMIT, &GetVersionParams::default());
            let serving = async {
                let number = peer.receive().await["id"].clone();
                peer.send(json!({"id": number, "error": {"code": -32000, "message": "no"}}))
                    .await;
            };
            let error = tokio::join!(refused, serving).0.unwrap_err().to_string();
            assert_eq!(error, "Browser.getVersion: no");

            peer.send(json!({"method": "Inspector.targetCrashed", "params": {}, "sessionId": "S"}))
                .await;
            let params = json!({"sessionId": "S", "targetId": "T"});
            peer.send(json!({"method": "Target.detachedFromTarget", "params": params}))
                .await;
            for cause in [EndCause::Crashed, EndCause::Closed] {
                let end = events.ends.recv().await.unwrap();
                assert_eq!((end.session.as_str(), end.cause), ("S", cause));
            }
            assert!(matches!(lost.await, Err(ClientError::Closed)));

            let request = json!({"url": "https://x.invalid/".to_owned() + &"x".repeat(1000),
                "method": "GET", "headers": {}});
            let params = json!({"requestId": "R", "frameId": "T", "resourceType": "Document",
                "request": request, "networkId": "N"});
            peer.send(json!({"method": "Fetch.requestPaused", "params": params}))
                .await;
            let paused = events.requests.recv().await.unwrap();
            assert!(paused.is_document && paused.url.len() == 256 && paused.size > 1000);

            // Something that is no message ends the connection, and with it every command.
            let pending = client.execute(LIMIT, &GetVersionParams::default());
            let breaking = async { peer.writer.write_all(b"{}").await.unwrap() };
            let error = tokio::join!(pending, breaking).0.unwrap_err().to_string();
            assert_eq!(error, "Browser.getVersion: the page is gone");
            assert!(dead.is_cancelled());
        };
        tokio::join!(driving, script);
    }
}
