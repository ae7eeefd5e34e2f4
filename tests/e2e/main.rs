//! The whole farm, seen from outside: real programs, a real Redis, a real Chromium.
//!
//! One file per behaviour; what they share is in `support`. Each test starts a farm of its own and
//! ends it with [`support::farm::Farm::stop`], which fails when anything of it is left. The
//! programs must have been built before: `make test` does both.

mod contracts;
mod docker;
mod docs;
mod documentation;
mod errors;
mod faults;
mod headers;
mod lifecycle;
mod limits;
mod logs;
mod metrics;
mod outage;
mod reload;
mod replicas;
mod scale;
mod schemathesis;
mod settings;
mod support;
mod timeouts;
mod traces;
