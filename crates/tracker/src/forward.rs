//! Forwarders: other trackers that are told of our peers, and whose peers our peers are told of.
//!
//! Whoever announces is answered at once with what is known. Forwarders are asked behind that, all at the same time,
//! and what they answer is kept and goes into the next answer, so that a dead forwarder costs nobody anything. A
//! forwarder is asked for a peer as often as it wishes (its `interval`), and at once when something happens to the
//! peer: it starts, completes, stops.
//!
//! ```text
//! announce ─► Table::take ─► answer with the peers that are known
//!                 │ who is to be asked now
//!                 ▼
//!              queue ─► Forwarders::run ─► trackers ─► Table::answered
//! ```

mod list;
mod run;
mod table;

pub use list::{Forwarder, ListError, read_list};
pub(crate) use run::{Forwarders, Health};
pub(crate) use table::Standing;
