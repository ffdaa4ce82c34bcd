//! `longshore lab` from the outside: real processes, a real image, every digest.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use std::{fs, path::Path, process::Command};

use serde_json::Value;

/// Files that neither compress away nor are all alike, 300 KiB each.
fn sources(folder: &Path) {
    let mut state = 1u32;
    for file in 0..8 {
        let noise = (0..300 << 10).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        fs::write(folder.join(format!("file-{file}")), noise.collect::<Vec<_>>()).expect("written");
    }
}

fn run(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    sources(folder.path());
    let output = Command::new(env!("CARGO_BIN_EXE_longshore"))
        .args(["lab", "--json", "--deadline", "120", "--sources"])
        .arg(folder.path())
        .args(arguments)
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&said).expect("one JSON document")
}

fn nodes(report: &Value) -> &[Value] {
    report["nodes"].as_array().expect("a list")
}

#[test]
fn nobody_holds_it_and_the_origin_gives_each_blob_once() {
    let report = run(&["--seeders", "0", "--leechers", "3"]);
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(report["digests_right"], report["digests_expected"]);
    let blobs = report["blobs"].as_array().expect("a list");
    assert_eq!(blobs.len(), 6, "manifest, config and four layers");
    for blob in blobs {
        assert!(blob["origin_copies"].as_f64().expect("a number") <= 1.1, "{report:#}");
    }
    assert_eq!(nodes(&report).len(), 3);
    let size = report["image_bytes"].as_u64().expect("a number");
    assert!(size > 2 << 20);
    let from = |kind: &str| nodes(&report).iter().filter_map(|node| node[kind].as_u64()).sum::<u64>();
    let sources = ["from_peers", "from_origin", "from_directory"];
    assert_eq!(sources.map(from).iter().sum::<u64>(), 3 * size, "{report:#}");
}

#[test]
fn what_a_seeder_holds_never_leaves_the_origin_again() {
    // At a speed to which nodes hold by themselves.
    let report = run(&["--seeders", "1", "--leechers", "2", "--rate", "400mbit"]);
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(report["rate"], 400_000_000);
    assert_eq!(nodes(&report)[0]["role"], "seeder");
    for leecher in &nodes(&report)[1..] {
        assert_eq!(leecher["role"], "leecher");
        assert_eq!(leecher["from_origin"], 0, "{report:#}");
        let from = |kind: &str| leecher[kind].as_u64().expect("a number");
        let size = report["image_bytes"].as_u64().expect("a number");
        assert_eq!(from("from_peers") + from("from_directory"), size, "{report:#}");
        assert!(from("from_directory") < 64 * 1024, "{report:#}");
    }
}

#[test]
fn a_registry_without_a_link_gets_no_speed_and_the_reason_is_said() {
    let output = Command::new(env!("CARGO_BIN_EXE_longshore"))
        .args(["lab", "--origin-rate", "100mbit"])
        .output()
        .expect("starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--netns"));
}
