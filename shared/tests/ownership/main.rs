//! The ownership protocol, checked: every order in which its steps and a few faults can happen.
//!
//! A model that holds proves something only if it fails without what it rests on. So each rule is
//! taken out in turn, and a violation must be found.

#![expect(
    clippy::print_stdout,
    reason = "the counts of states are part of the result"
)]

mod calls;
mod cleaning;
mod comparison;
mod farm;
mod faults;
mod loads;
mod real;
mod references;
mod rules;
mod script;
mod state;
mod steps;

use stateright::{Checker, HasDiscoveries, Model};

use crate::calls::{CallRule, Calls};
use crate::farm::Farm;
use crate::rules::{Rule, Rules};
use crate::state::Budget;

/// Checks a farm; gives the number of states, or what was violated and by which steps.
fn check(rules: Rules, budget: Budget) -> Result<usize, String> {
    let farm = Farm { rules, budget };
    let checker = farm
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let mut violations = checker.discoveries().into_iter();
    match violations.find(|(name, _)| *name != "a load is acknowledged") {
        Some((name, path)) => Err(format!("{name}: {:#?}", path.into_actions())),
        None => Ok(checker.unique_state_count()),
    }
}

/// The sets of faults that are tried together.
fn budgets() -> Vec<(&'static str, Budget)> {
    let base = Budget {
        loads: 1,
        reapers: 2,
        ..Budget::default()
    };
    #[rustfmt::skip]
    let small = vec![
        ("reload", Budget { loads: 2, raises: 1, quarantines: 1, lifts: 1, ..base }),
        ("load after unload", Budget { loads: 2, unloads: 1, reapers: 1, ..base }),
        ("failed load", Budget { loads: 2, failures: 1, quarantines: 1, ..base }),
        ("failover", Budget { kills: 1, silences: 1, raises: 1, ..base }),
        ("silence", Budget { silences: 2, raises: 1, ..base }),
        ("unload", Budget { unloads: 1, duplicates: 1, silences: 1, ..base }),
        ("loss", Budget { losses: 1, raises: 1, silences: 1, reapers: 1, ..base }),
        ("loss of a quarantine", Budget { losses: 1, quarantines: 1, lifts: 1, ..base }),
        ("unlisting", Budget { kills: 1, unlistings: 1, ..base }),
    ];
    if std::env::var("MODEL").as_deref() != Ok("large") {
        return small;
    }
    #[rustfmt::skip]
    let large = [
        ("reload and failover",
            Budget { loads: 2, kills: 1, silences: 1, raises: 1, quarantines: 1, reapers: 1, ..base }),
        ("unload and failover",
            Budget { loads: 2, unloads: 1, kills: 1, silences: 1, duplicates: 1, reapers: 1, ..base }),
        ("failures and quarantine",
            Budget { loads: 2, silences: 1, failures: 1, quarantines: 1, lifts: 1, ..base }),
        ("loss and reload",
            Budget { loads: 2, losses: 1, silences: 1, raises: 1, quarantines: 1, reapers: 1, ..base }),
        ("loss and unload",
            Budget { unloads: 1, losses: 1, silences: 1, failures: 1, reapers: 1, ..base }),
    ];
    small.into_iter().chain(large).collect()
}

#[test]
fn the_protocol_holds() {
    let mut states = 0;
    for (name, budget) in budgets() {
        let begun = std::time::Instant::now();
        match check(Rules::ALL, budget) {
            Ok(count) => {
                println!("{name}: {count} states in {:?}", begun.elapsed());
                states += count;
            }
            Err(violation) => panic!("{name}: {violation}"),
        }
    }
    assert!(states > 1000, "{states}");
}

#[test]
fn without_any_one_of_its_rules_it_is_broken() {
    for rule in Rule::ALL {
        let found = budgets().into_iter().find_map(|(name, budget)| {
            check(Rules::without(rule), budget).err().map(|e| (name, e))
        });
        match found {
            Some((name, violation)) => {
                println!(
                    "{rule:?} by {name}: {}",
                    violation.lines().next().unwrap_or_default()
                );
            }
            None => panic!("nothing is violated without {rule:?}"),
        }
    }
}

/// Checks the calls of a contract; gives the number of states, or what was violated.
fn check_calls(calls: Calls) -> Result<usize, String> {
    let checker = calls
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    match checker.discoveries().into_iter().next() {
        Some((name, path)) => Err(format!("{name}: {:#?}", path.into_actions())),
        None => Ok(checker.unique_state_count()),
    }
}

#[test]
fn what_is_promised_of_a_call_holds() {
    for docker in [false, true] {
        let states = check_calls(Calls {
            without: None,
            docker,
        });
        println!("docker: {docker}: {states:?} states");
        assert!(states.unwrap() > 1000);
    }
}

#[test]
fn without_any_one_of_its_rules_a_promise_is_broken() {
    for rule in CallRule::ALL {
        let without = Some(rule);
        let violation = [false, true]
            .into_iter()
            .find_map(|docker| check_calls(Calls { without, docker }).err());
        match violation {
            Some(violation) => {
                println!("{rule:?}: {}", violation.lines().next().unwrap_or_default());
            }
            None => panic!("nothing is violated without {rule:?}"),
        }
    }
}
