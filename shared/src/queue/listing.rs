//! The list of all contracts, by pages, as callers see it.

use std::collections::HashSet;

use super::contracts::ContractRecord;
use super::registry::Entry;
use super::{Queue, QueueError};
use crate::protocol::id::{ContractAddress, WorkerId};
use crate::protocol::tenant::Tenant;

/// How many entries are read at first, at least: some may be replicas or invisible.
const READ_FIRST: usize = 101;

/// How many are read at once after that: most of them may belong to other tenants.
const READ_MORE: usize = 1000;

/// A place in the list of contracts: behind the last one of a page.
///
/// A contract that is loaded again moves to the end. So it may be listed twice, but no contract
/// is left out. The contract itself may be gone by the time the next page is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    loaded_at: u64,
    address: ContractAddress,
}

/// A text is not a [`Position`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be what the Link header of an earlier page says")]
pub struct InvalidPosition;

impl Position {
    /// As text, for callers who see the contracts of one `tenant`, or of all.
    pub fn to_text(&self, tenant: Option<&Tenant>) -> String {
        let address = match tenant {
            Some(_) => self.address.local(),
            None => self.address.as_str(),
        };
        format!("{}-{address}", self.loaded_at)
    }

    /// Parses what [`Self::to_text`] wrote for the same tenant.
    pub fn parse(text: &str, tenant: Option<&Tenant>) -> Result<Self, InvalidPosition> {
        let (loaded_at, address) = text.split_once('-').ok_or(InvalidPosition)?;
        if !loaded_at.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidPosition);
        }
        let address = match tenant {
            Some(tenant) => ContractAddress::of(tenant, address),
            None => ContractAddress::try_from(address.to_owned()),
        };
        Ok(Self {
            loaded_at: loaded_at.parse().map_err(|_| InvalidPosition)?,
            address: address.map_err(|_| InvalidPosition)?,
        })
    }
}

/// A contract of a list, with the records of all its replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedContract {
    /// The contract.
    pub address: ContractAddress,
    /// The record of its first replica.
    pub record: ContractRecord,
    /// The records of its other replicas, as far as they exist.
    pub replicas: Vec<ContractRecord>,
}

/// A page of the list of contracts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractPage {
    /// The contracts, the one with the oldest load first.
    pub contracts: Vec<ListedContract>,
    /// The workers that are alive.
    pub living: HashSet<WorkerId>,
    /// Where the next page begins. None: this is the last page.
    pub next: Option<Position>,
}

impl Queue {
    /// A page of at most `limit` loaded contracts, from the registry and the contract records.
    ///
    /// One command for the entries and one pipeline for their records. Only a page that has
    /// contracts with replicas needs another one, for the records of these.
    pub async fn list_contracts(
        &self,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<ContractPage, QueueError> {
        self.list_visible_contracts(after, limit, |_| true).await
    }

    /// As [`Self::list_contracts`], of the `visible` contracts only: no position names another one.
    pub async fn list_visible_contracts(
        &self,
        after: Option<&Position>,
        limit: usize,
        visible: impl Fn(&ContractAddress) -> bool,
    ) -> Result<ContractPage, QueueError> {
        let count = limit.saturating_add(1);
        let mut entries = self.first_replicas(after, count, visible).await?;
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next = entries.last().filter(|_| more).cloned();
        let addresses: Vec<_> = entries.into_iter().map(|entry| entry.address).collect();
        let (records, living) = self.contracts_and_workers(&addresses).await?;
        let mut contracts: Vec<_> = addresses
            .into_iter()
            .zip(records)
            .filter_map(|(address, record)| {
                record.map(|record| ListedContract {
                    address,
                    record,
                    replicas: Vec::new(),
                })
            })
            .collect();
        self.add_replicas(&mut contracts).await?;
        Ok(ContractPage {
            contracts,
            living,
            next,
        })
    }

    /// The first `count` contracts after a position. Further replicas have entries of their own,
    /// which are left out, and so are contracts that are not `visible`.
    async fn first_replicas(
        &self,
        after: Option<&Position>,
        count: usize,
        visible: impl Fn(&ContractAddress) -> bool,
    ) -> Result<Vec<Position>, QueueError> {
        let mut after = after.map(|position| Entry {
            loaded_at: position.loaded_at,
            name: position.address.as_str().to_owned(),
        });
        let mut found = Vec::new();
        let mut read_at_once = count.max(READ_FIRST);
        loop {
            let page = self
                .entries(&self.keys().contracts(), after.as_ref(), read_at_once)
                .await?;
            let is_last = page.len() < read_at_once;
            read_at_once = read_at_once.max(READ_MORE);
            after = page.last().cloned().or(after);
            found.extend(page.into_iter().filter_map(|entry| {
                let address = ContractAddress::try_from(entry.name).ok()?;
                if address.replica_number() > 1 || !visible(&address) {
                    return None;
                }
                Some(Position {
                    loaded_at: entry.loaded_at,
                    address,
                })
            }));
            if is_last || found.len() >= count {
                found.truncate(count);
                return Ok(found);
            }
        }
    }

    /// Adds the records of the second and further replicas.
    async fn add_replicas(&self, contracts: &mut [ListedContract]) -> Result<(), QueueError> {
        let replicas: Vec<(usize, ContractAddress)> = contracts
            .iter()
            .enumerate()
            .flat_map(|(index, contract)| {
                let numbers = 2..=contract.record.spec.replicas;
                numbers.map(move |number| (index, contract.address.replica(number)))
            })
            .collect();
        if replicas.is_empty() {
            return Ok(());
        }
        let (indexes, addresses): (Vec<_>, Vec<_>) = replicas.into_iter().unzip();
        let (records, _) = self.contracts_and_workers(&addresses).await?;
        for (index, record) in indexes.into_iter().zip(records) {
            contracts[index].replicas.extend(record);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_written() {
        let (own, acme) = (Tenant::default(), "acme".parse().unwrap());
        let text = "1795672735175-shop-1.prices:v2";
        for tenant in [&own, &acme] {
            let position = Position::parse(text, Some(tenant)).unwrap();
            assert_eq!(position.loaded_at, 1_795_672_735_175);
            assert!(position.address.is_of(tenant));
            assert_eq!(position.address.local(), "shop-1.prices:v2");
            assert_eq!(position.to_text(Some(tenant)), text);
            let of_all = position.to_text(None);
            assert_eq!(Position::parse(&of_all, None), Ok(position));
        }
        for wrong in [
            "", "abcd", "-abcd", "1-", "+1-abcd", "1-a b", "1-abcd~2", "1.5-a", "1-acme/a",
        ] {
            for tenant in [&own, &acme] {
                let position = Position::parse(wrong, Some(tenant));
                assert_eq!(position, Err(InvalidPosition), "{wrong:?}");
            }
        }
    }
}
