//! Bounds what one check costs.
//!
//! A schema of a few kilobytes and an argument of a megabyte can keep a processor busy for hours,
//! or overflow its stack, and no library stops by itself. But whatever a check does, it has to look
//! at the value ([`metered`](super::metered)): each look is charged here. When the budget is spent,
//! the check unwinds to where it began.
//!
//! Only matching a text with a regular expression is not interrupted. So a text is not begun if it
//! could take longer than the check may, and the time that texts have taken is measured.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How much of its thread's stack a check may use, in bytes, when it looks at the value. Threads
/// have 2 MiB.
const STACK: usize = 512 << 10;

/// The time is measured whenever texts may have taken this part of what the check may take.
const PARTS: u64 = 10;

/// What one check may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Looks at values: 10 to 50 ns each.
    pub(super) looks: u64,
    /// Processor time, as far as it is spent on texts.
    pub(super) time: Duration,
}

thread_local! {
    /// The check that runs on this thread.
    static RUNNING: Cell<Running> = const { Cell::new(Running::NONE) };
}

#[derive(Clone, Copy)]
struct Running {
    /// The looks that are left.
    left: u64,
    /// Where its stack begins.
    base: usize,
    /// How long reading a byte of a text may take, in nanoseconds.
    byte_ns: u64,
    /// How long it may take to read texts, in nanoseconds.
    time: u64,
    /// When that is over, by the processor time of this thread in nanoseconds.
    end: u64,
    /// How long the texts may have taken since the time was measured, in nanoseconds.
    unmeasured: u64,
}

/// What unwinds out of a check that costs too much.
struct Spent;

/// Why a check was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Its budget is spent, or the stack is.
    Spent,
    /// The library panicked.
    Panicked,
}

impl Running {
    const NONE: Self = Self {
        left: 0,
        base: 0,
        byte_ns: 0,
        time: 0,
        end: 0,
        unmeasured: 0,
    };
}

/// Runs a check with a budget. Reading a byte of a text takes `byte_ns` at most, in nanoseconds; 0
/// if it takes no more than a look.
pub(super) fn run<T>(
    budget: Budget,
    byte_ns: u64,
    check: impl FnOnce() -> T,
) -> Result<T, Stopped> {
    let time = nanoseconds(budget.time);
    let begun = if byte_ns == 0 { 0 } else { thread_time() };
    RUNNING.set(Running {
        left: budget.looks,
        base: stack_position(),
        byte_ns,
        time,
        end: begun.saturating_add(time),
        unmeasured: 0,
    });
    catch_unwind(AssertUnwindSafe(check)).map_err(|payload| {
        if payload.is::<Spent>() {
            Stopped::Spent
        } else {
            Stopped::Panicked
        }
    })
}

/// Charges the check that runs on this thread.
pub(super) fn charge(looks: usize) {
    let running = RUNNING.get();
    match running.left.checked_sub(looks as u64) {
        Some(left) if running.base.abs_diff(stack_position()) <= STACK => {
            RUNNING.set(Running { left, ..running });
        }
        _ => give_up(),
    }
}

/// Charges for reading a text of so many bytes.
pub(super) fn charge_text(bytes: usize) {
    charge(1 + bytes / 16);
    let mut running = RUNNING.get();
    if running.byte_ns == 0 {
        return;
    }
    let longest = running.byte_ns.saturating_mul(bytes as u64);
    if longest > running.time {
        give_up();
    }
    running.unmeasured = running.unmeasured.saturating_add(longest);
    if running.unmeasured > running.time / PARTS {
        if thread_time() > running.end {
            give_up();
        }
        running.unmeasured = longest;
    }
    RUNNING.set(running);
}

/// Ends the check that runs on this thread, without the message of a panic.
fn give_up() -> ! {
    resume_unwind(Box::new(Spent))
}

/// The processor time that this thread has used, in nanoseconds.
fn thread_time() -> u64 {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(used).map_or(0, nanoseconds)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// About where the stack ends.
#[inline]
fn stack_position() -> usize {
    let here = 0_u8;
    std::hint::black_box(&raw const here) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A budget of 10 looks and 100 ns.
    const BUDGET: Budget = Budget {
        looks: 10,
        time: Duration::from_nanos(100),
    };

    #[test]
    fn a_check_ends_when_its_budget_is_spent() {
        let spend = |looks: u64| {
            run(BUDGET, 0, || {
                for _ in 0..looks {
                    charge(1);
                }
            })
        };
        assert_eq!(spend(10), Ok(()));
        assert_eq!(spend(11), Err(Stopped::Spent));
        assert_eq!(
            run(BUDGET, 0, || panic!("on purpose")),
            Err::<(), _>(Stopped::Panicked)
        );
    }

    #[test]
    fn a_text_that_could_take_too_long_is_not_begun() {
        let read = |byte_ns, bytes| run(BUDGET, byte_ns, || charge_text(bytes));
        assert_eq!(read(1, 101), Err(Stopped::Spent));
        assert_eq!(read(0, 101), Ok(()));
        assert_eq!(read(0, 160), Err(Stopped::Spent));
        assert_eq!(read(1, usize::MAX), Err(Stopped::Spent));
    }

    #[test]
    fn texts_end_when_their_time_is_over() {
        let long = Budget {
            looks: u64::MAX,
            time: Duration::from_millis(5),
        };
        let endless = || {
            loop {
                charge_text(10);
            }
        };
        assert_eq!(run::<()>(long, 1000, endless), Err(Stopped::Spent));
    }

    #[test]
    fn a_check_ends_before_its_stack_overflows() {
        fn descend(depth: u64) -> u64 {
            charge(0);
            if depth == u64::MAX {
                return 0;
            }
            1 + std::hint::black_box(descend(depth + 1))
        }
        assert_eq!(run(BUDGET, 0, || descend(0)), Err(Stopped::Spent));
    }
}
