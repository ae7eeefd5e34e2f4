//! The user ids that browsers run as when the worker is root. Each browser of the host has one of
//! its own, so a browser that was taken over cannot signal, trace or read the files of another.
//!
//! A guard claims an id by locking a file for as long as its browser runs. The kernel releases the
//! lock when the guard ends, in whatever way. All workers of a host use the same folder, so they
//! share the range.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::str::FromStr;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

/// The folder with a file for each id. Only root can write to `/run`.
const CLAIMS: &str = "/run/execution-worker";

/// A range of user ids, which no account of the host should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uids {
    first: u32,
    last: u32,
}

/// A user id that no other browser has while this exists.
#[derive(Debug)]
pub(super) struct ClaimedUid {
    pub(super) uid: u32,
    _claim: Flock<File>,
}

/// Why a browser has no user id. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClaimError {
    #[error("every user id of CHROMIUM_UIDS is in use by a browser; choose a larger range")]
    AllInUse,
    #[error(
        "the user id of a browser cannot be claimed in {CLAIMS}: {0}. Let root write to /run, or \
         run the worker as an unprivileged user"
    )]
    Folder(#[from] io::Error),
}

impl Default for Uids {
    /// Ids that neither Debian nor systemd gives to accounts, below 65536, so that most user
    /// namespaces have them, too.
    fn default() -> Self {
        Self {
            first: 60_800,
            last: 61_055,
        }
    }
}

impl fmt::Display for Uids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for Uids {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "must be a range of user ids without root, such as 60800-61055";
        let (first, last) = text.split_once('-').ok_or(SHAPE)?;
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| SHAPE);
        let (first, last) = (number(first)?, number(last)?);
        // The highest number means "no user" to the kernel.
        if first == 0 || last < first || last == u32::MAX {
            return Err(SHAPE);
        }
        Ok(Self { first, last })
    }
}

impl Uids {
    /// Claims an id. None unless this process is root: the browser then keeps its user.
    pub(super) fn claim(self) -> Result<Option<ClaimedUid>, ClaimError> {
        if geteuid().is_root() {
            self.claim_in(Path::new(CLAIMS)).map(Some)
        } else {
            Ok(None)
        }
    }

    fn claim_in(self, folder: &Path) -> Result<ClaimedUid, ClaimError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let count = self.last - self.first + 1;
        // From a random one on, so that an id rests after its browser has ended.
        let start = rand::random_range(0..count);
        for step in 0..count {
            let uid = self.first + (start + step) % count;
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(folder.join(format!("browser-{uid}")))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(claim) => return Ok(ClaimedUid { uid, _claim: claim }),
                Err((_, Errno::EWOULDBLOCK)) => {}
                Err((_, error)) => return Err(io::Error::from(error).into()),
            }
        }
        Err(ClaimError::AllInUse)
    }

    /// Whether a map of `/proc` contains the whole range.
    fn is_within(self, map: &str) -> bool {
        map.lines().any(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u64>);
            let (Some(Ok(inside)), Some(Ok(_)), Some(Ok(count))) =
                (numbers.next(), numbers.next(), numbers.next())
            else {
                return false;
            };
            inside <= self.first.into() && u64::from(self.last) < inside + count
        })
    }
}

/// Checks that `browsers` browsers can run as users of this range; the error says why not.
pub fn check_uids(uids: Uids, browsers: usize) -> Result<(), String> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let count = u64::from(uids.last - uids.first) + 1;
    if count < browsers as u64 {
        return Err(format!("has {count} user ids for {browsers} browsers"));
    }
    for map in ["/proc/self/uid_map", "/proc/self/gid_map"] {
        if fs::read_to_string(map).is_ok_and(|map| !uids.is_within(&map)) {
            return Err("has ids that the worker's user namespace does not have".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written() {
        let uids: Uids = "7-9".parse().unwrap();
        assert_eq!((uids.first, uids.last), (7, 9));
        assert_eq!(uids.to_string(), "7-9");
        assert_eq!(Uids::default().to_string().parse(), Ok(Uids::default()));
        for text in ["", "7", "0-9", "9-7", "a-b", "nobody", "1-4294967295"] {
            assert!(text.parse::<Uids>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_claim_has_an_id_of_its_own_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("claims");
        let uids: Uids = "7-9".parse().unwrap();
        let mut claims: Vec<_> = (0..3).map(|_| uids.claim_in(&folder).unwrap()).collect();
        let mut claimed: Vec<_> = claims.iter().map(|claim| claim.uid).collect();
        claimed.sort_unstable();
        assert_eq!(claimed, [7, 8, 9]);
        assert!(matches!(uids.claim_in(&folder), Err(ClaimError::AllInUse)));
        let freed = claims.pop().unwrap().uid;
        assert_eq!(uids.claim_in(&folder).unwrap().uid, freed);
    }

    #[test]
    fn a_range_must_be_mapped_as_a_whole() {
        let uids: Uids = "100-199".parse().unwrap();
        assert!(uids.is_within("         0          0 4294967295\n"));
        assert!(uids.is_within("0 5000 10\n100 9000 100\n"));
        assert!(!uids.is_within("0 5000 199\n"));
        assert!(!uids.is_within(""));
    }
}
