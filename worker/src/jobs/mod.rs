//! What each kind of job does to this worker; a file per kind.

pub(crate) mod execute;
pub(crate) mod inspect;
pub(crate) mod load;
mod record;
pub(crate) mod unload;
