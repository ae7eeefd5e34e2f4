//! The store for executables and large arguments, which are too big for a frame. For how long an
//! executable stays is decided by [`references`](super::references).

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::references::Reference;
use super::timing::{BODY_SLACK, STAGED_BLOB, millis};
use super::{Queue, QueueError};
use crate::protocol::id::{ApiId, JobId};

/// The bytes of one piece. Executables are sent and stored in pieces, because Redis serves nothing
/// else while it receives a command: 50 MB at once delay other clients by 140 ms, pieces by 14 ms
/// at most.
pub(super) const PIECE: usize = 256 * 1024;

/// The name of an executable in the store: SHA-256 in lower-case hexadecimal.
pub fn digest(executable: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(executable)
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

impl Queue {
    /// Puts an executable into the store for `ttl`. Within this time a worker must
    /// [keep](Self::keep_blob) it. An executable that is kept already stays kept and is not sent
    /// again.
    pub async fn stage_blob(
        &self,
        digest: &str,
        executable: &[u8],
        ttl: Duration,
    ) -> Result<(), QueueError> {
        let key = self.keys().blob(digest);
        let seconds = ttl.as_secs().max(1);
        self.enlist_blob(digest).await?;
        let (_, exists): (u8, bool) = redis::pipe()
            .cmd("EXPIRE")
            .arg(&key)
            .arg(seconds)
            .arg("GT")
            .cmd("EXISTS")
            .arg(&key)
            .query_async(&mut self.pooled().await?)
            .await?;
        if !exists {
            self.send_blob(digest, executable, seconds).await?;
        }
        self.count_executable(digest, executable.len()).await
    }

    /// Sends an executable piece by piece under a temporary name. After the last piece the list is
    /// renamed, so that no reader ever gets half an executable.
    async fn send_blob(
        &self,
        digest: &str,
        executable: &[u8],
        seconds: u64,
    ) -> Result<(), QueueError> {
        let (key, sent) = (self.keys().blob(digest), self.keys().incoming_blob(digest));
        let mut connection = self.pooled().await?;
        for piece in executable.chunks(PIECE) {
            // A transaction: a piece without an expiry would stay for ever.
            redis::pipe()
                .atomic()
                .rpush(&sent, piece)
                .cmd("EXPIRE")
                .arg(&sent)
                .arg(seconds)
                .exec_async(&mut connection)
                .await?;
        }
        redis::pipe()
            .atomic()
            .cmd("RENAMENX")
            .arg(&sent)
            .arg(&key)
            .cmd("UNLINK")
            .arg(&sent)
            .exec_async(&mut connection)
            .await?;
        Ok(())
    }

    /// Reads an executable. None if the store does not have it (any more).
    pub async fn fetch_blob(&self, digest: &str) -> Result<Option<Vec<u8>>, QueueError> {
        let key = self.keys().blob(digest);
        let mut connection = self.pooled().await?;
        let (pieces, mut first): (usize, Vec<Vec<u8>>) = redis::pipe()
            .cmd("LLEN")
            .arg(&key)
            .cmd("LRANGE")
            .arg(&key)
            .arg(0)
            .arg(0)
            .query_async(&mut connection)
            .await?;
        let Some(mut executable) = first.pop() else {
            return Ok(None);
        };
        executable.reserve(PIECE * (pieces - 1));
        for index in 1..pieces {
            let piece: Option<Vec<u8>> = redis::cmd("LINDEX")
                .arg(&key)
                .arg(index)
                .query_async(&mut connection)
                .await?;
            let Some(piece) = piece else {
                return Ok(None);
            };
            executable.extend_from_slice(&piece);
        }
        Ok(Some(executable))
    }

    /// Puts an executable into the store and keeps it there for a load.
    pub async fn store_blob(
        &self,
        digest: &str,
        executable: &[u8],
        reference: &Reference,
    ) -> Result<(), QueueError> {
        self.stage_blob(digest, executable, STAGED_BLOB).await?;
        self.keep_blob(digest, reference).await?;
        Ok(())
    }

    /// Stores an argument until some time after the job's `deadline`. Returns its name.
    pub async fn store_body(
        &self,
        api: ApiId,
        job: JobId,
        body: &[u8],
        deadline: u64,
    ) -> Result<String, QueueError> {
        let key = self.keys().body(api, job);
        let ttl = self.clock().until(deadline) + BODY_SLACK;
        redis::cmd("SET")
            .arg(&key)
            .arg(body)
            .arg("PX")
            .arg(millis(ttl))
            .query_async::<()>(&mut self.pooled().await?)
            .await?;
        Ok(key)
    }

    /// Reads a stored argument. None if it has expired.
    pub async fn fetch_body(&self, name: &str) -> Result<Option<String>, QueueError> {
        Ok(redis::cmd("GET")
            .arg(name)
            .query_async(&mut self.pooled().await?)
            .await?)
    }

    /// Removes a stored argument.
    pub async fn remove_body(&self, name: &str) -> Result<(), QueueError> {
        Ok(redis::cmd("UNLINK")
            .arg(name)
            .query_async(&mut self.pooled().await?)
            .await?)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_digest_is_sha256_in_hexadecimal() {
        assert_eq!(
            super::digest(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
