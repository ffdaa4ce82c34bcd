//! The registry mirror: the OCI distribution API over HTTP. Knows HTTP, never peers.
