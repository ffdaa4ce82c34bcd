//! Runs swarms on tokio: sockets, buffers, disk, timers and trackers.
