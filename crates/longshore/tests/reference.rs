//! The pages of `docs/reference` are what program and sources say: this makes them, and compares.
//!
//! The command line is what `--help` prints; configurations are what `longshore config` prints; the API is the
//! documentation of the types of crate `api`; metrics are those of a tracker and a node that run.

#![allow(clippy::expect_used, reason = "a test")]

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use api::{DirectoryClient, Endpoint, NodeClient};
use hash::Digest;
use interop::{Etcd, Process, free_port, get};

/// Set to have the pages written anew.
const REWRITE: &str = "LONGSHORE_REWRITE_REFERENCE";

const MADE: &str = "<!-- Made by `make reference`: changes belong into the sources. -->\n\n";

fn longshore() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command
}

fn said(arguments: &[&str]) -> String {
    let Output { status, stdout, .. } = longshore().args(arguments).output().expect("runs");
    assert!(status.success(), "{arguments:?}");
    String::from_utf8(stdout).expect("text")
}

#[allow(clippy::disallowed_methods, reason = "a switch of this test alone")]
fn rewrite() -> bool {
    std::env::var_os(REWRITE).is_some()
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Compares a page with the one that is checked in, or writes it.
fn page(name: &str, text: &str) {
    let path = top().join("docs/reference").join(name);
    let text = format!("{MADE}{}\n", text.trim_end());
    if rewrite() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        return fs::write(&path, text).expect("written");
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let differ = there.lines().zip(text.lines()).position(|(a, b)| a != b);
    let line = differ.unwrap_or(there.lines().count().min(text.lines().count())) + 1;
    assert!(there == text, "docs/reference/{name} is stale from line {line} on: run `make reference`");
}

#[test]
fn the_page_of_the_command_line_is_current() {
    let mut text = "# The command line\n\nWhat `longshore COMMAND --help` prints.\n".to_owned();
    commands(&[], &mut text);
    page("command-line.md", &text);
}

/// A command's help, and that of the commands below it.
fn commands(path: &[&str], text: &mut String) {
    let help = said(&[path, &["--help"]].concat());
    let (level, name) = (if path.len() > 1 { "###" } else { "##" }, path.join(" "));
    let name = if name.is_empty() { "longshore".to_owned() } else { format!("longshore {name}") };
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(text, "\n{level} `{name}`\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let below = list.take_while(|line| !line.is_empty()).filter_map(|line| {
        // What is further in is the rest of a long line.
        let name = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '))?;
        name.split(' ').next().filter(|name| *name != "help").map(str::to_owned)
    });
    for name in below.collect::<Vec<_>>() {
        commands(&[path, &[name.as_str()]].concat(), text);
    }
}

#[test]
fn the_pages_of_the_configurations_are_current() {
    for (role, title) in [("node", "The node's configuration"), ("tracker", "The tracker's configuration")] {
        let text = format!(
            "# {title}\n\nWhat `longshore config {role}` prints.\n\n```toml\n{}\n```",
            said(&["config", role]).trim_end()
        );
        page(&format!("{role}.md"), &text);
    }
}

#[test]
fn the_page_of_the_metrics_is_current() {
    // Its figures are told of only where it is.
    let Some(etcd) = Etcd::start(1, None) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("forwarders"), format!("- uri: http://127.0.0.1:{}/announce\n", free_port()))
        .expect("written");
    fs::write(at("key"), "a key for the members of a cluster, long enough\n").expect("written");
    let cluster = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let mut command = longshore();
    command.args(["tracker", "--json", "--listen", "127.0.0.1:0", "--cluster", &cluster.join(",")]);
    command.args(["--cluster-listen", &cluster[0], "--cluster-key-file", &at("key")]);
    command.args(["--forwarders", &at("forwarders"), "--directory", &format!("etcd://{}/x", etcd.members())]);
    let mut tracker = Process::start(&mut command);
    let address = tracker.event("listening")["addresses"][0].as_str().expect("an address").to_owned();
    let announce = format!("/announce?info_hash={}&peer_id={}&port=1&left=1", "a".repeat(20), "b".repeat(20));
    get(address.parse().expect("an address"), &announce, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let directory = DirectoryClient::new([format!("http://{address}")], None).expect("a client");
    let claimed = runtime.block_on(directory.claim(&Digest::of(b"x"), "node", Duration::ZERO));
    claimed.expect("an answer");
    let mut tracker_tells = String::new();
    interop::wait_until("a forwarder is told of", || {
        tracker_tells = get(address.parse().expect("an address"), "/metrics", &[]).text();
        tracker_tells.contains("forwarder_status{")
    });
    let mut command = longshore();
    command.args(["node", "--json", "--peer-listen", "127.0.0.1:0", "--mirror-listen", "127.0.0.1:0"]);
    command.arg("--data").arg(at("data")).arg("--socket").arg(at("sock"));
    let mut node = Process::start(&mut command);
    node.event("listening");
    let client = NodeClient::new(&Endpoint::Unix(at("sock").into()), None).expect("a client");
    let node_tells = runtime.block_on(client.metrics()).expect("an answer");
    let mut text = "# Metrics\n\n".to_owned();
    text.push_str("## The node\n\n`GET /v1/metrics` on its API.\n\n");
    metrics(&node_tells, &mut text);
    text.push_str(
        "\n## The tracker\n\n`GET /metrics`. What it tells of etcd, a cluster and forwarders is told where ",
    );
    text.push_str("they are.\n\n");
    metrics(&tracker_tells, &mut text);
    page("metrics.md", &text);
}

/// A table of what Prometheus' text tells of.
fn metrics(told: &str, text: &mut String) {
    text.push_str("| metric | kind | labels | what it says |\n|---|---|---|---|\n");
    let mut helps: Vec<(&str, &str)> =
        told.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')).collect();
    assert!(helps.len() >= 10, "{told}");
    helps.sort_unstable();
    for (name, help) in helps {
        let kind =
            told.lines().find_map(|line| line.strip_prefix("# TYPE ")?.strip_prefix(name)?.strip_prefix(' '));
        let samples = told.lines().filter_map(|line| line.strip_prefix(name));
        // Of a counter the samples may have an end that its name has not.
        let mut of_it = samples.map(|rest| rest.strip_prefix("_total").unwrap_or(rest));
        let labels =
            of_it.find_map(|rest| rest.strip_prefix('{')?.split_once('}')).map_or("", |(labels, _)| labels);
        let labels: Vec<_> =
            labels.split("\",").filter_map(|label| Some(format!("`{}`", label.split_once('=')?.0))).collect();
        let help = help.trim_end_matches('.');
        // What Prometheus knows a counter by.
        let end = if kind == Some("counter") && !name.ends_with("_total") { "_total" } else { "" };
        let _ =
            writeln!(text, "| `{name}{end}` | {} | {} | {help} |", kind.unwrap_or("?"), labels.join(", "));
    }
}

#[test]
fn the_page_of_the_apis_is_current() {
    let mut text = "# The APIs\n\nThe types of crate `longshore-api`, as JSON. A field after which *may be absent* \
                    stands is left out where it says nothing. Torrents are named by their info-hash in hex, blobs by their \
                    digest, `sha256:…`.\n"
        .to_owned();
    for (module, title) in [
        ("node", "A node"),
        ("torrents", "A node's ordinary torrents"),
        ("live", "What a node tells as it happens"),
        ("trace", "Why it took its time"),
        ("lab", "A lab"),
        ("directory", "The content directory of a tracker"),
    ] {
        let path = top().join(format!("crates/api/src/{module}.rs"));
        let source = fs::read_to_string(path).expect("readable");
        let _ = write!(text, "\n## {title}\n\n");
        module_page(&source, &mut text);
    }
    page("api.md", &text);
}

/// A module's documentation, and that of its types: of each field its name, its type, and what it is.
fn module_page(source: &str, text: &mut String) {
    for line in source.lines().map_while(|line| line.strip_prefix("//!")) {
        let _ = writeln!(text, "{}", plain(line.strip_prefix(' ').unwrap_or(line)));
    }
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let begin = text.len();
    let mut said = Said::default();
    // Whether the type is one whose parts are told of, and whether parts stand within a part.
    let (mut inside, mut variant) = (false, false);
    for line in source.lines() {
        let (indent, line) = (line.len() - line.trim_start().len(), line.trim());
        if let Some(words) = line.strip_prefix("///") {
            said.words.push(words.trim().to_owned());
            continue;
        }
        if line.starts_with("#[") {
            said.attributes.push_str(line);
            continue;
        }
        let item = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "));
        if let Some(item) = item.filter(|_| indent == 0 && said.attributes.contains("Serialize")) {
            let name = item.split([' ', '(', '{', '<']).next().unwrap_or_default();
            let _ = write!(text, "\n### `{name}`\n\n{}", said.in_words());
            if let Some(tag) = said.quoted("tag = ") {
                let _ = write!(text, " Which one it is stands in `{tag}`.");
            }
            text.push_str("\n\n");
            (inside, variant) = (line.ends_with('{'), false);
        } else if indent == 0 {
            inside = false;
        } else if inside && line == "}," {
            variant = false;
        } else if inside && let Some((name, kind)) = part(line, variant) {
            let dashes = if variant { "  - " } else { "- " };
            let is_variant = !variant && kind.is_none() || name.starts_with(char::is_uppercase);
            let name = if is_variant { name.to_lowercase() } else { name.to_owned() };
            let kind = kind.map(|kind| format!(" ({})", kind_in_words(kind))).unwrap_or_default();
            let absent =
                if said.attributes.contains("skip_serializing_if") { " *May be absent.*" } else { "" };
            let flat = if said.attributes.contains("flatten") { " *Its fields stand here.*" } else { "" };
            let _ = writeln!(text, "{dashes}`{name}`{kind}: {}{absent}{flat}", said.in_words());
            variant = line.ends_with('{') || variant;
        }
        said = Said::default();
    }
    // Outside of the source a constant is its value.
    let valued = constants(source).fold(text[begin..].to_owned(), |text, (name, value)| {
        text.replace(&format!("`{name}`"), &value.to_string())
    });
    text.replace_range(begin.., &valued);
}

/// The constants that are numbers, or products of some.
fn constants(source: &str) -> impl Iterator<Item = (&str, u64)> {
    source.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("pub const ")?.split_once(':')?;
        let factors = rest.split_once(" = ")?.1.trim_end_matches(';').split(" * ");
        Some((
            name,
            factors.map(|factor| factor.replace('_', "").parse::<u64>().ok()).product::<Option<u64>>()?,
        ))
    })
}

/// What stands before an item.
#[derive(Default)]
struct Said {
    words: Vec<String>,
    attributes: String,
}

impl Said {
    fn in_words(&self) -> String {
        plain(&self.words.join(" "))
    }

    fn quoted(&self, after: &str) -> Option<&str> {
        self.attributes.split_once(after)?.1.split('"').nth(1)
    }
}

/// A field's or a variant's name and type.
fn part(line: &str, in_variant: bool) -> Option<(&str, Option<&str>)> {
    let line = line.trim_end_matches([',', '{', ' ']);
    let field = line.strip_prefix("pub ").or(in_variant.then_some(line));
    if let Some((name, kind)) = field.and_then(|field| field.split_once(": ")) {
        return Some((name, Some(kind)));
    }
    if !line.starts_with(char::is_uppercase) {
        return None;
    }
    Some(line.split_once('(').map_or((line, None), |(name, kind)| (name, kind.strip_suffix(')'))))
}

/// Rust's type, as it is in JSON.
fn kind_in_words(kind: &str) -> String {
    let inside = |outer: &str| kind.strip_prefix(outer)?.strip_suffix('>');
    if let Some(of) = inside("Option<") {
        return format!("{} or none", kind_in_words(of));
    }
    if let Some(of) = inside("Vec<").or_else(|| inside("BTreeMap<String, ")) {
        return format!("list of {}", kind_in_words(of));
    }
    if let Some(of) = kind.strip_prefix('[').and_then(|kind| kind.strip_suffix("; 2]")) {
        return format!("pairs of {}", kind_in_words(of));
    }
    match kind {
        "String" | "InfoHash" | "Digest" | "PathBuf" => "text".to_owned(),
        "Bytes" => "base64".to_owned(),
        "bool" => "true or false".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "i64" | "usize" | "PieceIndex" => "number".to_owned(),
        "f64" => "number with a fraction".to_owned(),
        kind => format!("`{}`", kind.rsplit("::").next().unwrap_or(kind)),
    }
}

/// Links into the source become words.
fn plain(words: &str) -> String {
    let mut text = String::new();
    let mut rest = words;
    while let Some((before, after)) = rest.split_once('[') {
        text.push_str(before);
        // In code it is an index.
        if text.matches('`').count() % 2 == 1 {
            text.push('[');
            rest = after;
            continue;
        }
        let (name, after) = after.split_once(']').expect("a link's end");
        let target = after.strip_prefix('(').and_then(|target| target.split_once(')'));
        let is_web = target.is_some_and(|(target, _)| target.contains("://"));
        if is_web {
            let _ = write!(text, "[{name}]");
            rest = after;
        } else {
            text.push_str(name);
            rest = target.map_or(after, |(_, after)| after);
        }
    }
    text + rest
}
