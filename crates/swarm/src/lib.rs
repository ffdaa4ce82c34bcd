//! The brain of one torrent: peers, requests, picker, choker, piece table, provenance. No I/O, no clock, no async.
