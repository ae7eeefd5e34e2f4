//! Bounds what clients may occupy before their requests are complete: connections, and bytes of
//! bodies.
//!
//! An incomplete request holds no permit of `admission`. It only holds its connection and the bytes
//! that have arrived, and both are bounded over all clients. When a bound is reached, the client
//! that is furthest behind loses its place, not the one that arrives: see [`pace::Pace`].

mod bytes;
mod connections;
mod pace;

pub(crate) use bytes::{BodyPool, HeldBytes, ReadingBody};
pub(crate) use connections::{Connection, Connections, OpenConnection};
