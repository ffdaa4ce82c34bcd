//! A deterministic simulator of many swarms in virtual time over modelled links.
