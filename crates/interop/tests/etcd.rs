//! Two trackers that share a content directory in etcd, three members on loopback; what they do when a tracker or a
//! member dies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

#[path = "../../tracker/tests/contract/mod.rs"]
mod contract;
mod fleet;

use std::{path::Path, process::Command, time::Duration};

use api::directory::{Claim, PublishRequest, Renewal};
use fleet::{Node, Origin, Tracker, done};
use hash::Digest;
use longshore_interop::{Certificate, Etcd, longshore, noise};
use tokio::time::sleep;

fn self_signed(folder: &Path) -> Certificate {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    Certificate::write(folder, &made.cert.pem(), &made.signing_key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_trackers_over_etcd_keep_the_contract_of_the_directory() {
    let Some(etcd) = Etcd::start(3, None) else { return };
    let home = format!("etcd://{}/fleet/one", etcd.members());
    let (one, two) = (Tracker::start(&home), Tracker::start(&home));
    contract::holds(&one.client(), &two.client()).await;
    assert_eq!(one.metric("longshore_tracker_etcd_up ").await, Some(1));
    assert!(one.metric("longshore_tracker_etcd_calls_total ").await > Some(20));
    // Another prefix is another directory, and everything is where it should be.
    let other = Tracker::start(&format!("etcd://{}/fleet/two", etcd.members()));
    let known = contract::blob(&[7; 300_000]);
    assert_eq!(other.client().get(&known.digest).await.expect("answers"), None);
    let keys = etcd.ctl(&["get", "--prefix", "--keys-only", ""]).stdout;
    let keys = String::from_utf8(keys).expect("text");
    assert!(keys.contains(&format!("fleet/one/blobs/{}", known.digest)), "{keys}");
    assert!(keys.lines().all(|key| key.is_empty() || key.starts_with("fleet/one/")), "{keys}");
    // Started anew, a tracker knows all.
    let three = Tracker::start(&home);
    let entry = three.client().get(&known.digest).await.expect("answers").expect("kept");
    assert_eq!(entry.info, known.info_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_into_etcd_is_not_believed() {
    let Some(etcd) = Etcd::start(1, None) else { return };
    let home = format!("etcd://{}", etcd.members());
    let (mut tracker, blob) = (Tracker::start(&home), contract::blob(b"content"));
    let (client, digest) = (tracker.client(), blob.digest);
    client.publish(&digest, &contract::publication(&blob)).await.expect("publishes");
    assert!(client.get(&digest).await.expect("answers").is_some());
    for (key, value) in [
        (format!("longshore/torrents/{digest}/00"), "d4:name1:xe"),
        (format!("longshore/leases/{digest}"), r#"{"v":1,"node":"for ever","lease":"0000000000000001"}"#),
    ] {
        etcd.ctl(&["put", &key, value]);
    }
    // The torrent alone is not watched: an entry that is remembered here is still the good one.
    let other = Tracker::start(&home);
    let fresh = other.client();
    assert_eq!(fresh.get(&digest).await.expect("answers"), None);
    let claim = fresh.claim(&digest, "a", Duration::ZERO).await.expect("answers");
    assert!(matches!(claim, Claim::Leased(_)), "{claim:?}");
    client.publish(&digest, &contract::publication(&blob)).await.expect("publishes");
    assert!(fresh.get(&digest).await.expect("answers").is_some(), "healed");
    for junk in ["", "{}", "[]", r#"{"v":9}"#] {
        etcd.ctl(&["put", "--", &format!("longshore/blobs/{digest}"), junk]);
        // What is remembered is good until the watch has told of the change.
        let mut claim = fresh.claim(&digest, "a", Duration::ZERO).await.expect("answers");
        for _ in 0..500 {
            if matches!(claim, Claim::Leased(_)) {
                break;
            }
            sleep(Duration::from_millis(10)).await;
            claim = fresh.claim(&digest, "a", Duration::ZERO).await.expect("answers");
        }
        assert!(matches!(claim, Claim::Leased(_)), "{junk}: {claim:?}");
    }
    assert!(tracker.process.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torrent_larger_than_etcd_takes_at_once_is_kept_in_parts() {
    let Some(etcd) = Etcd::start(1, None) else { return };
    let home = format!("etcd://{}", etcd.members());
    let (one, two) = (Tracker::start(&home), Tracker::start(&home));
    // As of a blob of 2.4 TB, which nobody has to have for that.
    let pieces = 150_000;
    let digest = Digest::of(b"2.4 TB");
    let (hashes, states) = (noise(20 * pieces, 1), noise(32 * (pieces - 1), 2));
    let name = digest.to_string().replace("sha256:", "");
    let length = pieces * 16 * 1024 * 1024;
    let mut info =
        format!("d6:lengthi{length}e4:name64:{name}12:piece lengthi16777216e6:pieces").into_bytes();
    for (key, bytes) in
        [("", hashes.as_slice()), ("6:sha256", digest.as_bytes()), ("13:sha256 states", states.as_slice())]
    {
        info.extend_from_slice(format!("{key}{}:", bytes.len()).as_bytes());
        info.extend_from_slice(bytes);
    }
    info.push(b'e');
    let info = PublishRequest {
        info: info.into(),
        media_type: None,
        public: true,
        content: bytes::Bytes::new(),
        lease: None,
    };
    let published = one.client().publish(&digest, &info).await.expect("publishes");
    assert_eq!(published.size, length as u64);
    let entry = two.client().get(&digest).await.expect("answers").expect("known");
    assert!(entry.info == info.info, "the same to the byte");
    let parts = etcd.ctl(&["get", "--prefix", "--keys-only", "longshore/torrents/"]).stdout;
    assert_eq!(String::from_utf8_lossy(&parts).lines().filter(|line| !line.is_empty()).count(), 8);
    // A part is gone: the whole is not believed.
    etcd.ctl(&["del", &format!("longshore/torrents/{digest}/03")]);
    let three = Tracker::start(&home);
    assert_eq!(three.client().get(&digest).await.expect("answers"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_tracker_is_killed_the_node_goes_on_through_the_other_with_its_lease() {
    let Some(etcd) = Etcd::start(3, None) else { return };
    let home = format!("etcd://{}", etcd.members());
    let (mut one, two) = (Tracker::start(&home), Tracker::start(&home));
    let origin = Origin::start(2, 40_000_000, 8_000_000).await;
    let (a, b) = (Node::start(&[&one, &two], &origin), Node::start(&[&one, &two], &origin));
    let (layer, _) = origin.layer(0);
    let first = a.pull(0);
    origin.has_sent_a_part(0).await;
    let second = b.pull(0);
    b.is_waiting_for(&layer).await;
    let seen = two.client().claim(&layer, "onlooker", Duration::ZERO).await.expect("answers");
    let Claim::Held { by, .. } = seen else { panic!("{seen:?}") };
    one.process.kill();
    // The lease lives for three seconds; what is left of the download takes longer.
    for _ in 0..8 {
        sleep(Duration::from_millis(500)).await;
        if origin.sent(0) == origin.layer(0).1 {
            break;
        }
        let still = two.client().claim(&layer, "onlooker", Duration::ZERO).await.expect("answers");
        assert!(
            matches!(&still, Claim::Held { by: same, .. } if *same == by) || matches!(still, Claim::Known(_)),
            "{still:?}"
        );
    }
    done(first).await;
    done(second).await;
    // The one that is left serves on, and one that is started anew finds everything.
    done(b.pull(1)).await;
    done(a.pull(1)).await;
    origin.sent_each_once();
    let three = Tracker::start(&home);
    for image in 0..2 {
        let entry = three.client().get(&origin.layer(image).0).await.expect("answers").expect("kept");
        assert_eq!(entry.size, origin.layer(image).1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_of_etcd_is_killed_downloads_end_and_nothing_is_fetched_twice() {
    let Some(mut etcd) = Etcd::start(3, None) else { return };
    let home = format!("etcd://{}", etcd.members());
    let (one, two) = (Tracker::start(&home), Tracker::start(&home));
    let origin = Origin::start(3, 40_000_000, 8_000_000).await;
    let (a, b) = (Node::start(&[&one, &two], &origin), Node::start(&[&two, &one], &origin));
    let (first, layer) = (a.pull(0), origin.layer(0).0);
    origin.has_sent_a_part(0).await;
    let second = b.pull(0);
    b.is_waiting_for(&layer).await;
    let leader = etcd.leader().expect("one");
    etcd.kill(leader);
    // In the middle of the election: both ask for what nobody has.
    let (third, fourth) = (a.pull(1), b.pull(1));
    for pull in [first, second, third, fourth] {
        done(pull).await;
    }
    // The member comes back; another leader goes.
    etcd.begin(leader);
    longshore_interop::wait_until("three members again", || {
        etcd.ctl(&["endpoint", "health"]).status.success()
    });
    let leader = etcd.leader().expect("one");
    etcd.kill(leader);
    let (fifth, sixth) = (b.pull(2), a.pull(2));
    done(fifth).await;
    done(sixth).await;
    origin.sent_each_once();
    for tracker in [&one, &two] {
        let said = tracker.process.stderr();
        let outages = said.lines().filter(|line| line.contains("WARN") && line.contains("etcd")).count();
        assert!(outages <= 8, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_is_down_at_the_start_is_waited_for_and_a_dead_member_is_passed_over() {
    let Some(mut etcd) = Etcd::start(1, None) else { return };
    etcd.kill(0);
    let dead = longshore_interop::free_port();
    let tracker = Tracker::start(&format!("etcd://127.0.0.1:{dead},{}", etcd.members()));
    let client = tracker.client();
    let digest = Digest::of(b"x");
    let refused = client.claim(&digest, "a", Duration::ZERO).await;
    assert!(matches!(refused, Err(api::CallError::Unavailable { status: 503, .. })), "{refused:?}");
    assert_eq!(tracker.metric("longshore_tracker_etcd_up ").await, Some(0));
    for _ in 0..3 {
        client.get(&digest).await.expect_err("down");
    }
    let said = tracker.process.stderr();
    assert_eq!(said.lines().filter(|line| line.contains("WARN")).count(), 1, "one outage, one line: {said}");
    etcd.begin(0);
    let mut leased = None;
    // A directory that fails slowly is left alone for a while.
    for _ in 0..600 {
        if let Ok(Claim::Leased(lease)) = client.claim(&digest, "a", Duration::ZERO).await {
            leased = Some(lease);
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let lease = leased.expect("it comes");
    assert!(matches!(client.renew(&digest, &lease.lease, "a").await, Ok(Renewal::Leased(_))));
    // Who waits hears of the end by the watch, which has come back by itself.
    let waits = tokio::spawn({
        let client = client.clone();
        async move { client.claim(&digest, "b", Duration::from_secs(20)).await }
    });
    assert!(matches!(waits.await.expect("no panic"), Ok(Claim::Leased(_))), "the first is not renewed");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_with_tls_and_a_user_serves_who_has_the_password() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = self_signed(folder.path());
    let Some(mut etcd) = Etcd::start(1, Some(certificate.clone())) else { return };
    etcd.guard("carrier", "s3cret", "fleet");
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    std::fs::write(&good, "s3cret\n").expect("written");
    std::fs::write(&bad, "guess").expect("written");
    let home = format!("etcds://carrier@{}/fleet", etcd.members());
    let ca = ("--directory-ca", certificate.certificate.as_path());
    let with = |password| Tracker::with(&home, &[ca, ("--directory-password-file", password)]);
    let (one, two) = (with(&good), with(&good));
    contract::holds(&one.client(), &two.client()).await;
    // Tokens are in the members' memory: after a restart they know none.
    etcd.kill(0);
    etcd.begin(0);
    let mut answer = one.client().get(&Digest::of(b"x")).await;
    for _ in 0..10 {
        if answer.is_ok() {
            break;
        }
        answer = one.client().get(&Digest::of(b"x")).await;
    }
    assert_eq!(answer.expect("answers"), None);
    for (arguments, why) in [
        (
            ["--directory", &home, "--directory-password-file", bad.to_str().expect("text")].as_slice(),
            "password",
        ),
        (&["--directory", &home], "names a user"),
        (&["--directory", &home, "--directory-password-file", "/nowhere/at/all"], "/nowhere/at/all"),
        (
            &[
                "--directory",
                &home.replace("/fleet", "/other"),
                "--directory-password-file",
                good.to_str().expect("text"),
            ],
            "permission",
        ),
        (&["--directory", &home.replace("carrier@", "")], "user"),
    ] {
        let mut command = Command::new(longshore());
        command.args(["tracker", "--listen", "127.0.0.1:0"]).arg("--directory-ca").arg(ca.1).args(arguments);
        let refused = command.output().expect("ends");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains(why), "{arguments:?}: {said}");
        assert!(!said.contains("s3cret") && !said.contains("guess"), "{said}");
    }
    for tracker in [&one, &two] {
        assert!(!tracker.process.stderr().contains("s3cret"));
    }
}
