//! Whether a tenant may load another contract: how many it has, and how large their executables
//! are.
//!
//! Both are read from Redis at the load, so nothing has to be kept in step. Loads that are under
//! way in this process count as well. Those of another api do not, until they are recorded: so many
//! may be too many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use shared::protocol::id::ContractAddress;
use shared::protocol::job::Load;
use shared::protocol::tenant::Tenant;
use shared::queue::Queue;
use shared::queue::tenants::TenantLimits;

use crate::error::ApiError;

/// The loads of tenants that are under way.
#[derive(Debug, Default, Clone)]
pub(crate) struct Holdings(Arc<Mutex<HashMap<ContractAddress, UnderWay>>>);

/// Loads of one contract. They may be several at once.
#[derive(Debug, Default)]
struct UnderWay {
    loads: usize,
    bytes: u64,
}

/// A load under way; it counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    all: Holdings,
    addresses: Vec<ContractAddress>,
}

impl Holdings {
    /// Lets a load of `bytes` begin if it stays within the limits of its tenant.
    pub(crate) async fn hold(
        &self,
        queue: &Queue,
        limits: &TenantLimits,
        load: &Load,
        bytes: u64,
    ) -> Result<Option<Held>, ApiError> {
        if limits.contracts.is_none() && limits.executable_bytes.is_none() {
            return Ok(None);
        }
        let numbers = 1..=load.spec.replicas;
        let addresses: Vec<_> = numbers.map(|number| load.address.replica(number)).collect();
        let tenant = load.address.tenant();
        // Before the question: of two loads at once, at least one sees the other.
        let held = self.add(addresses, bytes);
        let mut holdings = queue.holdings(&tenant).await?;
        holdings.extend(self.under_way(&tenant));
        holdings.retain(|address, _| is_kept(address, load));
        let too_many = |limit: u32| u32::try_from(holdings.len()).unwrap_or(u32::MAX) > limit;
        if let Some(limit) = limits.contracts.filter(|limit| too_many(*limit)) {
            return Err(ApiError::QuotaExceeded(format!(
                "The tenant may have {limit} contracts, replicas included. Unload one"
            )));
        }
        // Replicas share their executable.
        let firsts = holdings
            .iter()
            .filter(|(address, _)| address.replica_number() == 1);
        let sum: u64 = firsts.map(|(_, bytes)| bytes).sum();
        if let Some(limit) = limits.executable_bytes.filter(|limit| sum > *limit) {
            return Err(ApiError::QuotaExceeded(format!(
                "The executables of the tenant's contracts may have {limit} bytes. Unload one"
            )));
        }
        Ok(Some(held))
    }

    fn add(&self, addresses: Vec<ContractAddress>, bytes: u64) -> Held {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for address in &addresses {
            let under_way = all.entry(address.clone()).or_default();
            under_way.loads += 1;
            under_way.bytes = under_way.bytes.max(bytes);
        }
        drop(all);
        Held {
            all: self.clone(),
            addresses,
        }
    }

    fn under_way(&self, tenant: &Tenant) -> Vec<(ContractAddress, u64)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.iter().filter(|(address, _)| address.is_of(tenant));
        own.map(|(address, under_way)| (address.clone(), under_way.bytes))
            .collect()
    }
}

/// Whether a contract is there after a load: it unloads replicas beyond its own number.
fn is_kept(address: &ContractAddress, load: &Load) -> bool {
    !address.is_sibling_of(&load.address) || address.replica_number() <= load.spec.replicas
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        for address in &self.addresses {
            if let Some(under_way) = all.get_mut(address) {
                under_way.loads -= 1;
                if under_way.loads == 0 {
                    all.remove(address);
                }
            }
        }
    }
}
