//! Accepts connections and serves HTTP/1.1 on them until the process drains. The responses come
//! from `router`.

use std::io;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use shared::service::lifecycle::Lifecycle;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

/// The pause after a connection could not be accepted, mostly for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves until `life` drains and every request in progress is answered, or until it stops.
///
/// A connection is closed if no complete request head arrives within `headers_timeout`, whether
/// it is idle or slow.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    headers_timeout: Duration,
    life: &Lifecycle,
) {
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(headers_timeout);
    let service = TowerToHyperService::new(router);
    let (graceful, tasks) = (GracefulShutdown::new(), TaskTracker::new());
    while let Some(stream) = accept(&listener, life).await {
        let connection = protocol.serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection);
        let life = life.clone();
        tasks.spawn(async move {
            tokio::select! {
                result = connection => if let Err(error) = result {
                    tracing::debug!(%error, "connection failed");
                },
                () = life.stopping() => {}
            }
        });
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
