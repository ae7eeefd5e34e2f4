//! The protocol: what travels between an api and a worker.
//!
//! Ids, jobs, replies, and the frames that carry them. Nothing here knows tokio or Redis, so that a
//! model or another language can implement it.

pub mod frame;
pub mod id;
pub mod image;
pub mod job;
pub mod reply;
