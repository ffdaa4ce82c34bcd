//! `longshore pull`: has the node fetch an image, and shows how it goes.

use std::collections::HashMap;

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
    while let Some(event) = events.next().await.map_err(|error| args.connection.explain(error))? {
        if args.json {
            screen::say_json(&serde_json::to_value(&event)?);
        }
        match event {
            PullEvent::Blob { digest, size, .. } => {
                bars.insert(digest, screen::byte_bar(&short(&digest), size, args.json));
            }
            PullEvent::Progress { digest, bytes_done, peers, .. } => {
                if let Some(bar) = bars.get(&digest) {
                    bar.set_position(bytes_done);
                    bar.set_message(quantity::count(peers as usize, "peer"));
                }
            }
            PullEvent::Complete { digest, sources } => {
                if let Some(bar) = bars.get(&digest) {
                    bar.set_position(bar.length().unwrap_or(0));
                    bar.finish_with_message(from(&sources));
                }
            }
            PullEvent::Done { digest, bytes, from_peers, from_origin } => {
                if !args.json {
                    screen::say(&format!(
                        "{} is here: {digest}, {} in {:.1} s ({} from peers, {} from the origin)",
                        args.reference,
                        quantity::size(bytes),
                        start.elapsed().as_secs_f64(),
                        quantity::size(from_peers),
                        quantity::size(from_origin),
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

fn from(sources: &[SourceBytes]) -> String {
    let sum = |kind| sources.iter().filter(|s| s.source.kind == kind).map(|s| s.bytes).sum::<u64>();
    match (sum(SourceKind::Peer), sum(SourceKind::Origin)) {
        (0, 0) => "was here".into(),
        (0, _) => "from the origin".into(),
        (_, 0) => "from peers".into(),
        (peers, origin) => {
            format!("{} from peers, {} from the origin", quantity::size(peers), quantity::size(origin))
        }
    }
}
