//! `longshore pull`: has the node fetch an image, and shows how it goes.

use std::collections::{HashMap, HashSet};

use api::{
    Platforms,
    node::{PullEvent, PullRequest, SourceBytes, SourceKind},
};
use hash::Digest;
use indicatif::ProgressBar;

use crate::{commands::status::Connection, failure::Failure, host, quantity, screen};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image, such as `busybox`, `quay.io/org/app:1.2` or `…@sha256:…`
    #[arg(value_name = "REF")]
    reference: String,
    /// `os/architecture[/variant]`, or `all` [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platforms>,
    #[command(flatten)]
    connection: Connection,
    /// Print the events as lines of JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let start = host::now();
    let client = args.connection.client()?;
    let request = PullRequest { reference: args.reference.clone(), platform: args.platform };
    let mut events = client.pull(&request).await.map_err(|error| args.connection.explain(error))?;
    let mut bars: HashMap<Digest, ProgressBar> = HashMap::new();
    let (mut here, mut from_directory) = (0, 0);
    // Of these something was told before they were whole: they were not here.
    let mut fetched = HashSet::new();
    while let Some(event) = events.next().await.map_err(|error| args.connection.explain(error))? {
        if args.json {
            screen::say_json(&serde_json::to_value(&event)?);
        }
        match event {
            PullEvent::Blob { digest, size, .. } => {
                bars.insert(digest, screen::byte_bar(&short(&digest), size, args.json));
            }
            PullEvent::Progress { digest, bytes_done, peers, .. } => {
                fetched.insert(digest);
                if let Some(bar) = bars.get(&digest) {
                    bar.set_position(bytes_done);
                    bar.set_message(quantity::count(peers as usize, "peer"));
                }
            }
            PullEvent::Complete { digest, sources } => {
                here += sum(&sources, SourceKind::Store);
                from_directory += sum(&sources, SourceKind::Directory);
                if let Some(bar) = bars.get(&digest) {
                    let size = bar.length().unwrap_or(0);
                    if sources.is_empty() && !fetched.contains(&digest) {
                        here += size;
                    }
                    bar.set_position(size);
                    bar.finish_with_message(from(&sources));
                }
            }
            PullEvent::Done { digest, bytes, from_peers, from_origin } => {
                if !args.json {
                    screen::say(&format!(
                        "{} is here: {digest}, {} in {:.1} s ({})",
                        args.reference,
                        quantity::size(bytes),
                        start.elapsed().as_secs_f64(),
                        sums(from_peers, from_origin, from_directory, here),
                    ));
                }
                return Ok(());
            }
            PullEvent::Failed { error } => {
                bars.values().for_each(ProgressBar::abandon);
                return Err(Failure::new(format!("{} was not pulled: {error}", args.reference)).into());
            }
            PullEvent::Resolved { .. } | PullEvent::Alive => {}
        }
    }
    Err(Failure::new("the node ended the pull without saying how it went").into())
}

fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}

fn sum(sources: &[SourceBytes], kind: SourceKind) -> u64 {
    sources.iter().filter(|source| source.source.kind == kind).map(|source| source.bytes).sum()
}

/// Where a blob's bytes came from.
fn from(sources: &[SourceBytes]) -> String {
    let of = |kind| (sum(sources, kind), words(kind));
    let all = [SourceKind::Peer, SourceKind::Origin, SourceKind::Directory, SourceKind::Store].map(of);
    let some: Vec<_> = all.into_iter().filter(|(bytes, _)| *bytes > 0).collect();
    match some.as_slice() {
        [] => words(SourceKind::Store).to_owned(),
        [(_, words)] => (*words).to_owned(),
        several => listed(several),
    }
}

/// Where an image's bytes came from. Peers and origin are named in any case, the others where they gave something.
fn sums(peers: u64, origin: u64, directory: u64, here: u64) -> String {
    let mut all = vec![(peers, words(SourceKind::Peer)), (origin, words(SourceKind::Origin))];
    all.extend((directory > 0).then_some((directory, words(SourceKind::Directory))));
    all.extend((here > 0).then_some((here, words(SourceKind::Store))));
    listed(&all)
}

fn listed(sums: &[(u64, &str)]) -> String {
    let of = |(bytes, words): &(u64, &str)| format!("{} {words}", quantity::size(*bytes));
    sums.iter().map(of).collect::<Vec<_>>().join(", ")
}

const fn words(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::Peer => "from peers",
        SourceKind::Origin => "from the origin",
        SourceKind::Directory => "from the directory",
        SourceKind::Store => "on this host",
    }
}

#[cfg(test)]
mod tests {
    use api::node::Source;

    use super::*;

    #[test]
    fn what_was_here_already_is_on_this_host() {
        let source = |kind, bytes| SourceBytes { source: Source { kind, peer: None, peer_id: None }, bytes };
        let (store, peer) = (source(SourceKind::Store, 5), source(SourceKind::Peer, 7));
        assert_eq!(from(&[]), "on this host");
        assert_eq!(from(std::slice::from_ref(&store)), "on this host");
        assert_eq!(from(std::slice::from_ref(&peer)), "from peers");
        assert_eq!(from(&[store, peer]), "7 B from peers, 5 B on this host");
        assert_eq!(sums(0, 0, 0, 9), "0 B from peers, 0 B from the origin, 9 B on this host");
        assert_eq!(sums(1, 2, 3, 0), "1 B from peers, 2 B from the origin, 3 B from the directory");
    }
}
