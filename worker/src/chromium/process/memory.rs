//! Bounds the memory that one contract may allocate outside the engine's heap.

use std::collections::HashSet;
use std::process::Stdio;

use tokio::process::Command;

use super::guard;
use super::proc::{self, Process};
use crate::chromium::config::ChromiumConfig;

/// Bounds what a page may allocate beyond what its renderer had at the start, outside the engine's
/// heap: array buffers, WebAssembly memory, the document. Over the limit, the allocation fails
/// inside the page.
pub(crate) async fn bound(config: &ChromiumConfig, renderers: &HashSet<Process>, limit_mb: u32) {
    for renderer in renderers {
        let bytes = renderer.data_bytes() + (u64::from(limit_mb) << 20);
        if proc::limit_data(renderer.pid, bytes).is_ok() {
            continue;
        }
        // Root without CAP_SYS_RESOURCE may not set the limit, but the renderer's own user may.
        let stage = Command::new(&config.guard)
            .arg(guard::LIMIT)
            .arg(bytes.to_string())
            .arg(renderer.pid.to_string())
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await;
        if !stage.is_ok_and(|status| status.success()) && renderer.is_alive() {
            tracing::warn!(pid = %renderer.pid, "renderer memory limit could not be set");
        }
    }
}
