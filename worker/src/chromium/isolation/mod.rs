//! What separates contracts from each other and from the network, beyond the processes themselves.
//!
//! - [`layers`] names the protections and says which are on.
//! - [`document`] is the one document that a page shows, with its policies.
//! - [`interceptor`] aborts every other request; `charges` counts them by page.
//! - [`floods`] closes pages that flood their browser with messages.
//! - [`watchdog`] closes pages that use too much while they are idle.

mod charges;
pub(super) mod document;
pub(super) mod floods;
pub(super) mod interceptor;
pub(super) mod layers;
pub(super) mod watchdog;
