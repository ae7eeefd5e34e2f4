//! Accepts connections and serves HTTP/1.1 on them until the process drains. The responses come
//! from `router`; `edge` bounds the number of connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit, setrlimit};
use shared::service::lifecycle::Lifecycle;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::edge::{Connection, Connections, OpenConnection};

/// The pause after a connection could not be accepted, mostly for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How many bytes of a request's head are accepted, and how many of its body are read ahead. With
/// the number of connections this bounds what clients occupy before their requests begin.
const READ_BUFFER: usize = 32 * 1024;

/// How long a client that has lost its place may take to read the response that says so.
const LAST_RESPONSE: Duration = Duration::from_secs(1);

/// The file descriptors that are not clients' connections: those to Redis, and the process' own.
const OTHER_FILES: u64 = 128;

/// Serves connections; see [`serve`].
struct Server {
    protocol: http1::Builder,
    service: TowerToHyperService<Router>,
    life: Lifecycle,
}

/// Serves until `life` drains and every request in progress is answered, or until it stops.
///
/// A connection is closed if no complete request head arrives within `headers_timeout`, whether
/// it is idle or slow.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    connections: Arc<Connections>,
    headers_timeout: Duration,
    life: &Lifecycle,
) {
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .max_buf_size(READ_BUFFER)
        .header_read_timeout(headers_timeout);
    let server = Arc::new(Server {
        protocol,
        service: TowerToHyperService::new(router),
        life: life.clone(),
    });
    let (graceful, tasks) = (GracefulShutdown::new(), TaskTracker::new());
    while let Some(stream) = accept(&listener, life).await {
        // Meanwhile further connections wait in the listener's queue.
        let place = tokio::select! {
            place = connections.admit() => place,
            () = life.draining() => break,
        };
        let server = server.clone();
        tasks.spawn(server.connection(stream, place, graceful.watcher()));
    }
    drop(listener);
    tasks.close();
    tokio::join!(tasks.wait(), async {
        tokio::select! {
            () = graceful.shutdown() => {}
            () = life.stopping() => {}
        }
    });
}

impl Server {
    /// Serves the requests of one connection.
    async fn connection(self: Arc<Self>, stream: TcpStream, place: OpenConnection, end: Watcher) {
        let connection: &Arc<Connection> = &place;
        if stream
            .local_addr()
            .is_ok_and(|address| address.ip().to_canonical().is_loopback())
        {
            connection.arrived_at_loopback();
        }
        let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
            connection.request_begins();
            request.extensions_mut().insert(connection.clone());
            let response = self.service.call(request);
            async move {
                let response = response.await;
                connection.request_ends();
                response
            }
        });
        let serving = self
            .protocol
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            result = end.watch(serving) => if let Err(error) = result {
                tracing::debug!(%error, "connection failed");
            },
            () = evicted(connection) => tracing::debug!("connection closed: its client was slow"),
            () = self.life.stopping() => {}
        }
    }
}

/// Waits until the client has lost its place and was told so. A request that is in progress
/// nevertheless is carried out.
async fn evicted(connection: &Connection) {
    connection.evicted().await;
    if connection.is_answered() {
        tokio::time::sleep(LAST_RESPONSE).await;
    }
    while connection.is_busy() {
        tokio::time::sleep(LAST_RESPONSE).await;
    }
}

/// How many connections can be open: `wanted`, or as many as there are file descriptors for.
pub(crate) fn connection_limit(wanted: usize) -> usize {
    let needed = u64::try_from(wanted).unwrap_or(u64::MAX) + OTHER_FILES;
    let mut files = getrlimit(Resource::Nofile);
    if files.current.is_some_and(|current| current < needed) {
        files.current = Some(files.maximum.map_or(needed, |most| most.min(needed)));
        if let Err(error) = setrlimit(Resource::Nofile, files) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
        files = getrlimit(Resource::Nofile);
    }
    let free = files.current.map(|files| files.saturating_sub(OTHER_FILES));
    let free = free.and_then(|free| usize::try_from(free).ok());
    let limit = free.unwrap_or(wanted).clamp(1, wanted);
    if limit < wanted {
        tracing::warn!(
            limit,
            wanted,
            "fewer connections than MAX_CONNECTIONS: open files are limited"
        );
    }
    limit
}

/// Accepts the next connection; `None` once the process drains.
async fn accept(listener: &TcpListener, life: &Lifecycle) -> Option<TcpStream> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = life.draining() => return None,
        };
        match accepted {
            Ok((stream, _)) => {
                // Otherwise small responses wait for the client's acknowledgements.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                return Some(stream);
            }
            Err(error) if is_disconnect(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    () = life.draining() => return None,
                }
            }
        }
    }
}

/// Whether the client disconnected before its connection was accepted.
fn is_disconnect(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}
