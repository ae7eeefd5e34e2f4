//! What a tenant has loaded: contracts, and the bytes of their executables.

use std::collections::HashMap;

use super::registry::Entry;
use super::{Queue, QueueError};
use crate::protocol::id::ContractAddress;
use crate::protocol::tenant::Tenant;

/// Entries of the registry that are read at once.
const PAGE: usize = 1000;

/// The contracts of a tenant, replicas included, each with the bytes of its executable.
pub type Holdings = HashMap<ContractAddress, u64>;

impl Queue {
    /// What a tenant has loaded, from the registry, the records and the sizes of the executables.
    /// It reads the names of all contracts of the farm, and the records of the tenant's own.
    pub async fn holdings(&self, tenant: &Tenant) -> Result<Holdings, QueueError> {
        let (mut holdings, mut after) = (Holdings::new(), None::<Entry>);
        let list = self.keys().contracts();
        loop {
            let page = self.entries(&list, after.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().cloned();
            let own = page.into_iter().filter_map(|entry| {
                let address = ContractAddress::try_from(entry.name).ok()?;
                address.is_of(tenant).then_some(address)
            });
            let own: Vec<_> = own.collect();
            if !own.is_empty() {
                self.add_holdings(own, &mut holdings).await?;
            }
            if is_last {
                return Ok(holdings);
            }
        }
    }

    async fn add_holdings(
        &self,
        own: Vec<ContractAddress>,
        holdings: &mut Holdings,
    ) -> Result<(), QueueError> {
        let (records, _) = self.contracts_and_workers(&own).await?;
        let loaded = own.into_iter().zip(records);
        let loaded = loaded.filter_map(|(address, record)| Some((address, record?.spec.digest)));
        let (addresses, digests): (Vec<_>, Vec<_>) = loaded.unzip();
        if digests.is_empty() {
            return Ok(());
        }
        let sizes: Vec<Option<u64>> = redis::cmd("HMGET")
            .arg(self.keys().executables())
            .arg(&digests)
            .query_async(&mut self.pooled().await?)
            .await?;
        let sizes = sizes.into_iter().map(Option::unwrap_or_default);
        holdings.extend(addresses.into_iter().zip(sizes));
        Ok(())
    }
}
