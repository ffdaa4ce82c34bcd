//! Prints how crowds of growing size fare in virtual time:
//! `cargo run --release -p longshore-sim --example crowds [LEECHERS]`, all of them or those with so many leechers.

#![allow(clippy::print_stdout, clippy::expect_used)]

use std::time::Duration;

use longshore_sim::{Link, Node, Scenario, Simulation};
use metainfo::Geometry;

fn main() {
    let only: Option<usize> = std::env::args().nth(1).and_then(|n| n.parse().ok());
    println!(
        "{:>6} {:>6} {:>8} {:>8} {:>12} {:>10} {:>10} {:>10}",
        "nodes", "seeds", "degree", "reads", "last ÷ ideal", "seed sent", "wasted", "quarter"
    );
    let mb = 1024.0 * 1024.0;
    for (leechers, seeds, degree, reads, size, piece) in [
        (1, 1, 40, false, 64, 256),
        (4, 1, 40, false, 64, 256),
        (4, 1, 40, true, 64, 256),
        (10, 1, 40, false, 64, 256),
        (10, 2, 40, false, 64, 256),
        (30, 1, 40, false, 64, 256),
        (100, 1, 40, false, 64, 256),
        (100, 1, 40, true, 64, 256),
        (100, 1, 120, false, 64, 256),
        (100, 1, 40, false, 256, 1024),
        (100, 1, 40, false, 256, 256),
    ] {
        if only.is_some_and(|only| only != leechers) {
            continue;
        }
        let rate = 12.5 * mb;
        let link = Link::symmetric(rate);
        let total = size as u64 * 1024 * 1024;
        let mut nodes = vec![Node::new(link).seed(); seeds];
        nodes.extend(vec![Node { reads, ..Node::new(link) }; leechers]);
        let scenario = Scenario {
            geometry: Geometry::new(total, piece * 1024).expect("valid"),
            nodes,
            degree,
            config: swarm::Config::default(),
            random_seed: 1,
            deadline: Duration::from_secs(600),
        };
        let report = Simulation::new(scenario.clone()).run();
        let last = report.last(&scenario);
        let ideal = total as f64 / rate;
        let seed_sent: u64 = report.sent[..seeds].iter().sum();
        let quarter = report.first_quarter.iter().flatten().map(Duration::as_secs_f64).fold(0.0, f64::max);
        println!(
            "{leechers:>6} {seeds:>6} {degree:>8} {reads:>8} {:>12.3} {:>10.3} {:>10.4} {:>10.3}",
            last.map_or(f64::NAN, |l| l.as_secs_f64() / ideal),
            seed_sent as f64 / total as f64,
            report.wasted as f64 / (total as f64 * leechers as f64),
            quarter / ideal,
        );
    }
}
