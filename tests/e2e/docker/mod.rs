//! Tests of Docker contracts against a real Docker Engine.
//!
//! `docker_farm` is a farm with a daemon. `test_image` builds the images from scratch out of the
//! one static program in `tests/contract-server`. A daemon must run: `scripts/setup --docker`
//! ensures that.

mod archives;
mod arm64;
mod calls;
mod docker_farm;
mod faults;
mod images;
mod isolation;
mod limits;
mod load;
mod output;
mod recovery;
mod registry;
mod tar;
mod test_image;
mod worker_in_container;
