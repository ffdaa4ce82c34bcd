//! Demonstration swarms on one machine: a tracker, an origin registry and real nodes.

pub mod image;
pub mod registry;
