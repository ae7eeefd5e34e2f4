//! How the kernel schedules a process and those that it starts.

use std::fmt;
use std::io;
use std::str::FromStr;

use super::config::{Reader, Setting};

pub(super) const SCHEDULING: Setting = Setting::new(
    "SCHEDULING",
    "normal",
    "normal or batch: with batch, a thread that wakes up waits until the running one's time slice ends.",
);

/// A policy of the kernel's scheduler. Children inherit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduling {
    /// Whatever the process was started with.
    Normal,
    /// `SCHED_BATCH`: a thread that wakes up does not interrupt the running one. The messages of a
    /// busy farm gather meanwhile, which saves more than the wait costs. But where anything else
    /// computes, a contract's loop included, each step of a call waits for some milliseconds.
    Batch,
}

/// A text names no scheduling.
#[derive(Debug, thiserror::Error)]
#[error("must be normal or batch, not \"{0}\"")]
pub struct UnknownScheduling(String);

impl FromStr for Scheduling {
    type Err = UnknownScheduling;

    fn from_str(text: &str) -> Result<Self, UnknownScheduling> {
        match text {
            "normal" => Ok(Self::Normal),
            "batch" => Ok(Self::Batch),
            _ => Err(UnknownScheduling(text.to_owned())),
        }
    }
}

impl fmt::Display for Scheduling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "normal",
            Self::Batch => "batch",
        })
    }
}

impl Scheduling {
    /// Reads `SCHEDULING`.
    pub fn read(reader: &mut Reader) -> Self {
        reader.parse(&SCHEDULING)
    }

    /// Applies to this thread, and to the threads and processes that it starts from now on. A
    /// policy other than the kernel's default is kept: somebody chose it.
    pub(super) fn apply(self) -> io::Result<()> {
        if self == Self::Batch && is_default() {
            return set_batch();
        }
        Ok(())
    }
}

#[expect(unsafe_code, reason = "no crate in use offers the system call")]
fn is_default() -> bool {
    // SAFETY: the call takes a number and returns a number.
    (unsafe { libc::sched_getscheduler(0) }) == libc::SCHED_OTHER
}

#[expect(unsafe_code, reason = "no crate in use offers the system call")]
fn set_batch() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a value that outlives the call, which only reads it.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_and_those_that_it_starts_are_batch() {
        #[expect(unsafe_code, reason = "no crate in use offers the system call")]
        // SAFETY: the call takes a number and returns a number.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        // A thread of its own: the policy of the test's thread stays as it is.
        let seen = std::thread::spawn(move || {
            Scheduling::Normal.apply().unwrap();
            let before = policy();
            Scheduling::Batch.apply().unwrap();
            (before, std::thread::spawn(policy).join().unwrap())
        });
        let (before, after) = seen.join().unwrap();
        assert_eq!(before, policy());
        assert_eq!(after, libc::SCHED_BATCH);
    }
}
