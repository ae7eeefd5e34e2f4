//! The processes of a browser, and how they are confined. No debugging protocol in here.

pub(super) mod cgroup;
pub(super) mod child;
pub(super) mod confinement;
pub(super) mod guard;
pub(super) mod proc;
