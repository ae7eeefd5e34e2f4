//! The protocol: what travels between an api and a worker.
//!
//! It defines ids, jobs, replies, and the frames that carry them. It does not depend on tokio or
//! Redis, so that a model or another language can implement it.

mod address;
pub mod frame;
pub mod id;
pub mod image;
pub mod job;
pub mod quota;
pub mod rank;
pub mod reply;
pub mod schemas;
pub mod source_map;
pub mod tenant;
