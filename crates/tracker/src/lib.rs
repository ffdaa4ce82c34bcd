//! The tracker: announce, scrape, and the content directory.
