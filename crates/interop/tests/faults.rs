//! A mirror is never worse than none: whatever a registry, peers, the tracker or the node itself do, a pull through a
//! node ends as well as a pull without it.
//!
//! `make test-clients` runs every client and writes the table of `docs/faults.md`: `LONGSHORE_CLIENTS` says which
//! clients (`skopeo,docker`, or `all`; skopeo alone unless given), `LONGSHORE_TABLE` into which file.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests fail by panicking, their helpers too; this one reads the clock and the environment, and tells a table"
)]

#[path = "faults/cell.rs"]
mod cell;
#[path = "faults/client.rs"]
mod client;
#[path = "faults/event.rs"]
mod event;
#[path = "faults/image.rs"]
mod image;
#[path = "faults/peer.rs"]
mod peer;
#[path = "faults/table.rs"]
mod table;

use longshore_interop::{Fault, Part, Registry, Trouble, skip};

use cell::Bench;
use event::Event;
use image::Image;

/// Every fault of a registry that is tried.
fn faults() -> Vec<Fault> {
    use Trouble::{Break, Corrupt, Hang, Longer, Reset, Slow, Stall, Status, Truncate};
    let refusals = [401, 403, 404, 429, 500, 503].map(Status);
    let of_answers = [&[Hang, Reset][..], &refusals].concat();
    let of_manifests = [&[Truncate, Corrupt, Longer][..], &of_answers].concat();
    let of_blobs = [&[Stall, Break][..], &of_manifests].concat();
    let mut faults = Vec::new();
    for (part, troubles) in [(Part::Ping, of_answers), (Part::Manifest, of_manifests), (Part::Blob, of_blobs)]
    {
        faults.push(Fault { part, trouble: Slow, once: false });
        for trouble in troubles {
            faults.extend([true, false].map(|once| Fault { part, trouble, once }));
        }
    }
    faults
}

#[test]
fn whatever_a_registry_does_a_pull_through_a_node_ends_as_well_as_without() {
    let image = Image::new();
    let Some(registry) = Registry::start("", &[]) else { return };
    registry.take(image.layout.path(), "team/app:1", None);
    let bench = Bench::new(registry.address(), image, None);
    table::fill("upstream", &faults(), |client, fault| bench.upstream(client, *fault));
}

#[test]
fn whatever_happens_around_a_node_a_pull_through_it_ends_as_well_as_without() {
    if !rustix::process::geteuid().is_root() {
        return skip("a full file system wants root");
    }
    let image = Image::new();
    let Some(registry) = Registry::start("", &[]) else { return };
    registry.take(image.layout.path(), "team/app:1", None);
    let bench = Bench::new(registry.address(), image, None);
    table::fill("around the node", &Event::ALL, |client, event| bench.around(client, *event));
}
