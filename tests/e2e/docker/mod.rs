//! Tests of Docker contracts against a real Docker Engine.
//!
//! `docker_farm` is a farm with a daemon. `recipe` builds the images from scratch out of the one
//! static program in `tests/contract-server`. A daemon must run: `scripts/setup --docker` ensures
//! that.

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
