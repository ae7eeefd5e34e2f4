//! The schemas of a contract, when it is loaded.

use shared::schemas::Schemas;

use crate::sandbox::{Instance, StartError};

/// Compiles the schemas of a contract once, so that a load with invalid ones fails.
pub(super) async fn check_schemas(instance: &impl Instance) -> Result<(), StartError> {
    let Some(schemas) = instance.schemas().cloned() else {
        return Ok(());
    };
    let compiling = tokio::task::spawn_blocking(move || Schemas::compile(schemas.text()));
    let compiled = compiling.await.expect("compiling does not panic");
    compiled
        .map(drop)
        .map_err(|error| StartError::Invalid(format!("The contract's schemas: {error}")))
}
