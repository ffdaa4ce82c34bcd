//! Asks trackers as the simplest of clients would: one question at a time, blocking, nothing sent twice.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
};

use announce::{
    ScrapeStats,
    udp::{PROTOCOL_ID, UdpAction, UdpAnnounce, UdpAnswer, UdpHead},
};

use crate::DEADLINE;

/// What an HTTP server answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Status line and fields.
    pub head: String,
    /// What follows.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A field's value.
    pub fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// Asks by `GET` on a connection of its own, with further fields, such as `X-A: b`.
///
/// # Panics
/// When there is no answer.
pub fn get(address: SocketAddr, target: &str, fields: &[&str]) -> Answer {
    let fields = [fields, &["Connection: close"]].concat();
    Http::connect(address).ask("GET", target, &fields)
}

/// A connection that stays open, for one question after the other.
#[derive(Debug)]
pub struct Http(TcpStream);

impl Http {
    /// # Panics
    /// When nobody listens.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        stream.set_nodelay(true).expect("set");
        Self(stream)
    }

    /// # Panics
    /// When there is no answer.
    pub fn ask(&mut self, method: &str, target: &str, fields: &[&str]) -> Answer {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let request = format!("{method} {target} HTTP/1.1\r\nHost: tracker\r\n{fields}\r\n");
        self.0.write_all(request.as_bytes()).expect("sent");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).expect("an answer's head");
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let mut answer = Answer { status, head, body: Vec::new() };
        match answer.field("Content-Length").map(|length| length.parse().expect("a length")) {
            Some(length) if method != "HEAD" => {
                answer.body = vec![0; length];
                self.0.read_exact(&mut answer.body).expect("an answer's body");
            }
            Some(_) => {}
            None => _ = self.0.read_to_end(&mut answer.body).expect("an answer's body"),
        }
        answer
    }
}

/// A UDP client with a connection id.
#[derive(Debug)]
pub struct Udp {
    socket: UdpSocket,
    id: u64,
}

/// Seconds until the next announce, the torrent's numbers, and peers in wire form.
pub type Announced = (u32, ScrapeStats, Vec<u8>);

impl Udp {
    /// Asks for an id.
    ///
    /// # Panics
    /// When none is given.
    pub fn connect(tracker: SocketAddr) -> Self {
        let any = match tracker {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.connect(tracker).expect("an address");
        socket.set_read_timeout(Some(DEADLINE)).expect("set");
        let mut udp = Self { socket, id: PROTOCOL_ID };
        let answer = udp.exchange(UdpAction::Connect, |_| {});
        let Some((_, UdpAnswer::Connected(id))) = UdpAnswer::parse(&answer) else {
            panic!("no connection id: {}", answer.escape_ascii());
        };
        udp.id = id;
        udp
    }

    /// Announces.
    ///
    /// # Errors
    /// The tracker's words, when it refuses.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn announce(&self, announce: &UdpAnnounce) -> Result<Announced, String> {
        let answer = self.exchange(UdpAction::Announce, |packet| announce.encode(packet));
        match UdpAnswer::parse(&answer) {
            Some((_, UdpAnswer::Announced { interval, stats, peers })) => {
                Ok((interval, stats, peers.to_vec()))
            }
            Some((_, UdpAnswer::Error(reason))) => Err(String::from_utf8_lossy(reason).into_owned()),
            _ => panic!("no answer to an announce: {}", answer.escape_ascii()),
        }
    }

    fn exchange(&self, action: UdpAction, rest: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut packet = Vec::new();
        UdpHead { connection: self.id, action: Some(action), transaction: 7 }.encode(&mut packet);
        rest(&mut packet);
        self.socket.send(&packet).expect("sent");
        let mut answer = vec![0; 8192];
        let length = self.socket.recv(&mut answer).expect("an answer");
        answer.truncate(length);
        answer
    }
}
