//! A client that floods: from an address of its own, and without a look at the answers.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use crate::{
    peers::Walk,
    udp::{ANNOUNCE, BATCH, Client},
};

/// Half announces, a quarter connects, a quarter garbage.
pub(crate) fn udp(to: SocketAddr, time: Duration, rate: u64, from: IpAddr) {
    let (mut client, mut walk) = (Client::at(to, from), Walk::new());
    let (start, mut sent) = (Instant::now(), 0u64);
    while start.elapsed() < time {
        let due = Duration::from_nanos(sent * 1_000_000_000 / rate);
        if let Some(early) = due.checked_sub(start.elapsed()) {
            std::thread::sleep(early);
        }
        client.out.clear();
        let size = match sent / BATCH as u64 % 4 {
            0 | 1 => {
                for n in 0..BATCH {
                    let peer = walk.step();
                    client.push_announce(client.connection, n as u32, peer);
                }
                ANNOUNCE
            }
            2 => {
                (0..BATCH).for_each(|n| client.push_connect(n as u32));
                16
            }
            _ => {
                client.out.resize(BATCH * ANNOUNCE, 0x5a);
                ANNOUNCE
            }
        };
        client.send(size);
        sent += BATCH as u64;
    }
    println!("{{\"sent\": {sent}, \"rate\": {:.0}}}", sent as f64 / start.elapsed().as_secs_f64());
}

/// Connections in turn: with many announces at once, with garbage, with nothing.
pub(crate) fn http(to: SocketAddr, time: Duration, from: IpAddr) {
    const OPEN: usize = 256;
    let announce = "GET /announce?info_hash=%01%01%01%01%01%01%01%01%01%01%01%01%01%01%01%01%01%01%01%01\
                    &peer_id=-XX0001-000000000001&port=7&uploaded=0&downloaded=0&left=1&compact=1 \
                    HTTP/1.1\r\nHost: t\r\n\r\n"
        .repeat(50);
    let garbage = "\0\u{1}garbage\r\n\r\n".repeat(50);
    let connect = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        // Ports of connections that are gone are free at once: they are reset.
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).ok()?;
        socket.connect_timeout(&to.into(), Duration::from_secs(1)).ok()?;
        socket.set_nonblocking(true).unwrap();
        Some(TcpStream::from(socket))
    };
    let mut open: Vec<Option<TcpStream>> = (0..OPEN).map(|_| None).collect();
    let (start, mut connects, mut bytes, mut buffer) = (Instant::now(), 0u64, 0u64, [0; 64 * 1024]);
    let mut turn = 0usize;
    while start.elapsed() < time {
        turn += 1;
        let what = turn % 4;
        let place = &mut open[turn % OPEN];
        let keep = place.as_mut().is_some_and(|stream| {
            let ended = stream.read(&mut buffer).is_ok_and(|length| length == 0);
            let written =
                if what < 3 { stream.write(announce.as_bytes()) } else { stream.write(garbage.as_bytes()) };
            bytes += *written.as_ref().unwrap_or(&0) as u64;
            !ended && !written.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
        });
        if !keep {
            *place = connect();
            connects += 1;
        }
        // So that it does not only fight with itself for its core.
        if turn.is_multiple_of(64) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    println!("{{\"connects\": {connects}, \"bytes\": {bytes}}}");
}
