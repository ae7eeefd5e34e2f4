//! What is decided about a request before it is complete: whether its head is acceptable, and what
//! its client may occupy meanwhile, connections and bytes of bodies.
//!
//! An incomplete request holds no permit of `admission`. It only holds its connection and the bytes
//! that have arrived, and both are bounded over all clients. When a bound is reached, the client
//! that is furthest behind loses its place, not the one that arrives: see [`pace::Pace`].

mod bytes;
mod connections;
mod heads;
mod origins;
mod pace;

pub(crate) use bytes::{BodyPool, HeldBytes, ReadingBody};
pub(crate) use connections::{Connection, Connections, OpenConnection};
pub(crate) use heads::Heads;
pub(crate) use origins::Origins;
