//! Which servers of Redis a request needs. While one of them is away, the request is refused at
//! once; requests that need other servers of a cluster are not.
//!
//! Only new requests are refused. One that was admitted before waits for the server to return.

use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::Load;

use super::Dispatcher;
use crate::admission::RequestKind;
use crate::breaker::QueueState;
use crate::error::ApiError;

/// What a request needs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Needs<'a> {
    /// The record of a contract and the inbox of its owner.
    Contract(&'a ContractAddress),
    /// The inbox of a worker.
    Worker(WorkerId),
}

impl Dispatcher {
    /// The state of the servers that a request needs, as far as they are known.
    pub(super) fn state_of(&self, needs: Needs<'_>) -> QueueState {
        if !self.queue.is_cluster() {
            return self.breaker.state();
        }
        match needs {
            Needs::Worker(worker) => {
                let server = self.queue.server_of_inbox(worker);
                self.breaker.state_of(server.as_ref())
            }
            Needs::Contract(contract) => {
                let server = self.queue.server_of_contract(contract);
                let record = self.breaker.state_of(server.as_ref());
                let owner = self.routes.known_owner(contract);
                let inbox = owner.map(|worker| self.state_of(Needs::Worker(worker)));
                inbox.map_or(record, |inbox| inbox.max(record))
            }
        }
    }

    /// Whether a cluster lacks a server.
    pub(super) fn is_incomplete(&self) -> bool {
        self.queue.is_cluster() && self.breaker.is_incomplete()
    }

    /// Refuses a call if the server with the contract's record is away, and this process does not
    /// know its owner.
    pub(super) fn check_record(&self, contract: &ContractAddress) -> Result<(), ApiError> {
        if !self.queue.is_cluster() || self.routes.known_owner(contract).is_some() {
            return Ok(());
        }
        self.state_of(Needs::Contract(contract))
            .check(RequestKind::Call)
    }

    /// Refuses a call if the server with the inbox of the contract's owner is away.
    pub(super) fn check_inbox(&self, owner: WorkerId) -> Result<(), ApiError> {
        if !self.queue.is_cluster() {
            return Ok(());
        }
        self.state_of(Needs::Worker(owner)).check(RequestKind::Call)
    }

    /// Refuses a load if one of the servers that it needs is away, or short of memory.
    pub(super) fn check_load(&self, load: &Load) -> Result<(), ApiError> {
        if !self.queue.is_cluster() {
            return Ok(());
        }
        let servers = self.queue.servers_of_load(&load.address, &load.spec);
        let states = servers.map(|server| self.breaker.state_of(server.as_ref()));
        let worst = states.into_iter().max();
        worst.map_or(Ok(()), |state| state.check(RequestKind::Load))
    }

    /// Refuses an unload if the server with the contract's record is away.
    pub(super) fn check_unload(&self, contract: &ContractAddress) -> Result<(), ApiError> {
        if !self.queue.is_cluster() {
            return Ok(());
        }
        let server = self.queue.server_of_contract(contract);
        let state = self.breaker.state_of(server.as_ref());
        state.check(RequestKind::Unload)
    }
}
