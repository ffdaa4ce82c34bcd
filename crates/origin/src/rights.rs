//! With whose rights a registry is asked.

use crate::Secret;

/// Whose `Authorization` goes with a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Rights {
    /// This host's: the upstream's credentials, or what anybody is given where it has none.
    #[default]
    Own,
    /// A client's: its header's value goes to the registry's endpoint as it came, and nowhere else.
    Client(Secret),
}
