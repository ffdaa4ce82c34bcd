//! Load for trackers, and answerers that do nothing, to measure them against. `benches/tracker.py` and
//! `benches/flood.py` drive it.
//!
//! ```text
//! load null-udp ADDR            answers like a tracker with 50 peers, and keeps nothing (recvmmsg, sendmmsg)
//! load null-http ADDR BYTES     the same over HTTP (epoll), with answers of so many bytes
//! load fill ADDR                announces every peer once, over UDP
//! load udp ADDR SECONDS         announces of known peers, as fast as they are answered
//! load udp-connect ADDR SECONDS the same with a connect before each
//! load udp-paced ADDR SECONDS RATE
//! load http ADDR SECONDS        announces on 64 connections
//! load http-close ADDR SECONDS  a connection for each announce
//! load http-paced ADDR SECONDS RATE
//! load flood-udp ADDR SECONDS RATE FROM   so many packets a second from another address: announces, connects, garbage
//! load flood-http ADDR SECONDS FROM       requests and garbage on new connections, as many as can be
//! load tracker ADDR             our tracker, without the rest of the program
//! load whitelist                the torrents, in hexadecimal
//! ```
//!
//! Results are one JSON object on standard output.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a tool of benchmarks: it may read the clock, and an error is its end"
)]

mod flood;
mod http;
mod null;
mod peers;
mod udp;

use std::{net::SocketAddr, time::Duration};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = |n: usize| arguments.get(n).map(String::as_str);
    let number = |n: usize| text(n).and_then(|text| text.parse::<u64>().ok());
    let address: Option<SocketAddr> = text(1).and_then(|text| text.parse().ok());
    let seconds = number(2).map(Duration::from_secs);
    match (text(0), address, seconds) {
        (Some("null-udp"), Some(address), _) => null::udp(address),
        (Some("null-http"), Some(address), _) => null::http(address, number(2).unwrap_or(500) as usize),
        (Some("fill"), Some(address), _) => udp::fill(address),
        (Some("udp"), Some(address), Some(time)) => udp::announces(address, time, false),
        (Some("udp-connect"), Some(address), Some(time)) => udp::announces(address, time, true),
        (Some("udp-paced"), Some(address), Some(time)) => {
            udp::paced(address, time, number(3).unwrap_or(25_000));
        }
        (Some("http"), Some(address), Some(time)) => http::keep_alive(address, time),
        (Some("http-close"), Some(address), Some(time)) => http::close(address, time),
        (Some("http-paced"), Some(address), Some(time)) => {
            http::paced(address, time, number(3).unwrap_or(500));
        }
        (Some("flood-udp"), Some(address), Some(time)) => {
            let from = text(4).and_then(|text| text.parse().ok()).unwrap();
            flood::udp(address, time, number(3).unwrap_or(100_000), from);
        }
        (Some("flood-http"), Some(address), Some(time)) => {
            flood::http(address, time, text(3).and_then(|text| text.parse().ok()).unwrap());
        }
        (Some("tracker"), Some(address), _) => tracker(address),
        (Some("whitelist"), ..) => (0..peers::TORRENTS).for_each(|n| println!("{}", peers::hex(n))),
        _ => panic!("how it is called stands in the source, and in benches/tracker.py"),
    }
}

fn tracker(address: SocketAddr) -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listen = vec![address.into()];
    let config =
        longshore_tracker::Config { listen, ip_from: Vec::new(), ..longshore_tracker::Config::default() };
    let never = longshore_tracker::run(config, std::future::pending());
    runtime.block_on(never).unwrap();
    unreachable!("it runs until it is killed")
}
