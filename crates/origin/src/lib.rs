//! Reads content where it lives: OCI registries over HTTP(S), with tokens, ranges and retries.
