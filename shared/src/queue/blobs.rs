//! Executables and large arguments: what is too big to travel in a frame.

use std::time::Duration;

use redis::Script;
use sha2::{Digest, Sha256};

use super::timing::{BODY_SLACK, STAGED_BLOB, UNREFERENCED_BLOB, millis};
use super::{Queue, QueueError};
use crate::protocol::id::{ApiId, ContractAddress, JobId};

/// Executables travel and lie in pieces of so many bytes: Redis serves nobody else while it takes
/// a command in, and with 50 MB at once all others wait for 140 ms, with pieces at most for 14.
const PIECE: usize = 256 * 1024;

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
    /// Puts an executable into the store for `ttl`, within which a worker must [keep](Self::keep_blob)
    /// it. What is kept already stays kept, and is not sent again.
    pub async fn stage_blob(
        &self,
        digest: &str,
        executable: &[u8],
        ttl: Duration,
    ) -> Result<(), QueueError> {
        let key = self.keys().blob(digest);
        let seconds = ttl.as_secs().max(1);
        let (_, is_there): (u8, bool) = redis::pipe()
            .cmd("EXPIRE")
            .arg(&key)
            .arg(seconds)
            .arg("GT")
            .cmd("EXISTS")
            .arg(&key)
            .query_async(&mut self.pooled().await?)
            .await?;
        if is_there {
            return Ok(());
        }
        self.send_blob(digest, executable, seconds).await
    }

    /// Sends an executable piece by piece under a name of its own, that becomes the executable's
    /// with the last piece: nobody ever sees half of it.
    async fn send_blob(
        &self,
        digest: &str,
        executable: &[u8],
        seconds: u64,
    ) -> Result<(), QueueError> {
        let (key, sent) = (self.keys().blob(digest), self.keys().incoming_blob(digest));
        let mut connection = self.pooled().await?;
        for piece in executable.chunks(PIECE) {
            redis::pipe()
                .rpush(&sent, piece)
                .cmd("EXPIRE")
                .arg(&sent)
                .arg(seconds)
                .exec_async(&mut connection)
                .await?;
        }
        redis::pipe()
            .cmd("RENAMENX")
            .arg(&sent)
            .arg(&key)
            .cmd("UNLINK")
            .arg(&sent)
            .exec_async(&mut connection)
            .await?;
        Ok(())
    }

    /// Reads an executable; none when it is not there (any more).
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

    /// Keeps an executable for as long as `address` refers to it. False when it is not there.
    pub async fn keep_blob(
        &self,
        digest: &str,
        address: &ContractAddress,
    ) -> Result<bool, QueueError> {
        let script = Script::new(
            "if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
             redis.call('PERSIST', KEYS[1])
             redis.call('SADD', KEYS[2], ARGV[1])
             return 1",
        );
        self.blob_script(&script, digest, address).await
    }

    /// Puts an executable into the store and keeps it there for `address`.
    pub async fn store_blob(
        &self,
        digest: &str,
        executable: &[u8],
        address: &ContractAddress,
    ) -> Result<(), QueueError> {
        self.stage_blob(digest, executable, STAGED_BLOB).await?;
        self.keep_blob(digest, address).await?;
        Ok(())
    }

    /// Ends `address`' reference; the last one takes the executable with it.
    pub async fn release_blob(
        &self,
        digest: &str,
        address: &ContractAddress,
    ) -> Result<bool, QueueError> {
        let script = Script::new(
            "redis.call('SREM', KEYS[2], ARGV[1])
             if redis.call('SCARD', KEYS[2]) > 0 then return 0 end
             return redis.call('UNLINK', KEYS[1])",
        );
        self.blob_script(&script, digest, address).await
    }

    /// Drops the references of contracts that are not loaded any more, or with another executable:
    /// whoever was to do so died before. What nobody refers to then expires.
    pub async fn sweep_blobs(&self) -> Result<(), QueueError> {
        for key in self.scan(&self.keys().blob_refs_pattern()).await? {
            let Some(digest) = self.keys().referred_blob(&key) else {
                continue;
            };
            let references: Vec<String> = redis::cmd("SMEMBERS")
                .arg(&key)
                .query_async(&mut self.pooled().await?)
                .await?;
            for reference in references {
                // A reference follows its contract's record, so without one it is of the past.
                let Ok(address) = ContractAddress::try_from(reference) else {
                    continue;
                };
                if !self.is_loaded_with(&address, digest).await? {
                    self.drop_reference(digest, &address).await?;
                }
            }
        }
        Ok(())
    }

    async fn drop_reference(
        &self,
        digest: &str,
        address: &ContractAddress,
    ) -> Result<(), QueueError> {
        let kept = UNREFERENCED_BLOB.as_secs();
        let script = Script::new(&format!(
            "local dropped = redis.call('SREM', KEYS[2], ARGV[1])
             if redis.call('SCARD', KEYS[2]) == 0 then redis.call('EXPIRE', KEYS[1], {kept}) end
             return dropped"
        ));
        if self.blob_script(&script, digest, address).await? {
            tracing::info!(contract = %address, digest, "dropped a reference to an executable");
        }
        // It may have been loaded again in this very moment.
        if self.is_loaded_with(address, digest).await? {
            self.keep_blob(digest, address).await?;
        }
        Ok(())
    }

    async fn is_loaded_with(
        &self,
        address: &ContractAddress,
        digest: &str,
    ) -> Result<bool, QueueError> {
        let record = self.contract(address).await?;
        Ok(record.is_some_and(|record| record.spec.digest == digest))
    }

    async fn blob_script(
        &self,
        script: &Script,
        digest: &str,
        address: &ContractAddress,
    ) -> Result<bool, QueueError> {
        Ok(script
            .key(self.keys().blob(digest))
            .key(self.keys().blob_refs(digest))
            .arg(address.as_str())
            .invoke_async(&mut self.pooled().await?)
            .await?)
    }

    /// Stores an argument until the job's `deadline` and some; returns its name.
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

    /// Reads a stored argument; none when it has expired.
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
