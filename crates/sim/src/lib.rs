//! Many swarms in virtual time: the brain of `swarm`, run by the hundred in one thread, for tests and studies.
//!
//! A [`Simulation`] holds nodes with modelled links (bandwidth up and down, latency), connects them, carries their
//! messages and blocks, and lets nodes come late, leave, or send wrong bytes. It is a pure function of its
//! [`Scenario`]: the same scenario gives the same [`Report`], to the microsecond and on every machine.
//!
//! The links: a node's uplink sends one request's bytes at a time, turn by turn among the peers that wait, at its
//! bandwidth; they arrive after the latency, not before the receiver's downlink has had time for them. Small
//! messages take the latency alone. It never opens a socket and never reads a clock.

mod network;
mod scenario;
mod simulation;

pub use scenario::{Link, Node, Report, Scenario};
pub use simulation::Simulation;
