//! The schemas of a contract. They are those of its load, for as long as it stays loaded.

use shared::protocol::id::ContractAddress;
use shared::protocol::schemas::{self, SchemaText};
use shared::queue::{Queue, QueueError};
use shared::schemas::Schemas;

use crate::sandbox::StartError;

/// The schemas of a contract that is being loaded: those that the load has brought along, or else
/// its own, which it has beside its endpoints. Fails if they do not compile.
pub(super) async fn of_load(
    executable: &str,
    own: Option<SchemaText>,
) -> Result<Option<SchemaText>, StartError> {
    let brought = schemas::of(executable).map(SchemaText::new);
    let Some(schemas) = brought.or(own) else {
        return Ok(None);
    };
    let text = schemas.clone();
    let compiling = tokio::task::spawn_blocking(move || Schemas::compile(text.text()));
    let compiled = compiling.await.expect("compiling does not panic");
    compiled
        .map(|_| Some(schemas))
        .map_err(|error| StartError::Invalid(format!("The contract's schemas {error}")))
}

/// The schemas of a contract that was loaded before. What it has beside its endpoints does not count
/// any more: an earlier version may have loaded it, which did not read that.
pub(super) async fn of_record(
    queue: &Queue,
    address: &ContractAddress,
    executable: &str,
    is_recorded: bool,
) -> Result<Option<SchemaText>, QueueError> {
    let mut schemas = schemas::of(executable).map(SchemaText::new);
    if schemas.is_none() && is_recorded {
        schemas = queue.schemas(address).await?.map(SchemaText::new);
    }
    Ok(schemas)
}
