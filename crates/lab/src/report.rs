//! What a lab found out.

use hash::Digest;
use serde::{Serialize, Serializer};

use crate::{Role, table};

/// What a lab found out. Serialised, it is what `--json` prints; lengths are bytes, times seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Whether every node pulled the image and every digest proved right.
    pub ok: bool,
    /// What was pulled.
    pub reference: String,
    /// The speed of each node's link, both ways, in bits per second; none where it was not limited.
    pub rate: Option<u64>,
    /// From the moment that all leechers were told to pull until the last was done.
    pub wall_seconds: f64,
    /// The leecher that was done last.
    pub slowest: Option<String>,
    /// The image's bytes: manifest, configuration and layers.
    pub image_bytes: u64,
    /// What left the origin, seeders and leechers together.
    pub origin_bytes: u64,
    /// The same in images.
    pub origin_copies: f64,
    /// The most that a blob left the origin, in blobs.
    pub max_blob_copies: f64,
    /// What leechers took from seeders, in images.
    pub seeder_copies: f64,
    /// Digests that the lab proved right, over all nodes.
    pub digests_right: usize,
    /// How many there were to prove.
    pub digests_expected: usize,
    /// Manifest, configuration and layers.
    pub blobs: Vec<BlobReport>,
    /// Seeders first.
    pub nodes: Vec<NodeReport>,
}

/// A part of the image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlobReport {
    /// Its digest.
    #[serde(serialize_with = "as_text")]
    pub digest: Digest,
    /// What it is.
    pub kind: BlobKind,
    /// Its length.
    pub size: u64,
    /// How often it was asked for at the origin.
    pub origin_requests: u64,
    /// How many of its bytes left the origin.
    pub origin_bytes: u64,
    /// The same in blobs.
    pub origin_copies: f64,
}

/// What a part of an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// The manifest.
    Manifest,
    /// The configuration.
    Config,
    /// A layer.
    Layer,
}

/// What a node did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeReport {
    /// `s1`, `n1` and so on.
    pub name: String,
    /// What it is in the lab.
    pub role: Role,
    /// Its IP address.
    pub address: String,
    /// How long its pull took.
    pub seconds: Option<f64>,
    /// From other nodes, each that gave something.
    pub from_nodes: Vec<Taken>,
    /// From all other nodes together.
    pub from_peers: u64,
    /// From the origin.
    pub from_origin: u64,
    /// From the content directory, which has small blobs whole.
    pub from_directory: u64,
    /// To other nodes, as it counted itself.
    pub to_peers: u64,
    /// What came twice, or wrong, and was thrown away.
    pub wasted: u64,
    /// Digests that the lab proved right.
    pub digests_right: usize,
    /// Digests that are not right, and why.
    pub digests_wrong: Vec<String>,
    /// Why the pull failed, if it did.
    pub error: Option<String>,
}

/// Bytes that a node took from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// The other's name; an address where it is no node of the lab.
    pub node: String,
    /// Content bytes.
    pub bytes: u64,
}

impl Report {
    /// As text for people, with lines of at most `width` characters where that can be.
    pub fn table(&self, width: usize) -> String {
        table::render(self, width)
    }

    /// Sums up what the parts say.
    pub(crate) fn sum_up(&mut self) {
        self.image_bytes = self.blobs.iter().map(|blob| blob.size).sum();
        self.origin_bytes = self.blobs.iter().map(|blob| blob.origin_bytes).sum();
        self.origin_copies = ratio(self.origin_bytes, self.image_bytes);
        self.max_blob_copies = self.blobs.iter().map(|blob| blob.origin_copies).fold(0.0, f64::max);
        self.digests_right = self.nodes.iter().map(|node| node.digests_right).sum();
        self.digests_expected = self.nodes.len() * self.blobs.len();
        let of = |role| self.nodes.iter().filter(move |node| node.role == role);
        let given = of(Role::Seeder).flat_map(|s| of(Role::Leecher).map(|l| l.taken_from(&s.name))).sum();
        self.seeder_copies = ratio(given, self.image_bytes);
        let leechers = of(Role::Leecher);
        let slowest = leechers.max_by(|a, b| a.seconds.unwrap_or(0.0).total_cmp(&b.seconds.unwrap_or(0.0)));
        self.slowest = slowest.filter(|node| node.seconds.is_some()).map(|node| node.name.clone());
        self.ok = self.digests_right == self.digests_expected
            && self.nodes.iter().all(|node| node.error.is_none() && node.seconds.is_some());
    }
}

impl BlobReport {
    pub(crate) fn new(digest: Digest, kind: BlobKind, size: u64) -> Self {
        Self { digest, kind, size, origin_requests: 0, origin_bytes: 0, origin_copies: 0.0 }
    }

    pub(crate) fn left_origin(&mut self, requests: u64, bytes: u64) {
        (self.origin_requests, self.origin_bytes) = (requests, bytes);
        self.origin_copies = ratio(bytes, self.size);
    }

    pub(crate) fn is_manifest(&self) -> bool {
        self.kind == BlobKind::Manifest
    }
}

impl NodeReport {
    pub(crate) fn new(name: &str, role: Role, address: String) -> Self {
        Self {
            name: name.to_owned(),
            role,
            address,
            seconds: None,
            from_nodes: Vec::new(),
            from_peers: 0,
            from_origin: 0,
            from_directory: 0,
            to_peers: 0,
            wasted: 0,
            digests_right: 0,
            digests_wrong: Vec::new(),
            error: None,
        }
    }

    /// Notes bytes from another node.
    pub(crate) fn took(&mut self, from: &str, bytes: u64) {
        self.from_peers += bytes;
        match self.from_nodes.iter_mut().find(|taken| taken.node == from) {
            Some(taken) => taken.bytes += bytes,
            None => self.from_nodes.push(Taken { node: from.to_owned(), bytes }),
        }
    }

    /// Bytes from one other node.
    pub(crate) fn taken_from(&self, node: &str) -> u64 {
        self.from_nodes.iter().filter(|taken| taken.node == node).map(|taken| taken.bytes).sum()
    }
}

fn ratio(bytes: u64, size: u64) -> f64 {
    if size == 0 { 0.0 } else { bytes as f64 / size as f64 }
}

fn as_text<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::plan::{Network, Plan};

    /// A lab of `seeders` and `leechers` in which everybody took the same from each before him.
    pub(crate) fn report(seeders: usize, leechers: usize) -> Report {
        let mut blobs = vec![
            BlobReport::new(Digest::of(b"m"), BlobKind::Manifest, 500),
            BlobReport::new(Digest::of(b"l"), BlobKind::Layer, 10 << 20),
        ];
        blobs[0].left_origin(2, 1000);
        blobs[1].left_origin(1, 10 << 20);
        let plan = Plan::new(seeders, leechers, Network::Loopback(0));
        let mut nodes: Vec<NodeReport> = Vec::new();
        for node in &plan.nodes {
            let mut report = NodeReport::new(&node.name, node.role, node.peer.ip().to_string());
            for before in &nodes {
                report.took(&before.name, (10 << 20) / nodes.len() as u64);
            }
            report.from_origin = if nodes.is_empty() { 10 << 20 } else { 0 };
            (report.seconds, report.digests_right) = (Some(0.5 + nodes.len() as f64 / 100.0), 2);
            nodes.push(report);
        }
        let mut report = Report {
            ok: false,
            reference: "lab.test/demo:latest".into(),
            rate: None,
            wall_seconds: 0.75,
            slowest: None,
            image_bytes: 0,
            origin_bytes: 0,
            origin_copies: 0.0,
            max_blob_copies: 0.0,
            seeder_copies: 0.0,
            digests_right: 0,
            digests_expected: 0,
            blobs,
            nodes,
        };
        report.sum_up();
        report
    }

    #[test]
    fn the_sums_are_of_the_parts() {
        let report = report(1, 3);
        assert!(report.ok);
        assert_eq!((report.image_bytes, report.origin_bytes), (500 + (10 << 20), 1000 + (10 << 20)));
        assert_eq!((report.max_blob_copies, report.slowest.as_deref()), (2.0, Some("n3")));
        assert_eq!((report.digests_right, report.digests_expected), (8, 8));
    }

    #[test]
    fn one_wrong_digest_or_failed_node_is_not_ok() {
        let mut wrong = report(1, 3);
        wrong.nodes[2].digests_right -= 1;
        wrong.sum_up();
        assert!(!wrong.ok);
        let mut failed = report(1, 3);
        failed.nodes[2].error = Some("gone".into());
        failed.sum_up();
        assert!(!failed.ok);
    }

    #[test]
    fn as_json_it_has_names_for_scripts() {
        let json = serde_json::to_value(report(1, 2)).expect("serialises");
        assert_eq!(json["ok"], true);
        assert_eq!(json["blobs"][0]["kind"], "manifest");
        assert_eq!(json["blobs"][1]["origin_copies"], 1.0);
        assert!(json["blobs"][1]["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")));
        assert_eq!(json["nodes"][2]["role"], "leecher");
        assert_eq!(json["nodes"][2]["from_nodes"][0]["node"], "s1");
        assert_eq!(json["nodes"][2]["from_nodes"][0]["bytes"], 5 << 20);
    }
}
