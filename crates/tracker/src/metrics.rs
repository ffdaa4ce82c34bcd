//! What the tracker counts, for Prometheus.

use std::{fmt, sync::atomic::Ordering::Relaxed};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeLabel as _, EncodeLabelSet, EncodeLabelValue, LabelSetEncoder,
        MetricEncoder, NoLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    cluster::Member,
    directory::Sizes,
    store::Outcome,
    tally::{Fault, Sums, Tallies},
};

const PREFIX: &str = "longshore_tracker";

/// What a claim was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Answer {
    /// The torrent.
    Known,
    /// The lease.
    Leased,
    /// Who holds the lease.
    Held,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByAnswer {
    answer: Answer,
}

/// Figures that are read off when they are asked for.
pub(crate) struct Levels {
    pub(crate) torrents: usize,
    pub(crate) peers: usize,
    pub(crate) waiting: usize,
    /// Where the directory can be read.
    pub(crate) sizes: Option<Sizes>,
    /// Whether it can be written.
    pub(crate) writable: bool,
    pub(crate) connections: usize,
    /// Where the directory is in etcd.
    pub(crate) etcd: Option<etcd::Stats>,
}

pub(crate) struct Metrics {
    registry: Registry,
    claims: Family<ByAnswer, Counter>,
    pub(crate) publications: Counter,
    pub(crate) refused: Counter,
    pub(crate) expired: Counter,
    levels: [Gauge; 8],
    etcd: Option<Etcd>,
}

/// What is told of etcd.
struct Etcd {
    up: Gauge,
    calls: Counter,
    failures: Counter,
}

impl Etcd {
    fn new(registry: &mut Registry) -> Self {
        let (up, calls, failures) = (Gauge::default(), Counter::default(), Counter::default());
        registry.register("etcd_up", "Whether etcd answered the last call", up.clone());
        registry.register("etcd_calls", "Calls to etcd", calls.clone());
        registry.register("etcd_failures", "Calls that etcd did not answer, or refused", failures.clone());
        Self { up, calls, failures }
    }
}

impl Metrics {
    /// With what is told of etcd where the directory is there.
    pub(crate) fn new(etcd: bool) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let claims = Family::default();
        registry.register("claims", "Claims of blobs by what was answered", claims.clone());
        let mut counter = |name, help| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let publications = counter("publications", "Blobs published in the directory");
        let refused = counter("refused", "Calls without the right token");
        let expired = counter("expired_peers", "Peers forgotten since they did not announce");
        let levels = [
            ("torrents", "Torrents with peers"),
            ("peers", "Peers"),
            ("leases", "Leases to fetch from an origin"),
            ("waiting_claims", "Claims that wait for a torrent or a lease"),
            ("directory_blobs", "Blobs in the directory"),
            ("directory_tags", "Tags in the directory"),
            ("connections", "Open connections"),
            ("directory_up", "Whether the directory takes what is published"),
        ]
        .map(|(name, help)| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        });
        let etcd = etcd.then(|| Etcd::new(&mut registry));
        Self { registry, claims, publications, refused, expired, levels, etcd }
    }

    pub(crate) fn claimed(&self, answer: Answer) {
        self.claims.get_or_create(&ByAnswer { answer }).inc();
    }

    pub(crate) fn text(
        &self,
        tallies: &[Tallies],
        levels: &Levels,
        forwards: &[Forwards],
        members: Vec<Member>,
    ) -> String {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let sizes = levels.sizes;
        let values = [
            Some(levels.torrents as u64),
            Some(levels.peers as u64),
            sizes.map(|sizes| sizes.leases),
            Some(levels.waiting as u64),
            sizes.map(|sizes| sizes.entries),
            sizes.map(|sizes| sizes.tags),
            Some(levels.connections as u64),
            Some(levels.writable.into()),
        ];
        for (gauge, value) in self.levels.iter().zip(values) {
            // What is not known stays as it was last.
            if let Some(value) = value {
                gauge.set(signed(value));
            }
        }
        if let (Some(etcd), Some(stats)) = (&self.etcd, &levels.etcd) {
            etcd.up.set(stats.reachable.into());
            etcd.calls.inner().store(stats.calls, Relaxed);
            etcd.failures.inner().store(stats.failures, Relaxed);
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode_registry(&mut text, &self.registry);
        let mut requests = Registry::with_prefix(PREFIX);
        requests.register_collector(Box::new(Requests(tallies.iter().flat_map(Tallies::sums).collect())));
        if !members.is_empty() {
            requests.register_collector(Box::new(Members(members)));
        }
        let _ = encode_registry(&mut text, &requests);
        let mut retracker = Registry::default();
        retracker.register_collector(Box::new(Retracker {
            announces: announces(tallies),
            forwards: forwards.to_vec(),
        }));
        let _ = encode_registry(&mut text, &retracker);
        let _ = encode_eof(&mut text);
        text
    }
}

/// What is told of the cluster's other trackers.
#[derive(Debug)]
struct Members(Vec<Member>);

impl Collector for Members {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut each = |name, help, kind, value: &dyn Fn(&Member) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for member in self.0.iter().filter(|member| !member.itself) {
                let labels = [("member", member.member.as_str())];
                let labels = Labels(&labels);
                let mut metric = family.encode_family(&labels)?;
                if let MetricType::Counter = kind {
                    metric.encode_counter::<NoLabelSet, _, u64>(&value(member), None)?;
                } else {
                    metric.encode_gauge(&value(member))?;
                }
            }
            Ok::<(), fmt::Error>(())
        };
        let (counter, gauge) = (MetricType::Counter, MetricType::Gauge);
        each("cluster_up", "Whether a member is told of our peers", gauge, &|m| m.connected.into())?;
        each("cluster_sent", "News of peers that went to a member", counter, &|m| m.sent)?;
        each("cluster_received", "News of peers from a member, since its start", counter, &|m| m.received)?;
        each("cluster_dropped", "News for which a member had no room", counter, &|m| m.dropped)?;
        each("cluster_resyncs", "How often a member was told all anew for that", counter, &|m| m.resyncs)?;
        each("cluster_lag_milliseconds", "Until a member has taken news in", gauge, &|m| m.lag_ms)
    }
}

/// A forwarder's name, a status, and how often it came to that.
pub(crate) type Forwards = (String, String, u64);

/// All announces, whatever became of them.
fn announces(tallies: &[Tallies]) -> u64 {
    tallies.iter().flat_map(Tallies::sums).map(|sums| sums.announces.iter().sum::<u64>()).sum()
}

/// The two metrics of retracker, by the names that its users' dashboards have. As gauges: the names of counters end
/// in `_total` today.
#[derive(Debug)]
struct Retracker {
    announces: u64,
    forwards: Vec<Forwards>,
}

impl Collector for Retracker {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let requests = encoder.encode_descriptor("requests", "Announces", None, MetricType::Gauge)?;
        encode_count(requests, self.announces)?;
        if self.forwards.is_empty() {
            return Ok(());
        }
        let help = "Announces to forwarders by what came of them";
        let mut family = encoder.encode_descriptor("forwarder_status", help, None, MetricType::Gauge)?;
        for (name, status, count) in &self.forwards {
            let labels = [("name", name.as_str()), ("status", status.as_str())];
            encode_count(family.encode_family(&Labels(&labels))?, *count)?;
        }
        Ok(())
    }
}

fn encode_count(mut encoder: MetricEncoder<'_>, count: u64) -> fmt::Result {
    encoder.encode_gauge(&count)
}

/// What the listeners count, as it stands.
#[derive(Debug)]
struct Requests(Vec<Sums>);

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut counter = |name, help, label, values: &dyn Fn(&Sums) -> Vec<(&'static str, u64)>| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for sums in &self.0 {
                let listener = sums.listener.to_string();
                for (value, count) in values(sums) {
                    let place = [
                        ("listener", listener.as_str()),
                        ("protocol", sums.protocol.name()),
                        ("family", sums.family),
                        (label, value),
                    ];
                    // The last label is for those that have one.
                    let labels = place.get(..if label.is_empty() { 3 } else { 4 }).unwrap_or_default();
                    family
                        .encode_family(&Labels(labels))?
                        .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
                }
            }
            Ok(())
        };
        let only = |count| vec![("", count)];
        counter("announces", "Announces by what became of them", "outcome", &|sums| {
            Outcome::ALL.map(Outcome::name).into_iter().zip(sums.announces).collect()
        })?;
        counter("scrapes", "Scrapes answered", "", &|sums| only(sums.scrapes))?;
        counter("connects", "TCP connections, and UDP connection ids given", "", &|sums| {
            only(sums.connects)
        })?;
        counter("faults", "Requests that went wrong, by what was wrong", "fault", &|sums| {
            Fault::ALL.map(Fault::name).into_iter().zip(sums.faults).collect()
        })
    }
}

/// The same in the older text format (0.0.4), for whoever does not ask for OpenMetrics: there, what is told of a
/// counter has its samples' name.
pub(crate) fn classic(openmetrics: &str) -> String {
    let counters: Vec<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => continue,
            (Some("#"), Some(word), Some(name), Some(rest)) if counters.contains(&name) => {
                text.push_str(&format!("# {word} {name}_total {rest}"));
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[derive(Debug)]
struct Labels<'a>(&'a [(&'a str, &'a str)]);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.iter().try_for_each(|label| label.encode(encoder.encode_label()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_as_their_samples_and_has_no_end() {
        let metrics = Metrics::new(false);
        metrics.claimed(Answer::Known);
        let levels = Levels {
            torrents: 1,
            peers: 2,
            waiting: 0,
            sizes: None,
            writable: true,
            connections: 0,
            etcd: None,
        };
        let text = metrics.text(&[], &levels, &[("far".to_owned(), "200".to_owned(), 3)], vec![]);
        assert!(text.ends_with("# EOF\n") && text.contains("# TYPE longshore_tracker_claims counter"));
        let text = classic(&text);
        assert!(!text.contains("# EOF"), "{text}");
        for line in [
            "# TYPE longshore_tracker_claims_total counter",
            "longshore_tracker_claims_total{answer=\"Known\"} 1",
            "# TYPE longshore_tracker_peers gauge",
            "longshore_tracker_peers 2",
            "requests 0",
            "forwarder_status{name=\"far\",status=\"200\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
