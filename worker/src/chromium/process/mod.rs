//! The operating system's side of a browser: which program runs, with which flags, under which
//! guard, and how its processes are confined.
//!
//! There is no Chromium debugging protocol in this folder. A reviewer of the sandbox can read it
//! alone:
//!
//! - [`find`] finds Chromium's program; [`flags`] builds its command line.
//! - [`child`] starts the guard and its browser, and ends them.
//! - [`guard`] runs between worker and browser, so that no process outlives the worker.
//! - [`cgroup`] and [`memory`] bound memory: a whole browser's, and one renderer's.
//! - [`uids`] are the users that browsers run as.
//! - [`confinement`] checks that Chromium's own sandbox holds a renderer.
//! - [`proc`] reads `/proc`.

pub(super) mod cgroup;
pub(super) mod child;
pub(super) mod confinement;
pub(super) mod error;
pub(super) mod find;
pub(super) mod flags;
pub(super) mod guard;
pub(super) mod memory;
pub(super) mod proc;
pub(super) mod uids;
