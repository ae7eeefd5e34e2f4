//! Docker contracts, against a real Docker Engine.
//!
//! `world` is a farm with a daemon, `recipe` makes the images: from nothing, out of the one static
//! program in `tests/contract-server`. A daemon must run: `scripts/setup --docker` sees to that.

mod calls;
mod faults;
mod isolation;
mod limits;
mod load;
mod recipe;
mod recovery;
mod registry;
mod seat;
mod tar;
mod world;
