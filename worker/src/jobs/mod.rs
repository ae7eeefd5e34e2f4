//! What each kind of job does on this worker, one file per kind.

pub(crate) mod execute;
pub(crate) mod inspect;
pub(crate) mod load;
pub(crate) mod unload;
