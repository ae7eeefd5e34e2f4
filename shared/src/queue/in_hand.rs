//! The entries of a stream that a reader has returned, and whether they are settled.
//!
//! Redis keeps an entry pending from its delivery to its acknowledgement. If a connection breaks
//! half-way, Redis may deliver entries to it that never arrive. So a reader lists what is pending
//! again ([`CatchUp`]), and sorts the list with the help of this module:
//!
//! - *in hand*: returned, and not settled yet. It is skipped.
//! - *new*: never returned. It was delivered to a broken connection.
//! - *returned before*: settled as far as this process knows. Redis has lost that, for example in a
//!   failover, and possibly the replies as well.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::stream::EntryId;
use super::timing::BLOCKING_RESPONSE_TIMEOUT;
use crate::service::moment::Moment;

/// Entries that are remembered at least, before those that are no longer needed are removed.
const REMEMBERED: usize = 1024;

/// Entries that are remembered at most while connections keep breaking.
const REMEMBERED_AT_MOST: usize = 64 * 1024;

/// An entry that was read. It is in hand while a clone of this value exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRef(Arc<str>);

impl EntryRef {
    /// The id of the entry.
    pub fn id(&self) -> &str {
        &self.0
    }

    /// A reference that does not keep the entry in hand.
    pub fn downgrade(&self) -> Weak<str> {
        Arc::downgrade(&self.0)
    }
}

impl From<&str> for EntryRef {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl std::fmt::Display for EntryRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known about a pending entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// It was returned and is not settled yet.
    InHand,
    /// It was never returned.
    New(EntryRef),
    /// It was returned and is no longer in hand.
    ReturnedBefore(EntryRef),
}

/// The entries that one reader has returned.
#[derive(Debug, Default)]
pub(super) struct InHand {
    returned: HashMap<EntryId, Weak<str>>,
    /// The highest entry that was returned.
    last: EntryId,
    /// Whether every entry that Redis delivers arrives: no earlier connection can receive one.
    is_settled: bool,
    /// No entry up to this one can be new.
    certain: EntryId,
    prune_at: usize,
}

impl InHand {
    /// Notes a new connection. The earlier one may have received entries that did not arrive.
    fn connected(&mut self) {
        self.is_settled = false;
    }

    /// Notes that no entry is pending that was not returned, and that none can become so.
    fn caught_up(&mut self) {
        self.is_settled = true;
        self.certain = self.certain.max(self.last);
    }

    /// The entries that are in hand now. It must be called before the pending entries are listed:
    /// an entry that is settled meanwhile may still be in the list.
    pub(super) fn now(&self) -> HashSet<EntryId> {
        let in_hand = self.returned.iter().filter(|(_, entry)| is_alive(entry));
        in_hand.map(|(id, _)| *id).collect()
    }

    /// Takes an entry that Redis delivered for the first time. None if it is in hand already: after
    /// a failover Redis may deliver an entry twice.
    ///
    /// Its id may be lower than that of an earlier entry, if Redis lost data and its clock went
    /// back.
    pub(super) fn take_delivered(&mut self, id: &str) -> Option<EntryRef> {
        let position = EntryId::parse(id);
        let earlier = self.returned.get(&position);
        (!earlier.is_some_and(is_alive)).then(|| self.take(position, id))
    }

    /// Sorts an entry that is pending. `in_hand` is what [`Self::now`] returned before.
    pub(super) fn take_pending(&mut self, id: &str, in_hand: &HashSet<EntryId>) -> Pending {
        let position = EntryId::parse(id);
        if in_hand.contains(&position) || self.returned.get(&position).is_some_and(is_alive) {
            return Pending::InHand;
        }
        let is_known = position <= self.certain || self.returned.contains_key(&position);
        let entry = self.take(position, id);
        if is_known {
            Pending::ReturnedBefore(entry)
        } else {
            Pending::New(entry)
        }
    }

    fn take(&mut self, position: EntryId, id: &str) -> EntryRef {
        let entry = EntryRef::from(id);
        self.returned.insert(position, entry.downgrade());
        self.last = self.last.max(position);
        if self.is_settled || self.returned.len() > REMEMBERED_AT_MOST {
            self.certain = self.certain.max(self.last);
        }
        if self.returned.len() > self.prune_at {
            let certain = self.certain;
            self.returned
                .retain(|id, entry| *id > certain || is_alive(entry));
            self.prune_at = REMEMBERED.max(2 * self.returned.len());
        }
        entry
    }
}

fn is_alive(entry: &Weak<str>) -> bool {
    entry.strong_count() > 0
}

/// Asks a reader to list its pending entries again. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct CatchUpRequest(Arc<AtomicBool>);

impl CatchUpRequest {
    /// The reader lists its pending entries before it waits for new ones the next time.
    pub fn send(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Decides when a reader lists its pending entries from the first one.
///
/// It does so on each new connection, and once more when no read of an earlier connection can wait
/// in Redis any more: until then Redis may deliver entries to a connection that is dead. It also
/// does so on [request](CatchUpRequest).
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    requests: CatchUpRequest,
    /// The last entry that was listed, while a pass is in progress.
    position: Option<EntryId>,
    /// When to list once more.
    again: Option<Moment>,
    /// Whether the pass in progress is the last one after a new connection.
    is_last: bool,
}

impl CatchUp {
    /// Answers these requests instead of its own.
    pub(super) fn answer(&mut self, requests: CatchUpRequest) {
        self.requests = requests;
    }

    /// The handle for requests.
    pub(super) fn requests(&self) -> CatchUpRequest {
        self.requests.clone()
    }

    /// Notes a new connection.
    pub(super) fn connected(&mut self, in_hand: &mut InHand) {
        in_hand.connected();
        self.position = Some(EntryId::default());
        self.again = Some(Moment::now() + BLOCKING_RESPONSE_TIMEOUT);
        self.is_last = false;
    }

    /// The entry after which pending entries are to be listed now, if any.
    pub(super) fn position(&mut self) -> Option<EntryId> {
        if self.position.is_none() {
            let is_due = self.again.is_some_and(|again| Moment::now() >= again);
            if is_due {
                self.again = None;
                self.is_last = true;
            }
            if self.requests.0.swap(false, Ordering::Relaxed) || is_due {
                self.position = Some(EntryId::default());
            }
        }
        self.position
    }

    /// Notes that pending entries up to `last` were listed. None if there are no more.
    pub(super) fn listed(&mut self, last: Option<EntryId>, in_hand: &mut InHand) {
        self.position = last;
        if last.is_none() && std::mem::take(&mut self.is_last) {
            in_hand.caught_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_in_hand_until_every_clone_is_dropped() {
        let mut in_hand = InHand::default();
        let entry = in_hand.take_delivered("5-1").unwrap();
        assert_eq!(in_hand.take_delivered("5-1"), None, "delivered twice");
        let clone = entry.clone();
        drop(entry);
        let now = in_hand.now();
        assert_eq!(in_hand.take_pending("5-1", &now), Pending::InHand);
        drop(clone);
        assert_eq!(
            in_hand.take_pending("5-1", &now),
            Pending::InHand,
            "settled after the pending entries were listed"
        );
        let now = in_hand.now();
        let again = in_hand.take_pending("5-1", &now);
        assert!(matches!(again, Pending::ReturnedBefore(_)));
    }

    #[test]
    fn an_entry_lost_between_two_that_arrived_is_new_until_the_reader_has_caught_up() {
        let mut in_hand = InHand::default();
        drop(in_hand.take_delivered("1-0"));
        in_hand.caught_up();
        drop(in_hand.take_delivered("2-0"));
        in_hand.connected();
        drop(in_hand.take_delivered("5-0"));
        let now = in_hand.now();
        let mut sort = |id| in_hand.take_pending(id, &now);
        assert!(matches!(sort("2-0"), Pending::ReturnedBefore(_)));
        assert!(matches!(sort("3-0"), Pending::New(_)));
        assert!(matches!(sort("5-0"), Pending::ReturnedBefore(_)));
        in_hand.caught_up();
        let now = in_hand.now();
        let late = in_hand.take_pending("4-0", &now);
        assert!(matches!(late, Pending::ReturnedBefore(_)));
    }

    #[test]
    fn settled_entries_are_forgotten() {
        let mut in_hand = InHand::default();
        in_hand.caught_up();
        let held = in_hand.take_delivered("1-0");
        for id in 2..100_000 {
            drop(in_hand.take_delivered(&format!("{id}-0")));
        }
        assert!(in_hand.returned.len() <= 2 * REMEMBERED);
        assert_eq!(in_hand.now().len(), 1);
        drop(held);
    }

    #[test]
    fn what_is_remembered_is_bounded_while_connections_break() {
        let mut in_hand = InHand::default();
        for id in 1..200_000 {
            drop(in_hand.take_delivered(&format!("{id}-0")));
        }
        assert!(in_hand.returned.len() <= 2 * REMEMBERED_AT_MOST);
    }

    #[test]
    fn ids_may_go_back() {
        let mut in_hand = InHand::default();
        in_hand.caught_up();
        drop(in_hand.take_delivered("100-0"));
        assert!(in_hand.take_delivered("50-0").is_some());
    }

    #[test]
    fn pending_entries_are_listed_on_connections_and_requests() {
        let (mut catch_up, mut in_hand) = (CatchUp::default(), InHand::default());
        assert_eq!(catch_up.position(), None);
        catch_up.connected(&mut in_hand);
        assert_eq!(catch_up.position(), Some(EntryId::default()));
        catch_up.listed(Some(EntryId::parse("7-0")), &mut in_hand);
        assert_eq!(catch_up.position(), Some(EntryId::parse("7-0")));
        catch_up.listed(None, &mut in_hand);
        assert_eq!(catch_up.position(), None);
        assert!(!in_hand.is_settled, "an old read may still wait in Redis");
        catch_up.again = Some(Moment::now());
        assert!(catch_up.position().is_some());
        catch_up.listed(None, &mut in_hand);
        assert!(in_hand.is_settled);
        catch_up.requests().send();
        assert!(catch_up.position().is_some());
    }
}
