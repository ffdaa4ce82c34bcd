//! Announce and scrape over HTTP, both directions.
