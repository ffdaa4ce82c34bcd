//! What this machine allows: a file goes over TCP, is hashed piece by piece with one stream of SHA-1, and is written.
//! No protocol, no picker, no choice; whoever moves torrents cannot be much faster with as many threads.
//!
//! ```text
//! ceiling send FILE LISTEN             prints `listening ADDR`, and sends whatever stretches are asked for
//! ceiling receive ADDR OUT THREADS     fetches all of it over THREADS connections, a thread each
//! ```
//!
//! A receiver asks by two 64-bit numbers, offset and length; asked for a stretch of length 0, the sender answers
//! with the file's length.

use std::{
    env,
    error::Error,
    fs::File,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::FileExt,
    thread,
};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// What is received, hashed and written at once: a piece of a torrent of 1 GiB.
const PIECE: usize = 1024 * 1024;

fn main() -> Outcome {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["send", file, listen] => send(file, listen.parse()?),
        ["receive", from, to, threads] => receive(from.parse()?, to, threads.parse()?),
        _ => Err("usage: ceiling send FILE LISTEN | ceiling receive ADDR OUT THREADS".into()),
    }
}

fn send(file: &str, listen: SocketAddr) -> Outcome {
    let listener = TcpListener::bind(listen)?;
    writeln!(io::stdout(), "listening {}", listener.local_addr()?)?;
    for stream in listener.incoming() {
        let (stream, file) = (stream?, File::open(file)?);
        thread::spawn(move || send_stretch(stream, &file));
    }
    Ok(())
}

fn send_stretch(mut stream: TcpStream, file: &File) -> io::Result<()> {
    let (mut offset, length) = (read_number(&mut stream)?, read_number(&mut stream)?);
    if length == 0 {
        return stream.write_all(&file.metadata()?.len().to_be_bytes());
    }
    let end = offset.saturating_add(length);
    while offset < end {
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
        if rustix::fs::sendfile(&stream, file, Some(&mut offset), left)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn receive(from: SocketAddr, to: &str, threads: u64) -> Outcome {
    let length = read_number(&mut ask(from, 0, 0)?)?;
    let file = File::create(to)?;
    file.set_len(length)?;
    let share = length.div_ceil(threads.max(1)).next_multiple_of(PIECE as u64);
    thread::scope(|scope| {
        let stretches = (0..threads).map(|n| (n * share, share.min(length.saturating_sub(n * share))));
        let running: Vec<_> = stretches
            .filter(|(_, length)| *length > 0)
            .map(|(offset, length)| {
                let file = &file;
                scope.spawn(move || receive_stretch(from, file, offset, length))
            })
            .collect();
        running.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err("a thread panicked".into()),
        })
    })
}

fn receive_stretch(from: SocketAddr, file: &File, mut offset: u64, length: u64) -> io::Result<()> {
    let mut stream = ask(from, offset, length)?;
    let end = offset + length;
    let mut piece = vec![0; PIECE];
    while offset < end {
        let take = PIECE.min(usize::try_from(end - offset).unwrap_or(PIECE));
        let Some(piece) = piece.get_mut(..take) else { break };
        stream.read_exact(piece)?;
        // Nobody knows what it should be, but the work is done.
        std::hint::black_box(hash::sha1(piece));
        file.write_all_at(piece, offset)?;
        offset += take as u64;
    }
    Ok(())
}

fn ask(from: SocketAddr, offset: u64, length: u64) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(from)?;
    stream.write_all(&[offset.to_be_bytes(), length.to_be_bytes()].concat())?;
    Ok(stream)
}

fn read_number(stream: &mut TcpStream) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}
