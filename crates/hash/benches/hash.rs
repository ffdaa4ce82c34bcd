//! One stream, four streams in one loop, and the crates underneath. Run: `cargo bench -p longshore-hash`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longshore_hash::{
    Segment, Sha1, Sha256, Sha256State, sha1, sha1_many, sha256, sha256_segments, update_both,
};
use sha2::Digest as _;
use std::hint::black_box;

const PIECE: usize = 256 * 1024;

fn streams(c: &mut Criterion) {
    let pieces: Vec<Vec<u8>> = (0..16u8).map(|i| vec![i; PIECE]).collect();
    let whole: Vec<[&[u8]; 1]> = pieces.iter().map(|p| [p.as_slice()]).collect();
    let messages: Vec<&[&[u8]]> = whole.iter().map(<[&[u8]; 1]>::as_slice).collect();
    let segments: Vec<Segment<'_>> = messages
        .iter()
        .map(|data| Segment { start: Sha256State::INITIAL, offset: 0, data, last: true })
        .collect();

    let mut group = c.benchmark_group("sha256");
    group.throughput(Throughput::Bytes(PIECE as u64)).sample_size(30);
    group.bench_function("sha2 crate", |b| b.iter(|| sha2::Sha256::digest(black_box(&pieces[0]))));
    group.bench_function("one stream", |b| b.iter(|| sha256(black_box(&pieces[0]))));
    for many in [2, 4, 16] {
        group.throughput(Throughput::Bytes((many * PIECE) as u64));
        group.bench_with_input(BenchmarkId::new("together", many), &many, |b, &many| {
            b.iter(|| sha256_segments(black_box(&segments[..many])));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("sha1");
    group.throughput(Throughput::Bytes(PIECE as u64)).sample_size(30);
    group.bench_function("sha1 crate", |b| b.iter(|| sha1::Sha1::digest(black_box(&pieces[0]))));
    group.bench_function("one stream", |b| b.iter(|| sha1(black_box(&pieces[0]))));
    for many in [2, 4, 16] {
        group.throughput(Throughput::Bytes((many * PIECE) as u64));
        group.bench_with_input(BenchmarkId::new("together", many), &many, |b, &many| {
            b.iter(|| sha1_many(black_box(&messages[..many])));
        });
    }
    group.finish();
}

fn both(c: &mut Criterion) {
    let data = vec![5; PIECE];
    let mut group = c.benchmark_group("sha1 and sha256");
    group.throughput(Throughput::Bytes(PIECE as u64)).sample_size(30);
    group.bench_function("one after the other", |b| {
        b.iter(|| (sha1(black_box(&data)), sha256(black_box(&data))));
    });
    group.bench_function("in one loop", |b| {
        b.iter(|| {
            let (mut sha1, mut sha256) = (Sha1::new(), Sha256::new());
            update_both(&mut sha1, &mut sha256, black_box(&data));
            (sha1.finalize(), sha256.finalize())
        });
    });
    group.finish();
}

criterion_group!(benches, streams, both);
criterion_main!(benches);
