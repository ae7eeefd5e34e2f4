//! Bounds what one check costs.
//!
//! A schema of a few kilobytes and an argument of a megabyte can keep a processor busy for hours,
//! or overflow its stack, and no library stops by itself. But whatever a check does, it has to look
//! at the value ([`metered`](super::metered)): each look is charged here. When the budget is spent,
//! the check unwinds to where it began.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// How much of its thread's stack a check may use, in bytes, when it looks at the value. Threads
/// have 2 MiB.
const STACK: usize = 512 << 10;

thread_local! {
    /// The check that runs on this thread.
    static RUNNING: Cell<Running> = const { Cell::new(Running { left: 0, base: 0 }) };
}

#[derive(Clone, Copy)]
struct Running {
    /// What may still be charged.
    left: u64,
    /// Where its stack begins.
    base: usize,
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

/// Runs a check with a budget. A unit is about one look at a value: 10 to 50 ns.
pub(super) fn run<T>(budget: u64, check: impl FnOnce() -> T) -> Result<T, Stopped> {
    let base = stack_position();
    RUNNING.set(Running { left: budget, base });
    catch_unwind(AssertUnwindSafe(check)).map_err(|payload| {
        if payload.is::<Spent>() {
            Stopped::Spent
        } else {
            Stopped::Panicked
        }
    })
}

/// Charges the check that runs on this thread.
pub(super) fn charge(units: usize) {
    let Running { left, base } = RUNNING.get();
    match left.checked_sub(units as u64) {
        Some(left) if base.abs_diff(stack_position()) <= STACK => {
            RUNNING.set(Running { left, base });
        }
        // Without the message of a panic.
        _ => resume_unwind(Box::new(Spent)),
    }
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

    #[test]
    fn a_check_ends_when_its_budget_is_spent() {
        let spend = |units: u64| {
            run(10, || {
                for _ in 0..units {
                    charge(1);
                }
            })
        };
        assert_eq!(spend(10), Ok(()));
        assert_eq!(spend(11), Err(Stopped::Spent));
        assert_eq!(
            run(1, || panic!("on purpose")),
            Err::<(), _>(Stopped::Panicked)
        );
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
        assert_eq!(run(1, || descend(0)), Err(Stopped::Spent));
    }
}
