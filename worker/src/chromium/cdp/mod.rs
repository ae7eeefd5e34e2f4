//! Chromium's debugging protocol (CDP).

pub(super) mod client;
pub(super) mod commands;
