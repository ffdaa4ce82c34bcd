//! What takes part in every announce beside the store, as the configuration has it.

use std::{sync::Arc, time::Duration};

use crate::{
    desk::{Hooks, Refusal},
    forward::Forwarders,
    store::{Announce, Announced, Peers},
};

/// The tracker's own part in announces.
pub(crate) struct Rules {
    pub(crate) forwarders: Option<Arc<Forwarders>>,
}

impl Hooks for Rules {
    fn admit(&self, _: Duration, request: &Announce<'_>) -> Result<(), Refusal> {
        self.forwarders.as_ref().map_or(Ok(()), |forwarders| forwarders.admit(request))
    }

    fn announced(
        &self,
        now: Duration,
        request: &Announce<'_>,
        announced: &Announced,
        peers: &mut Peers,
    ) -> Option<u32> {
        self.forwarders.as_ref()?.announced(now, request, announced, peers)
    }
}
