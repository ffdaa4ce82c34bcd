//! A report as text.

use std::fmt::Write as _;

use crate::{
    NodeReport, Report, Role,
    report::{BlobKind, BlobReport},
};

/// The most nodes that get a column each.
const MOST_COLUMNS: usize = 12;

/// The whole report.
pub(crate) fn render(report: &Report, width: usize) -> String {
    let mut text = String::new();
    let full = matrix(report);
    let fits = report.nodes.len() <= MOST_COLUMNS && columns_width(&full) <= width;
    text.push_str(&align(&if fits { full } else { totals(report) }));
    let words = if fits { "each row: bytes that the node took from each column" } else { "bytes" };
    let _ = writeln!(text, "({words}; K, M, G are powers of 1024)\n");
    text.push_str(&align(&blobs(report)));
    text.push('\n');
    let _ = writeln!(
        text,
        "{} of {} left the origin: {:.2} copies for {}",
        size(report.origin_bytes),
        size(report.image_bytes),
        report.origin_copies,
        count(report.nodes.len(), "node")
    );
    if report.nodes.iter().any(|node| node.role == Role::Seeder) {
        let _ = writeln!(
            text,
            "the seeders gave {:.2} copies, the leechers each other the rest",
            report.seeder_copies
        );
    }
    if let Some(slowest) = report.nodes.iter().find(|node| Some(&node.name) == report.slowest.as_ref()) {
        let is_done = |node: &&NodeReport| node.role == Role::Leecher && node.seconds.is_some();
        let done = report.nodes.iter().filter(is_done).count();
        let _ = writeln!(
            text,
            "{} done in {:.2} s; the slowest was {} with {:.2} s",
            count(done, "leecher"),
            report.wall_seconds,
            slowest.name,
            slowest.seconds.unwrap_or(0.0)
        );
    }
    for node in &report.nodes {
        for wrong in &node.digests_wrong {
            let _ = writeln!(text, "WRONG on {}: {wrong}", node.name);
        }
        if let Some(error) = &node.error {
            let _ = writeln!(text, "FAILED: {}: {error}", node.name);
        }
    }
    let from_directory: u64 = report.nodes.iter().map(|node| node.from_directory).sum();
    if from_directory > 0 {
        let from_directory = cell(from_directory);
        let _ = writeln!(text, "small blobs came with the directory's answers: {from_directory} in all");
    }
    let (right, all) = (report.digests_right, report.digests_expected);
    if right == all {
        let _ = write!(text, "every digest proved right ({right} of {all})");
    } else {
        let _ = write!(text, "ONLY {right} OF {all} DIGESTS PROVED RIGHT");
    }
    text
}

/// A row per node, a column per node.
fn matrix(report: &Report) -> Vec<Vec<String>> {
    let mut header = vec!["node".to_owned(), "time".into(), "origin".into()];
    header.extend(report.nodes.iter().map(|node| node.name.clone()));
    header.push("proven".into());
    let mut rows = vec![header];
    for node in &report.nodes {
        let mut row = vec![node.name.clone(), time(node), cell(node.from_origin)];
        row.extend(report.nodes.iter().map(|other| match &other.name {
            own if *own == node.name => String::new(),
            other => cell(node.taken_from(other)),
        }));
        row.push(proven(report, node));
        rows.push(row);
    }
    rows
}

/// A row per node, a column per kind of source.
fn totals(report: &Report) -> Vec<Vec<String>> {
    let header = ["node", "address", "time", "origin", "seeders", "leechers", "gave", "proven"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for node in &report.nodes {
        let from = |role| {
            let of_role = report.nodes.iter().filter(|other| other.role == role);
            cell(of_role.map(|other| node.taken_from(&other.name)).sum())
        };
        rows.push(vec![
            node.name.clone(),
            node.address.clone(),
            time(node),
            cell(node.from_origin),
            from(Role::Seeder),
            from(Role::Leecher),
            cell(node.to_peers),
            proven(report, node),
        ]);
    }
    rows
}

fn blobs(report: &Report) -> Vec<Vec<String>> {
    let mut rows = vec![["blob", "what", "size", "left the origin"].map(str::to_owned).to_vec()];
    for BlobReport { digest, kind, size, origin_copies, .. } in &report.blobs {
        let kind = match kind {
            BlobKind::Manifest => "manifest",
            BlobKind::Config => "config",
            BlobKind::Layer => "layer",
        };
        let digest: String = digest.hex().chars().take(12).collect();
        rows.push(vec![digest, kind.to_owned(), cell(*size), format!("{origin_copies:.2} times")]);
    }
    rows
}

fn time(node: &NodeReport) -> String {
    node.seconds.map_or_else(|| "failed".to_owned(), |seconds| format!("{seconds:.2}s"))
}

fn proven(report: &Report, node: &NodeReport) -> String {
    format!("{}/{}", node.digests_right, report.blobs.len())
}

/// Columns as wide as their widest cell, the first to the left, the others to the right.
fn align(rows: &[Vec<String>]) -> String {
    let widths = widths(rows);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if at == 0 { write!(line, "{cell:<width$}") } else { write!(line, "  {cell:>width$}") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.first().map_or(0, Vec::len);
    let widest = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    (0..columns).map(|at| widest(at).unwrap_or(0)).collect()
}

fn columns_width(rows: &[Vec<String>]) -> usize {
    let widths = widths(rows);
    widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)
}

/// A length in at most five characters; a dot for none.
fn cell(bytes: u64) -> String {
    if bytes == 0 { "·".to_owned() } else { size(bytes) }
}

fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "K", "M", "G"] {
        if value < 9.95 && unit != "B" {
            return format!("{value:.1}{unit}");
        }
        if value < 1023.5 {
            return format!("{value:.0}{unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1}T")
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn lengths_are_short() {
        let shown = [0, 7, 1023, 1024, 10_300, 1_048_000, 10 << 20, 1 << 30, 5 << 40].map(cell);
        assert_eq!(shown, ["·", "7B", "1023B", "1.0K", "10K", "1023K", "10M", "1.0G", "5.0T"]);
    }

    #[test]
    fn a_small_lab_is_a_matrix() {
        let text = report(1, 2).table(80);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["node", "time", "origin", "s1", "n1", "n2", "proven"]);
        assert_eq!(rows[1], ["s1", "0.50s", "10M", "·", "·", "2/2"]);
        assert_eq!(rows[2], ["n1", "0.51s", "·", "10M", "·", "2/2"]);
        assert_eq!(rows[3], ["n2", "0.52s", "·", "5.0M", "5.0M", "2/2"]);
        let ends: Vec<usize> = text.lines().take(4).map(|line| line.chars().count()).collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "the columns are not straight:\n{text}");
        assert!(text.contains("the seeders gave 1.50 copies"), "{text}");
        assert!(text.ends_with("every digest proved right (6 of 6)"), "{text}");
    }

    #[test]
    fn a_large_lab_or_a_narrow_terminal_gets_totals() {
        for (report, width) in [(report(2, 20), 1000), (report(2, 10), 60)] {
            let text = report.table(width);
            assert!(
                text.starts_with("node") && text.contains("address") && text.contains("leechers"),
                "{text}"
            );
        }
        let header = report(2, 10).table(120).lines().next().map(str::to_owned).expect("a header");
        assert!(header.contains("n10") && !header.contains("address"), "{header}");
    }

    #[test]
    fn what_went_wrong_is_said_loudly() {
        let mut bad = report(1, 2);
        bad.nodes[1].digests_right = 1;
        bad.nodes[1].digests_wrong = vec!["sha256:00: the mirror answers 500".into()];
        (bad.nodes[2].seconds, bad.nodes[2].error) = (None, Some("gone".into()));
        bad.sum_up();
        let text = bad.table(80);
        assert!(text.contains("WRONG on n1: sha256:00") && text.contains("FAILED: n2: gone"), "{text}");
        assert!(text.contains("ONLY 5 OF 6 DIGESTS PROVED RIGHT") && text.contains("failed"), "{text}");
    }
}
