//! Accepts connections and speaks HTTP/1.1 on them until the process drains. What is answered is
//! `router`'s business.

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

/// How long no connection is accepted after that failed for want of, mostly, file descriptors.
const REST: Duration = Duration::from_secs(1);

/// Serves until `life` drains and every request under way is answered, or until it stops.
///
/// A connection on which no whole head of a request has come for `patience` is closed, be it idle
/// or slow.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    patience: Duration,
    life: &Lifecycle,
) {
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(patience);
    let service = TowerToHyperService::new(router);
    let (graceful, tasks) = (GracefulShutdown::new(), TaskTracker::new());
    while let Some(stream) = accept(&listener, life).await {
        let connection = protocol.serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection);
        let life = life.clone();
        tasks.spawn(async move {
            tokio::select! {
                result = connection => if let Err(error) = result {
                    tracing::debug!(%error, "a connection broke");
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

/// The next connection; none once the process drains.
async fn accept(listener: &TcpListener, life: &Lifecycle) -> Option<TcpStream> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = life.draining() => return None,
        };
        match accepted {
            Ok((stream, _)) => {
                // Otherwise small answers wait for the caller's acknowledgements.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                return Some(stream);
            }
            Err(error) if is_the_callers(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::select! {
                    () = tokio::time::sleep(REST) => {}
                    () = life.draining() => return None,
                }
            }
        }
    }
}

/// Whether the caller has left before its connection was accepted.
fn is_the_callers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}
