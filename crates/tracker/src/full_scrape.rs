//! A scrape of all torrents, where it is turned on: one at a time, compressed if the client likes.

use std::{
    io::{self, Write},
    sync::Arc,
};

use ::http::{HeaderMap, HeaderValue, header};
use announce::ScrapeStats;
use axum::{
    body::{Body, Bytes},
    response::{IntoResponse as _, Response},
};
use bencode::Writer;
use flate2::{Compression, write::GzEncoder};
use metainfo::InfoHash;
use tokio::sync::mpsc;

use crate::{api::Shared, bencoded};

/// How many bytes are sent on together, and how many such parts wait for the client.
const PART: usize = 64 * 1024;
const PARTS: usize = 4;

pub(crate) fn answer(shared: &Arc<Shared>, headers: &HeaderMap) -> Response {
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    let Ok(turn) = Arc::clone(&shared.full_scrapes).try_acquire_owned() else {
        let mut body = Vec::new();
        let retry = announce::RetryIn::After(std::time::Duration::from_secs(60));
        bencoded::failed("another full scrape is being answered", Some(retry), &mut body);
        return ([kind], body).into_response();
    };
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter();
    let gzip = accepted.filter_map(|value| value.to_str().ok()).any(takes_gzip);
    let (parts, rest) = mpsc::channel::<Result<Bytes, io::Error>>(PARTS);
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let torrents = collect(&shared);
        let mut parts = Parts { parts, buffer: Vec::with_capacity(PART) };
        // It fails where the client leaves, and then there is nobody to tell.
        let _ = if gzip {
            let mut encoder = GzEncoder::new(parts, Compression::fast());
            write(&torrents, &mut encoder).and_then(|()| encoder.finish()?.flush())
        } else {
            write(&torrents, &mut parts).and_then(|()| parts.flush())
        };
    });
    let stream =
        futures_util::stream::unfold(rest, async |mut rest| rest.recv().await.map(|part| (part, rest)));
    let mut response = ([kind], Body::from_stream(stream)).into_response();
    if gzip {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    response
}

fn takes_gzip(accepted: &str) -> bool {
    accepted.split(',').map(str::trim).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        name.trim().eq_ignore_ascii_case("gzip")
            && !weight.trim().trim_end_matches(['0', '.']).ends_with("q=")
    })
}

/// All torrents in order, as bencode has them.
fn collect(shared: &Shared) -> Vec<(InfoHash, ScrapeStats)> {
    let store = &shared.desk.store;
    let mut torrents = Vec::with_capacity(store.totals().0);
    for step in 0..store.steps() {
        store.visit(step, |torrent| torrents.push((torrent.info_hash, torrent.stats)));
    }
    torrents.sort_unstable_by_key(|(info_hash, _)| *info_hash);
    torrents
}

fn write(torrents: &[(InfoHash, ScrapeStats)], to: &mut impl Write) -> io::Result<()> {
    to.write_all(b"d5:filesd")?;
    let mut entry = Vec::with_capacity(128);
    for (info_hash, stats) in torrents {
        entry.clear();
        Writer::new(&mut entry).bytes(info_hash.as_bytes());
        Writer::new(&mut entry).dict(|file| stats.write(file));
        to.write_all(&entry)?;
    }
    to.write_all(b"ee")
}

/// Sends parts to the client's connection, and waits while it has enough of them. A connection that stalls ends, and
/// this with it.
struct Parts {
    parts: mpsc::Sender<Result<Bytes, io::Error>>,
    buffer: Vec<u8>,
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PART {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let part = std::mem::replace(&mut self.buffer, Vec::with_capacity(PART));
        if part.is_empty() {
            return Ok(());
        }
        self.parts.blocking_send(Ok(part.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_take_it() {
        assert!(takes_gzip("gzip") && takes_gzip("deflate, GZIP;q=0.5, br") && takes_gzip("gzip;q=1.0"));
        assert!(
            !takes_gzip("")
                && !takes_gzip("br, gzip;q=0")
                && !takes_gzip("gzip; q=0.0")
                && !takes_gzip("x-gzip")
        );
    }

    #[test]
    fn all_torrents_are_one_dictionary() {
        let torrents = [1, 2].map(|n| (InfoHash::from_bytes([n; 20]), ScrapeStats::default()));
        let mut out = Vec::new();
        write(&torrents, &mut out).expect("written");
        let Ok(announce::Reply::Ok(scraped)) = announce::ScrapeResponse::parse(&out) else {
            panic!("unread")
        };
        assert_eq!(scraped.files, torrents);
    }
}
