//! What a content directory promises, whatever its home. Called through two clients: of one tracker, or of two that
//! share a home; what the one is told the other must know.

use std::time::Duration;

use api::{
    CallError, DirectoryClient,
    directory::{Claim, Entry, MAX_CONTENT, PublishRequest, Renewal, TagClaim, TagRequest, turn_of},
};
use bytes::Bytes;
use hash::Digest;
use metainfo::{BlobBuilder, BlobTorrent};

const WAIT: Duration = Duration::from_secs(30);

pub(crate) fn blob(content: &[u8]) -> BlobTorrent {
    let mut builder = BlobBuilder::new(content.len() as u64).expect("small");
    builder.update(content);
    builder.finish().expect("whole")
}

pub(crate) fn publication(blob: &BlobTorrent) -> PublishRequest {
    let (info, media_type) = (blob.info_bytes.clone(), Some("m".to_owned()));
    PublishRequest { info, media_type, public: false, content: Bytes::new(), lease: None }
}

/// All of it. Leases last some seconds.
pub(crate) async fn holds(a: &DirectoryClient, b: &DirectoryClient) {
    of_fifty_claims_at_once_one_gets_the_lease(a, b).await;
    a_publication_wakes_all_who_wait_and_ends_the_lease(a, b).await;
    a_holder_who_claims_again_is_told_the_same_lease(a, b).await;
    when_the_holder_dies_or_gives_up_the_next_gets_the_lease(a, b).await;
    a_dead_swarm_is_fetched_again_by_one(a, b).await;
    only_the_canonical_torrent_of_the_blob_is_published(a, b).await;
    what_is_public_stays_so(a, b).await;
    a_small_blob_is_given_along_if_it_is_that(a, b).await;
    a_tag_points_where_it_was_set_last(a, b).await;
    of_many_who_want_a_tag_one_gets_the_turn_and_tells_the_others(a, b).await;
}

async fn a_small_blob_is_given_along_if_it_is_that(a: &DirectoryClient, b: &DirectoryClient) {
    let (content, large) = (Bytes::from_static(b"a manifest"), Bytes::from(vec![5; MAX_CONTENT + 1]));
    let small = blob(&content);
    let request = PublishRequest { content: content.clone(), ..publication(&small) };
    assert_eq!(a.publish(&small.digest, &request).await.expect("published").content, content);
    // Who publishes without it takes nothing away.
    a.publish(&small.digest, &publication(&small)).await.expect("published");
    assert_eq!(b.get(&small.digest).await.expect("an answer").expect("there").content, content);
    for (blob, content) in [(blob(b"another"), content), (blob(&large), large)] {
        let request = PublishRequest { content, ..publication(&blob) };
        let refused = a.publish(&blob.digest, &request).await;
        assert!(matches!(refused, Err(CallError::Rejected { .. })), "{refused:?}");
        assert_eq!(b.get(&blob.digest).await.expect("an answer"), None);
    }
}

async fn what_is_public_stays_so(a: &DirectoryClient, b: &DirectoryClient) {
    let blob = blob(b"at first for some");
    let told = async |public| {
        let request = PublishRequest { public, ..publication(&blob) };
        a.publish(&blob.digest, &request).await.expect("published").public
    };
    assert!(!told(false).await);
    assert!(!b.get(&blob.digest).await.expect("an answer").expect("there").public);
    assert!(told(true).await);
    assert!(told(false).await);
    assert!(b.get(&blob.digest).await.expect("an answer").expect("there").public);
}

async fn of_fifty_claims_at_once_one_gets_the_lease(a: &DirectoryClient, b: &DirectoryClient) {
    let digest = Digest::of(b"wanted by fifty");
    let claims: Vec<_> = (0..50)
        .map(|node| {
            let client = if node % 2 == 0 { a.clone() } else { b.clone() };
            tokio::spawn(async move { client.claim(&digest, &format!("node-{node}"), Duration::ZERO).await })
        })
        .collect();
    let (mut leased, mut held) = (0, 0);
    for claim in claims {
        match claim.await.expect("no panic").expect("an answer") {
            Claim::Leased(_) => leased += 1,
            Claim::Held { .. } => held += 1,
            Claim::Known(entry) => panic!("{entry:?}"),
        }
    }
    assert_eq!((leased, held), (1, 49));
}

async fn a_publication_wakes_all_who_wait_and_ends_the_lease(a: &DirectoryClient, b: &DirectoryClient) {
    let blob = blob(&[7; 300_000]);
    let digest = blob.digest;
    let Ok(Claim::Leased(lease)) = a.claim(&digest, "a", Duration::ZERO).await else { panic!("free") };
    let waiting: Vec<_> = (0..20)
        .map(|node| {
            let client = if node % 2 == 0 { a.clone() } else { b.clone() };
            tokio::spawn(async move { client.claim(&digest, &format!("n{node}"), WAIT).await })
        })
        .collect();
    let renewed = b.renew(&digest, &lease.lease, "a").await.expect("answers");
    assert!(matches!(renewed, Renewal::Leased(same) if same.lease == lease.lease));
    let published = b.publish(&digest, &publication(&blob)).await.expect("publishes");
    assert_eq!((published.size, published.info_hash), (300_000, blob.info_hash));
    for claim in waiting {
        let known = claim.await.expect("no panic").expect("an answer");
        assert!(matches!(known, Claim::Known(Entry { info, .. }) if info == blob.info_bytes));
    }
    let again = a.publish(&digest, &publication(&blob)).await.expect("idempotent");
    assert_eq!(again, published);
    assert_eq!(a.renew(&digest, &lease.lease, "a").await.expect("answers"), Renewal::Known);
    assert_eq!(b.get(&digest).await.expect("answers").map(|entry| entry.info), Some(blob.info_bytes));
    assert_eq!(a.get(&Digest::of(b"never")).await.expect("answers"), None);
}

async fn a_holder_who_claims_again_is_told_the_same_lease(a: &DirectoryClient, b: &DirectoryClient) {
    let digest = Digest::of(b"claimed twice");
    let Ok(Claim::Leased(first)) = a.claim(&digest, "a", Duration::ZERO).await else { panic!("free") };
    let again = b.claim(&digest, "a", Duration::ZERO).await;
    assert!(matches!(again, Ok(Claim::Leased(second)) if second.lease == first.lease));
    // Only who holds it gives it back.
    b.release(&digest, &first.lease, "b").await.expect("no error");
    b.release(&digest, "0000000000000001", "a").await.expect("no error");
    let held = b.claim(&digest, "b", Duration::ZERO).await;
    assert!(matches!(&held, Ok(Claim::Held { by, .. }) if by == "a"), "{held:?}");
    // A name that never was one is as good as none.
    assert!(matches!(a.renew(&Digest::of(b"new"), "a lease of before", "a").await, Ok(Renewal::Leased(_))));
    assert!(matches!(b.claim(&Digest::of(b"new"), "b", Duration::ZERO).await, Ok(Claim::Held { .. })));
}

async fn when_the_holder_dies_or_gives_up_the_next_gets_the_lease(a: &DirectoryClient, b: &DirectoryClient) {
    let digest = Digest::of(b"handed over");
    let Ok(Claim::Leased(first)) = a.claim(&digest, "a", Duration::ZERO).await else { panic!("free") };
    // Does not renew: the one who waits has it when it runs out.
    let Ok(Claim::Leased(second)) = b.claim(&digest, "b", WAIT).await else { panic!("not handed over") };
    assert_ne!(first.lease, second.lease);
    let lost = a.renew(&digest, &first.lease, "a").await.expect("answers");
    assert!(matches!(lost, Renewal::Lost { by } if by == "b"));
    assert!(matches!(a.renew(&digest, &second.lease, "b").await, Ok(Renewal::Leased(_))));
    let waits = tokio::spawn({
        let client = a.clone();
        async move { client.claim(&digest, "c", WAIT).await }
    });
    b.release(&digest, &second.lease, "b").await.expect("releases");
    b.release(&digest, &second.lease, "b").await.expect("again is no error");
    assert!(matches!(waits.await.expect("no panic"), Ok(Claim::Leased(_))));
}

async fn a_dead_swarm_is_fetched_again_by_one(a: &DirectoryClient, b: &DirectoryClient) {
    let blob = blob(b"of a dead swarm");
    let digest = blob.digest;
    a.publish(&digest, &publication(&blob)).await.expect("publishes");
    let known = b.claim(&digest, "b", Duration::ZERO).await;
    assert!(matches!(known, Ok(Claim::Known(_))), "{known:?}");
    let Ok(Claim::Leased(lease)) = a.claim_stale(&digest, "b", Duration::ZERO).await else { panic!("free") };
    assert!(matches!(b.renew(&digest, &lease.lease, "b").await, Ok(Renewal::Leased(_))));
    assert!(matches!(b.claim_stale(&digest, "c", Duration::ZERO).await, Ok(Claim::Held { .. })));
    let waits = tokio::spawn({
        let client = b.clone();
        async move { client.claim_stale(&digest, "c", WAIT).await }
    });
    a.publish(&digest, &publication(&blob)).await.expect("publishes");
    // Leased, if it only asked when all was over.
    assert!(matches!(waits.await.expect("no panic"), Ok(Claim::Known(_) | Claim::Leased(_))));
}

async fn only_the_canonical_torrent_of_the_blob_is_published(a: &DirectoryClient, b: &DirectoryClient) {
    let (one, other) = (blob(b"one"), blob(b"other"));
    let refused = a.publish(&one.digest, &publication(&other)).await;
    assert!(matches!(refused, Err(CallError::Rejected { status: 422, .. })), "{refused:?}");
    let long = vec![b'x'; api::directory::MAX_INFO + 1];
    for info in [b"".as_slice(), b"de", b"not bencode", &one.info_bytes[..20], &long] {
        let request = PublishRequest { info: info.to_vec().into(), ..publication(&one) };
        let refused = a.publish(&one.digest, &request).await;
        assert!(matches!(refused, Err(CallError::Rejected { status: 422, .. })), "{refused:?}");
    }
    assert_eq!(b.get(&one.digest).await.expect("answers"), None);
}

async fn a_tag_points_where_it_was_set_last(a: &DirectoryClient, b: &DirectoryClient) {
    let name = "registry.example/x y/ü:latest".to_owned();
    assert_eq!(b.tag(&name).await.expect("answers"), None);
    let first = TagRequest { name, digest: Digest::of(b"1"), media_type: "m".to_owned(), size: 5 };
    a.set_tag(&first).await.expect("sets");
    assert_eq!(b.tag(&first.name).await.expect("answers").map(|tag| tag.target), Some(first.clone()));
    let second = TagRequest { digest: Digest::of(b"2"), size: u64::MAX, ..first };
    b.set_tag(&second).await.expect("sets");
    assert_eq!(a.tag(&second.name).await.expect("answers").map(|tag| tag.target), Some(second));
}

async fn of_many_who_want_a_tag_one_gets_the_turn_and_tells_the_others(
    a: &DirectoryClient,
    b: &DirectoryClient,
) {
    let name = "reg/app:turns";
    let turn = async |told: Option<&TagRequest>| {
        let Ok(TagClaim::Leased(lease)) = a.claim_tag(name, "first", WAIT).await else {
            panic!("the turn is free")
        };
        let others = futures_util::future::join_all((0..6).map(|n| async move {
            let client = if n % 2 == 0 { a } else { b };
            client.claim_tag(name, &format!("node {n}"), WAIT).await.expect("an answer")
        }));
        let resolving = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if let Some(tag) = told {
                a.set_tag(tag).await.expect("set");
            }
            a.release(&turn_of(name), &lease.lease, "first").await.expect("given back");
        };
        futures_util::future::join(others, resolving).await.0
    };
    let media_type = "m".to_owned();
    let tag = TagRequest { name: name.to_owned(), digest: Digest::of(b"turns"), media_type, size: 5 };
    for claim in turn(Some(&tag)).await {
        assert!(matches!(&claim, TagClaim::Known(known) if known.target == tag), "{claim:?}");
    }
    // What was told before they asked is old news, be it of the same second.
    assert_eq!(turn(None).await, vec![TagClaim::Held; 6]);
}
