//! The daemon of one host, built from its configuration: content, engine, store, mirror, API.
