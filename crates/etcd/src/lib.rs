//! A client of etcd v3 through its JSON gateway (`/v3/…`), which every etcd since 3.4 serves beside gRPC on its
//! client port: transactions, leases and one kind of watch, which is what the content directory needs.
//!
//! The gateway and not gRPC, since that would bring a code generator and a second HTTP stack for five calls.
//! Bytes are base64 there, and 64-bit numbers are strings.
//!
//! [`Address`] is `etcd://…` as people write it. [`Client`] asks the member that answered last, goes on to the next
//! when it fails, and again from the first until the call's time is over; so a dead member or an election costs
//! time, and no error. **A call may therefore reach etcd more than once:** callers ask for nothing that does harm
//! when it is done twice. [`Watch`] is a stream that reconnects where it was cut off, and says so where it cannot.
//!
//! **Never:** a wait without a deadline (but a watch, whose end is its owner's), an answer read without a bound, a
//! password in a message or a log, a word about each of many calls that fail for one reason.
//!
//! **The invariant:** between two [`Change::Begins`] a watch gives every event of its range once, in etcd's order.
//!
//! **Threads:** none of its own; everything runs on the caller's tokio task.

mod address;
mod answer;
mod auth;
mod client;
mod error;
mod outage;
mod transaction;
mod watch;

pub use address::{Address, AddressError};
pub use answer::{Found, KeyValue, Reply};
pub use auth::Password;
pub use client::{Client, Settings, Stats};
pub use error::{Error, SetupError};
pub use transaction::{Compare, Operation, Range, Transaction};
pub use watch::{Change, Event, Watch};
