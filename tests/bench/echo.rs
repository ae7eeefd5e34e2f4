//! The ceiling of throughput: the same HTTP server without a queue and without a sandbox, in its
//! own process. It returns every argument, at the paths of the api.

use std::net::Ipv4Addr;
use std::process::Command;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use axum::serve::ListenerExt as _;
use reqwest::Method;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::support::client::{Client, try_send};
use crate::support::process::Process;
use crate::support::programs::free_port;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// The argument that makes this program the server.
pub(crate) const ARGUMENT: &str = "echo";

/// Serves until it is killed.
pub(crate) fn serve(port: u16) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        // The same socket option as in the api.
        let listener = listener.expect("the port is free").tap_io(|stream| {
            // This fails only on a connection that has ended.
            let _ = stream.set_nodelay(true);
        });
        let router = Router::new().route("/execute/{address}/{method}", post(echo));
        axum::serve(listener, router)
            .await
            .expect("a server runs until it is killed");
    });
}

async fn echo(argument: Bytes) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], argument)
}

/// The running server. Dropping it kills it.
pub(crate) struct Echo {
    pub(crate) client: Client,
    /// `HOST:PORT`
    pub(crate) at: String,
    _process: Process,
    _folder: TempDir,
}

impl Echo {
    pub(crate) async fn start() -> Self {
        let folder = TempDir::with_prefix("execution-bench-").expect("a folder can be made");
        let port = free_port();
        let program = std::env::current_exe().expect("a running program has a path");
        let mut command = Command::new(program);
        command.arg(ARGUMENT).arg(port.to_string());
        let process = Process::start("echo", command, folder.path());
        let client = Client::new(port);
        wait::until_true("the echo to answer", DEFAULT_LIMIT, async || {
            try_send(client.request(Method::POST, "/execute/a/b"))
                .await
                .is_ok()
        })
        .await;
        Self {
            client,
            at: format!("127.0.0.1:{port}"),
            _process: process,
            _folder: folder,
        }
    }
}
