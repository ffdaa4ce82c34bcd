//! Content-addressed blobs on disk.
