//! `longshore explain`: how an image came to this host, and what took the time.

mod pulls;

use api::{
    node::SourceKind,
    trace::{Explanation, Part, Span, SpanKind},
};

use self::pulls::Pull;
use super::status::Connection;
use crate::{failure::Failure, host, quantity, screen};

/// Columns of the picture.
const WIDTH: usize = 40;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image, as it was pulled: registry/repository:tag or …@sha256:…
    #[arg(value_name = "REF")]
    reference: String,
    #[command(flatten)]
    connection: Connection,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let client = args.connection.client()?;
    let explained = client.explain(&args.reference).await.map_err(|error| args.connection.explain(error))?;
    let explained = explained.ok_or_else(|| {
        let what = format!("this node does not know how {} came", args.reference);
        Failure::new(what)
            .hint("it knows what was pulled through it since it started; write the name as it was pulled")
    })?;
    if args.json {
        screen::say_json(&serde_json::to_value(&explained)?);
    } else {
        lines(&explained, host::unix_ms()).iter().for_each(|line| screen::say(line));
    }
    Ok(())
}

/// What is to be said of it at the time `now`.
fn lines(explained: &Explanation, now: u64) -> Vec<String> {
    let pull = pulls::latest_of(explained);
    let whole: u64 = explained.parts.iter().map(|part| part.blob.size).sum();
    let mut lines = vec![
        explained.reference.clone(),
        format!(
            "{}, {}, {}",
            explained.digest,
            quantity::count(explained.parts.len(), "part"),
            quantity::size(whole)
        ),
    ];
    let window = pull.as_ref().map(|pull| Window::of(pull, now));
    if let (Some(pull), Some(window)) = (&pull, &window) {
        let took = milliseconds(window.to - window.from);
        lines.push(match pull.ended_ms {
            Some(_) => format!("the latest pull took {took}"),
            None => format!("the latest pull goes on, for {took} by now"),
        });
    }
    for part in &explained.parts {
        lines.push(String::new());
        lines.push(heading(part));
        match (pull.as_ref().and_then(|pull| pull.part(&part.blob.digest)), &window) {
            (Some(trace), Some(window)) => {
                lines.extend(trace.spans.iter().map(|span| span_line(span, window)));
                lines.extend(trace.error.as_ref().map(|error| format!("  failed: {error}")));
            }
            _ => lines.push(format!("  {}", pulls::why_not(part, pull.as_ref()))),
        }
    }
    lines
}

fn heading(part: &Part) -> String {
    let blob = &part.blob;
    let sum = |kind: SourceKind| -> u64 {
        blob.sources.iter().filter(|source| source.source.kind == kind).map(|source| source.bytes).sum()
    };
    let from = [
        (SourceKind::Peer, "from peers"),
        (SourceKind::Origin, "from the origin"),
        (SourceKind::Directory, "from the directory"),
        (SourceKind::Store, "on this host"),
    ];
    let from = from.map(|(kind, words)| (sum(kind), words)).into_iter().filter(|(bytes, _)| *bytes > 0);
    let from: Vec<String> = from.map(|(bytes, words)| format!("{} {words}", quantity::size(bytes))).collect();
    let short = blob.digest.to_string().chars().take(19).collect::<String>();
    format!("{:<9} {short}  {:>10}  {}", part.what, quantity::size(blob.size), from.join(", "))
}

fn span_line(span: &Span, window: &Window) -> String {
    let label = match span.kind {
        SpanKind::Tag => "tag",
        SpanKind::Directory => "directory",
        SpanKind::Lease => "lease",
        SpanKind::Swarm => "swarm",
        SpanKind::Origin => "origin",
        SpanKind::Verify => "verify",
        SpanKind::Publish => "publish",
        SpanKind::Client => "client",
    };
    let took =
        span.to_ms.map_or_else(|| "goes on".to_owned(), |to| milliseconds(to.saturating_sub(span.from_ms)));
    let bytes = if span.bytes > 0 { quantity::size(span.bytes) } else { String::new() };
    let note = span.note.as_deref().unwrap_or_default();
    let line = format!("  {label:<9} {} {took:>8} {bytes:>11}  {note}", window.bar(span));
    line.trim_end().to_owned()
}

/// The time that the picture shows, in milliseconds since 1970.
#[derive(Debug, PartialEq, Eq)]
struct Window {
    from: u64,
    to: u64,
}

impl Window {
    /// Of a pull, at the time `now`.
    fn of(pull: &Pull, now: u64) -> Self {
        Self { from: pull.began_ms, to: pull.ended_ms.unwrap_or(now).max(pull.began_ms) }
    }

    /// Where in that time the span lies.
    fn bar(&self, span: &Span) -> String {
        let place = |ms: u64| {
            let part =
                (ms.clamp(self.from, self.to) - self.from) as f64 / (self.to - self.from).max(1) as f64;
            (part * WIDTH as f64) as usize
        };
        let from = place(span.from_ms).min(WIDTH - 1);
        let to = place(span.to_ms.unwrap_or(self.to)).clamp(from + 1, WIDTH);
        format!("{}{}{}", "·".repeat(from), "█".repeat(to - from), "·".repeat(WIDTH - to))
    }
}

/// `12 ms`, `1.32 s`, `2 min 5 s`
fn milliseconds(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{:.2} s", ms as f64 / 1000.0),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(from_ms: u64, to_ms: u64) -> Span {
        Span { kind: SpanKind::Swarm, from_ms, to_ms: Some(to_ms), bytes: 0, note: None }
    }

    #[test]
    fn a_span_lies_where_it_lay_in_its_pull_and_is_seen_however_short_it_was() {
        let pull = |ended_ms| Pull { began_ms: 100_000, ended_ms, parts: Vec::new() };
        let window = Window::of(&pull(Some(108_000)), 200_000);
        assert_eq!(window, Window { from: 100_000, to: 108_000 });
        assert_eq!(window.bar(&span(100_000, 104_000)), "█".repeat(20) + &"·".repeat(20));
        assert_eq!(window.bar(&span(107_999, 108_000)), "·".repeat(39) + "█");
        assert_eq!(Window::of(&pull(None), 104_000), Window { from: 100_000, to: 104_000 }, "it goes on");
        let moment = Window::of(&pull(Some(100_000)), 0);
        assert_eq!(moment.bar(&span(100_000, 100_000)).chars().count(), WIDTH);
    }

    #[test]
    fn times_are_told_in_fitting_units() {
        assert_eq!([7, 1320, 125_000].map(milliseconds), ["7 ms", "1.32 s", "2 min 5 s"]);
    }
}
