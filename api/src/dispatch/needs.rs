//! Which servers of Redis a request needs. While one of them is away, the request is refused at
//! once; requests that need other servers of a cluster are not.
//!
//! Only new requests are refused. One that was admitted before waits for the server to return.

use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::Load;
use shared::queue::ServerName;

use super::Dispatcher;
use crate::admission::RequestKind;
use crate::error::ApiError;

impl Dispatcher {
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
        let server = self.queue.server_of_contract(contract);
        self.check(server.as_ref(), RequestKind::Call)
    }

    /// Refuses a call if the server with the inbox of the contract's owner is away.
    pub(super) fn check_inbox(&self, owner: WorkerId) -> Result<(), ApiError> {
        if !self.queue.is_cluster() {
            return Ok(());
        }
        let server = self.queue.server_of_inbox(owner);
        self.check(server.as_ref(), RequestKind::Call)
    }

    /// Refuses a load if one of the servers that it needs is away, or short of memory.
    pub(super) fn check_load(&self, load: &Load) -> Result<(), ApiError> {
        if !self.queue.is_cluster() {
            return Ok(());
        }
        let servers = self.queue.servers_of_load(&load.address, &load.spec);
        let mut servers = servers.into_iter();
        servers.try_for_each(|server| self.check(server.as_ref(), RequestKind::Load))
    }

    /// Refuses an unload if the server with the contract's record is away.
    pub(super) fn check_unload(&self, contract: &ContractAddress) -> Result<(), ApiError> {
        if !self.queue.is_cluster() {
            return Ok(());
        }
        let server = self.queue.server_of_contract(contract);
        self.check(server.as_ref(), RequestKind::Unload)
    }

    fn check(&self, server: Option<&ServerName>, kind: RequestKind) -> Result<(), ApiError> {
        self.breaker.state_of(server).check(kind)
    }
}
