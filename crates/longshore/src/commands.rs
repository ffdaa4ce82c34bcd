//! The commands, one file each.

pub(crate) mod config;
pub(crate) mod create;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod health;
pub(crate) mod lab;
pub(crate) mod node;
pub(crate) mod proxy;
pub(crate) mod pull;
mod retracker;
pub(crate) mod runtime;
pub(crate) mod seed;
pub(crate) mod status;
pub(crate) mod top;
pub(crate) mod torrent;
pub(crate) mod tracker;

/// What has neither flag nor key, since both can be read by others.
#[allow(clippy::disallowed_methods, reason = "configuration reads the environment once")]
fn secret(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|text| !text.is_empty())
}
