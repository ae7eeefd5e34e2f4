//! Tests of the whole farm from outside: real programs, a real Redis, a real Chromium.
//!
//! There is one file per behaviour, and shared helpers are in `support`. Each test starts its own
//! farm and ends it with [`support::farm::Farm::stop`], which fails if anything is left. The
//! programs must have been built before: `make test` does both.

mod access;
mod any_redis;
mod arm64;
mod bundles;
mod console;
mod contracts;
mod dashboard;
mod docker;
mod docs;
mod documentation;
mod edge;
mod errors;
mod faults;
mod follow;
mod guide;
mod headers;
mod http_clients;
mod images;
mod lifecycle;
mod limits;
mod local_farm;
mod logs;
mod metrics;
mod outage;
mod production;
mod redis_users;
mod registry;
mod reload;
mod replicas;
mod scale;
mod schemas;
mod schemathesis;
mod settings;
mod stacks;
mod support;
mod timeouts;
mod traces;
mod upgrade;
