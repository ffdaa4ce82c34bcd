//! `longshore explain`: how an image came to this host, and what took the time.

use api::{
    node::{BlobState, SourceKind},
    trace::{Explanation, Part, Span, SpanKind, Trace},
};

use super::status::Connection;
use crate::{failure::Failure, quantity, screen};

/// Columns of the picture.
const WIDTH: usize = 40;
/// What came within so many milliseconds of one another is of one pull.
const TOGETHER: u64 = 30_000;

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
        lines(&explained).iter().for_each(|line| screen::say(line));
    }
    Ok(())
}

fn lines(explained: &Explanation) -> Vec<String> {
    let traces: Vec<&Trace> = explained.parts.iter().filter_map(|part| part.trace.as_ref()).collect();
    let window = Window::of(&traces);
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
    if let Some(window) = &window {
        lines.push(format!("the latest pull took {}", milliseconds(window.to - window.from)));
    }
    for part in &explained.parts {
        lines.push(String::new());
        lines.push(heading(part));
        match (&part.trace, &window) {
            (Some(trace), Some(window)) => {
                lines.extend(trace.spans.iter().map(|span| span_line(span, window)));
            }
            _ if part.blob.state == BlobState::Complete => {
                lines.push("  it was here before, and nothing was asked of it since the node started".into());
            }
            _ => lines.push("  nothing of it is here".into()),
        }
        if let Some(error) = part.trace.as_ref().and_then(|trace| trace.error.as_ref()) {
            lines.push(format!("  failed: {error}"));
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
    /// Of the latest pull: what came close to one another at last.
    fn of(traces: &[&Trace]) -> Option<Self> {
        let begin =
            |trace: &Trace| trace.spans.iter().map(|span| span.from_ms).min().unwrap_or(trace.began_ms);
        let end = |trace: &Trace| trace.ended_ms.unwrap_or(trace.began_ms).max(trace.began_ms);
        let to = traces.iter().map(|trace| end(trace)).max()?;
        let mut from = to;
        while let Some(earlier) = traces
            .iter()
            .filter(|trace| end(trace) + TOGETHER >= from && begin(trace) < from)
            .map(|trace| begin(trace))
            .min()
        {
            from = earlier;
        }
        // Clients that were being served then.
        let served = traces.iter().flat_map(|trace| &trace.spans).filter(|span| span.from_ms <= to);
        let to = served.filter_map(|span| span.to_ms).max().unwrap_or(to).max(to);
        Some(Self { from, to })
    }

    /// Where in that time the span lies. What lies outside has an arrow to where.
    fn bar(&self, span: &Span) -> String {
        let place = |ms: u64| {
            let part =
                (ms.clamp(self.from, self.to) - self.from) as f64 / (self.to - self.from).max(1) as f64;
            (part * WIDTH as f64) as usize
        };
        let end = span.to_ms.unwrap_or(self.to);
        if end < self.from {
            return format!("{:<WIDTH$}", "◂ earlier");
        }
        if span.from_ms > self.to {
            return format!("{:>WIDTH$}", "later ▸");
        }
        let from = place(span.from_ms).min(WIDTH - 1);
        let to = place(end).clamp(from + 1, WIDTH);
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

    fn trace(spans: &[(u64, u64)]) -> Trace {
        Trace {
            digest: hash::Digest::of(b""),
            home: String::new(),
            what: "blob".into(),
            size: None,
            began_ms: spans[0].0,
            ended_ms: Some(spans[0].1),
            error: None,
            spans: spans.iter().map(|(from, to)| span(*from, *to)).collect(),
        }
    }

    #[test]
    fn the_picture_is_of_the_latest_pull_and_shows_what_lies_outside() {
        let (old, a, b) =
            (trace(&[(1_000, 2_000)]), trace(&[(100_000, 104_000)]), trace(&[(102_000, 108_000)]));
        let window = Window::of(&[&old, &a, &b]).expect("something came");
        assert_eq!(window, Window { from: 100_000, to: 108_000 });
        assert_eq!(window.bar(&span(100_000, 104_000)), "█".repeat(20) + &"·".repeat(20));
        assert_eq!(window.bar(&span(107_999, 108_000)), "·".repeat(39) + "█", "however short, it is seen");
        assert!(window.bar(&span(1_000, 2_000)).starts_with("◂ earlier"));
        assert!(window.bar(&span(200_000, 200_001)).ends_with("later ▸"));
        assert_eq!(Window::of(&[]), None);
        let moment = trace(&[(5, 5)]);
        assert_eq!(Window::of(&[&moment]).expect("a moment").bar(&moment.spans[0]).chars().count(), WIDTH);
    }

    #[test]
    fn times_are_told_in_fitting_units() {
        assert_eq!([7, 1320, 125_000].map(milliseconds), ["7 ms", "1.32 s", "2 min 5 s"]);
    }
}
