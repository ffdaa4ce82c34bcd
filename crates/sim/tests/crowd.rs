//! Crowds in virtual time: every figure here is exact for its random seed.
#![allow(clippy::expect_used, reason = "a test says so when it fails")]

use std::time::Duration;

use longshore_sim::{Link, Node, Report, Scenario, Simulation};
use metainfo::Geometry;

const MIB: u64 = 1024 * 1024;
const RATE: f64 = 12.5 * 1024.0 * 1024.0;

fn scenario(total: u64, nodes: Vec<Node>) -> Scenario {
    Scenario {
        geometry: Geometry::new(total, 256 * 1024).expect("valid"),
        nodes,
        degree: 40,
        config: swarm::Config::default(),
        random_seed: 7,
        deadline: Duration::from_secs(300),
    }
}

fn crowd(leechers: usize) -> Vec<Node> {
    let link = Link::symmetric(RATE);
    let mut nodes = vec![Node::new(link).seed()];
    nodes.extend(vec![Node::new(link); leechers]);
    nodes
}

/// The last finisher's time over the time one copy takes on one link, and the seed's copies.
fn measure(scenario: &Scenario) -> (f64, f64, Report) {
    let report = Simulation::new(scenario.clone()).run();
    let last = report.last(scenario).expect("everybody finishes");
    let total = scenario.geometry.total() as f64;
    (last.as_secs_f64() / (total / RATE), report.sent[0] as f64 / total, report)
}

#[test]
fn four_leechers_cost_the_seed_one_copy_and_finish_together() {
    let (last, seed, _) = measure(&scenario(64 * MIB, crowd(4)));
    assert!(last < 1.1 && seed < 1.05, "last {last}, seed sent {seed}");
}

#[test]
fn a_hundred_nodes_finish_near_the_ideal_and_the_seed_sends_about_one_copy() {
    let (last, seed, _) = measure(&scenario(256 * MIB, crowd(100)));
    assert!(last < 1.1 && seed < 1.1, "last {last}, seed sent {seed}");
}

#[test]
fn a_hundred_nodes_that_all_ask_the_first_who_has_a_piece_do_not_wait_in_its_queue() {
    let (last, seed, _) = measure(&scenario(64 * MIB, crowd(100)));
    assert!(last < 1.15 && seed < 1.1, "last {last}, seed sent {seed}");
}

#[test]
fn the_last_in_the_order_of_asking_are_not_the_last_to_be_served() {
    let scenario = Scenario { degree: 120, ..scenario(64 * MIB, crowd(100)) };
    let (last, seed, _) = measure(&scenario);
    assert!(last < 1.25 && seed < 1.1, "last {last}, seed sent {seed}");
}

#[test]
fn readers_get_the_head_of_the_blob_early() {
    let mut nodes = crowd(10);
    nodes.iter_mut().skip(1).for_each(|n| n.reads = true);
    let scenario = scenario(64 * MIB, nodes);
    let (last, seed, report) = measure(&scenario);
    let quarter = report.first_quarter.iter().skip(1).flatten().max().expect("all").as_secs_f64();
    assert!(last < 1.2 && seed < 1.2, "last {last}, seed sent {seed}");
    assert!(quarter < 0.5 * scenario.geometry.total() as f64 / RATE, "first quarter after {quarter} s");
}

#[test]
fn the_same_scenario_gives_the_same_report() {
    let scenario = scenario(8 * MIB, crowd(12));
    assert_eq!(Simulation::new(scenario.clone()).run(), Simulation::new(scenario).run());
}

#[test]
fn a_seed_that_leaves_after_one_copy_leaves_a_swarm_that_finishes() {
    let mut nodes = crowd(8);
    // One copy takes 2.56 s; the seed goes soon after.
    nodes[0].leaves = Some(Duration::from_millis(3200));
    let report = Simulation::new(scenario(32 * MIB, nodes.clone())).run();
    assert!(report.finished.iter().skip(1).all(Option::is_some), "{:?}", report.finished);
}

#[test]
fn leechers_that_come_and_go_hold_nobody_up() {
    let mut nodes = crowd(12);
    for (index, node) in nodes.iter_mut().enumerate().skip(1) {
        node.joins = Duration::from_millis(150 * index as u64);
        if index % 3 == 0 {
            node.leaves = Some(node.joins + Duration::from_millis(900));
        }
    }
    let scenario = scenario(32 * MIB, nodes);
    let report = Simulation::new(scenario.clone()).run();
    let last = report.last(&scenario).expect("all who stay finish");
    assert!(last < Duration::from_secs(8), "{last:?}");
}

#[test]
fn a_peer_that_sends_wrong_bytes_is_banned_by_proof_and_nobody_else() {
    let mut nodes = crowd(6);
    nodes.push(Node { corrupts: 300, ..Node::new(Link::symmetric(RATE)).seed() });
    let liar = nodes.len() - 1;
    let report = Simulation::new(scenario(16 * MIB, nodes)).run();
    assert!(report.finished.iter().take(liar).skip(1).all(Option::is_some), "{:?}", report.finished);
    assert!(!report.bans.is_empty());
    assert!(report.bans.iter().all(|(_, banned)| *banned == liar), "{:?}", report.bans);
}

#[test]
fn slow_and_fast_links_mix() {
    let mut nodes = crowd(6);
    for node in nodes.iter_mut().skip(4) {
        node.link = Link { up: RATE / 20.0, ..Link::symmetric(RATE) };
    }
    // Six copies have to go through all uplinks together, whoever sends what.
    let ups: f64 = nodes.iter().map(|node| node.link.up).sum();
    let fluid = 6.0 * RATE / ups;
    let (last, seed, _) = measure(&scenario(32 * MIB, nodes));
    assert!(last < 1.6 * fluid && seed < 2.0, "last {}, seed sent {seed}", last / fluid);
}
