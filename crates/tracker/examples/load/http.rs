//! Announces over HTTP.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::peers::{Peer, Walk, info_hashes};

const CONNECTIONS: usize = 64;

struct Requests {
    hashes: Vec<String>,
    walk: Walk,
    text: String,
    close: bool,
}

impl Requests {
    fn new(close: bool) -> Self {
        let escaped =
            |hash: [u8; 20]| hash.iter().fold(String::new(), |text, byte| text + &format!("%{byte:02X}"));
        Self {
            hashes: info_hashes().into_iter().map(escaped).collect(),
            walk: Walk::new(),
            text: String::new(),
            close,
        }
    }

    fn next(&mut self) -> &[u8] {
        let Peer { torrent, port, left } = self.walk.step();
        self.text.clear();
        write!(
            self.text,
            "GET /announce?info_hash={}&peer_id=-XX0001-0000000{port}&port={port}&uploaded=0&downloaded=0\
             &left={left}&key={:08X}&compact=1&numwant=50 HTTP/1.1\r\nHost: 127.0.0.1\r\n\
             User-Agent: load/1\r\nAccept-Encoding: gzip\r\n{}\r\n",
            self.hashes[torrent as usize],
            0x1234_0000 + u32::from(port),
            if self.close { "Connection: close\r\n" } else { "" }
        )
        .unwrap();
        self.text.as_bytes()
    }
}

/// On [`CONNECTIONS`] connections, one request under way on each.
pub(crate) fn keep_alive(to: SocketAddr, time: Duration) {
    let mut requests = Requests::new(false);
    let mut connections: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| {
            let stream = TcpStream::connect(to).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
        })
        .collect();
    let (mut answered, mut bytes, mut buffer) = (0u64, 0u64, [0; 16 * 1024]);
    for connection in &mut connections {
        connection.write_all(requests.next()).unwrap();
    }
    let start = Instant::now();
    while start.elapsed() < time {
        for connection in &mut connections {
            bytes += answer(connection, &mut buffer) as u64;
            answered += 1;
            connection.write_all(requests.next()).unwrap();
        }
    }
    report(answered, bytes, start.elapsed());
}

/// So many announces a second on one connection, one by one, and how long their answers take. One that is closed is
/// opened again, and what was asked on it is lost.
pub(crate) fn paced(to: SocketAddr, time: Duration, rate: u64) {
    let mut requests = Requests::new(false);
    let connect = || {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        stream
    };
    let (mut connection, total) = (connect(), time.as_secs() * rate);
    let (mut took, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    let start = Instant::now();
    for n in 0..total {
        let due = Duration::from_nanos(n * 1_000_000_000 / rate);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        let length =
            connection.write_all(requests.next()).and_then(|()| connection.read(&mut buffer)).unwrap_or(0);
        let good = memchr::memmem::find(&buffer[..length], b"8:complete").is_some();
        if good {
            took.push((start.elapsed() - due).as_nanos().min(u32::MAX.into()) as u32);
        } else {
            connection = connect();
        }
    }
    crate::udp::report(total as usize, took);
}

/// One connection after the other.
pub(crate) fn close(to: SocketAddr, time: Duration) {
    let mut requests = Requests::new(true);
    let (mut answered, mut bytes, mut buffer) = (0u64, 0u64, [0; 16 * 1024]);
    let start = Instant::now();
    while start.elapsed() < time {
        // Some at a time, so that the tracker need not wait for us.
        let mut connections = [(); 8].map(|()| TcpStream::connect(to).unwrap());
        for connection in &mut connections {
            connection.write_all(requests.next()).unwrap();
        }
        for connection in &mut connections {
            let mut length = 0;
            loop {
                match connection.read(&mut buffer[length..]).unwrap() {
                    0 => break,
                    more => length += more,
                }
            }
            assert!(buffer.starts_with(b"HTTP/1."));
            bytes += length as u64;
            answered += 1;
        }
    }
    report(answered, bytes, start.elapsed());
}

/// Reads one whole answer; says how long it is.
fn answer(connection: &mut TcpStream, buffer: &mut [u8]) -> usize {
    let mut length = 0;
    loop {
        length += match connection.read(&mut buffer[length..]).unwrap() {
            0 => panic!("closed"),
            more => more,
        };
        let head = &buffer[..length];
        let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&head[..end]).unwrap();
        let body: usize = text
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length:").or(line.strip_prefix("content-length:")))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        if length == end + 4 + body {
            return length;
        }
        assert!(length < end + 4 + body);
    }
}

fn report(answered: u64, bytes: u64, took: Duration) {
    let (rate, mean) = (answered as f64 / took.as_secs_f64(), bytes as f64 / answered.max(1) as f64);
    println!("{{\"announces\": {answered}, \"rate\": {rate:.0}, \"bytes\": {mean:.0}}}");
}
