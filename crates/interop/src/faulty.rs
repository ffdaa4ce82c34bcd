//! A front before a registry that goes wrong in a chosen way: slow, silent, broken off, changed, refusing.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;

/// What a slow answer waits for.
pub const SLOW: Duration = Duration::from_secs(1);
/// How often a hung answer looks whether it may end.
const LOOK: Duration = Duration::from_millis(20);
/// Longest head of a request or an answer.
const HEAD: usize = 64 * 1024;
/// How long a peer of the front may be silent.
const SILENCE: Duration = Duration::from_secs(120);

/// Which requests go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `/v2/`
    Ping,
    /// Manifests and indexes.
    Manifest,
    /// The blob that [`Faulty::start`] was told of.
    Blob,
    /// The token service.
    Token,
}

/// How they go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The answer comes after [`SLOW`].
    Slow,
    /// No answer comes.
    Hang,
    /// Half of the body comes, and then nothing.
    Stall,
    /// The connection is reset instead of an answer.
    Reset,
    /// Half of the body comes, and then a reset.
    Break,
    /// Half of the body comes, and then an end.
    Truncate,
    /// A byte in the middle of the body is another.
    Corrupt,
    /// The body, and the length that is announced, are longer.
    Longer,
    /// Another status; 429 asks for a second's patience.
    Status(u16),
}

/// A fault, and how often it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which requests.
    pub part: Part,
    /// How.
    pub trouble: Trouble,
    /// Whether only the first of them goes wrong.
    pub once: bool,
}

/// The front. Ends with its handle.
#[derive(Debug)]
pub struct Faulty {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: SocketAddr,
    tokens: Option<SocketAddr>,
    tls: Mutex<Option<SocketAddr>>,
    blob: String,
    fault: Mutex<Option<Fault>>,
    /// Counts changes of the fault: what hangs because of an earlier one lets go.
    age: AtomicU64,
    met: AtomicU64,
    over: AtomicBool,
}

impl Faulty {
    /// A front, without a fault as yet, of the registry at `registry`. `blob` is the digest of which [`Part::Blob`]
    /// speaks. Requests for `/token` go to `tokens`.
    ///
    /// # Panics
    /// When there is no port.
    pub fn start(registry: SocketAddr, blob: &str, tokens: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        Self::on(listener, registry, blob, tokens)
    }

    /// The same, where it listens already.
    ///
    /// # Panics
    /// When it does not.
    pub fn on(listener: TcpListener, registry: SocketAddr, blob: &str, tokens: Option<SocketAddr>) -> Self {
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            registry,
            tokens,
            tls: Mutex::default(),
            blob: blob.to_owned(),
            fault: Mutex::default(),
            age: AtomicU64::new(0),
            met: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.over.load(SeqCst) {
                    return;
                }
                let (Ok(stream), shared) = (stream, accepting.clone()) else { continue };
                // A client that goes away is no news.
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this goes wrong, or nothing. What hangs because of an earlier fault ends.
    pub fn set(&self, fault: Option<Fault>) {
        *lock(&self.shared.fault) = fault;
        self.shared.met.store(0, SeqCst);
        self.shared.age.fetch_add(1, SeqCst);
    }

    /// How many requests have met the fault since it was set.
    pub fn met(&self) -> u64 {
        self.shared.met.load(SeqCst)
    }

    /// Whoever uses this front as a proxy for https reaches `server` instead, wherever they want to go.
    pub fn tunnel_to(&self, server: SocketAddr) {
        *lock(&self.shared.tls) = Some(server);
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        self.set(None);
        // So that the loop sees it.
        let _ = TcpStream::connect(self.address);
    }
}

/// An HTTP message.
struct Message {
    head: Vec<String>,
    body: Vec<u8>,
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(SILENCE))?;
        let mut first = [0];
        client.peek(&mut first)?;
        if first == [0x16] {
            // A TLS hello: as Go's server says it.
            client.write_all(
                b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
            )?;
            return finish(&client);
        }
        let head = read_head(&mut client)?;
        let Some((method, path)) = head.first().and_then(|line| line.rsplit_once(' ')?.0.split_once(' '))
        else {
            return Ok(());
        };
        if method == "CONNECT" {
            return self.tunnel(client);
        }
        let with_body = method != "HEAD";
        // Asked for before the fault: whether there is a body matters to some.
        let mut answer = self.ask(&head, path)?;
        let fault = self.takes(path, with_body && !answer.body.is_empty());
        let age = self.age.load(SeqCst);
        match fault {
            None => {}
            Some(Trouble::Slow) => thread::sleep(SLOW),
            Some(Trouble::Hang) => return self.hang(&client, age),
            Some(Trouble::Reset) => return reset(&client),
            Some(Trouble::Status(status)) => answer = Message::refusal(status),
            Some(Trouble::Corrupt) => {
                let middle = answer.body.len() / 2;
                if let Some(byte) = answer.body.get_mut(middle) {
                    *byte ^= 0x20;
                }
            }
            Some(Trouble::Longer) => {
                answer.body.extend([b' '; 16]);
                let length = answer.body.len();
                answer.head.retain(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
                answer.head.push(format!("Content-Length: {length}"));
            }
            Some(Trouble::Stall | Trouble::Break | Trouble::Truncate) => {
                client.write_all(&answer.head())?;
                client.write_all(answer.body.get(..answer.body.len() / 2).unwrap_or_default())?;
                return match fault {
                    Some(Trouble::Stall) => self.hang(&client, age),
                    Some(Trouble::Break) => {
                        // What was not taken by then would be lost with the connection.
                        thread::sleep(Duration::from_millis(200));
                        reset(&client)
                    }
                    _ => finish(&client),
                };
            }
        }
        client.write_all(&answer.head())?;
        if with_body {
            client.write_all(&answer.body)?;
        }
        finish(&client)
    }

    /// The fault that this request meets, if it meets one.
    fn takes(&self, path: &str, has_body: bool) -> Option<Trouble> {
        let mut set = lock(&self.fault);
        let fault = (*set)?;
        let meant = match fault.part {
            Part::Ping => path == "/v2/" || path == "/v2",
            Part::Manifest => path.contains("/manifests/"),
            Part::Blob => path.contains("/blobs/") && path.contains(&self.blob),
            Part::Token => path.starts_with("/token"),
        };
        use Trouble::{Break, Corrupt, Longer, Stall, Truncate};
        let of_bodies = matches!(fault.trouble, Break | Corrupt | Longer | Stall | Truncate);
        if !meant || (of_bodies && !has_body) {
            return None;
        }
        if fault.once {
            *set = None;
        }
        self.met.fetch_add(1, SeqCst);
        Some(fault.trouble)
    }

    fn hang(&self, client: &TcpStream, age: u64) -> io::Result<()> {
        client.set_nonblocking(true)?;
        while self.age.load(SeqCst) == age {
            match client.peek(&mut [0]) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => thread::sleep(LOOK),
            }
        }
        Ok(())
    }

    /// What the registry answers. Asked as HTTP/1.0, it says lengths and closes.
    fn ask(&self, head: &[String], path: &str) -> io::Result<Message> {
        let tokens = self.tokens.filter(|_| path.starts_with("/token"));
        let mut server = TcpStream::connect(tokens.unwrap_or(self.registry))?;
        server.set_read_timeout(Some(SILENCE))?;
        let mut asked = Vec::new();
        for (number, line) in head.iter().enumerate() {
            let line = if number == 0 { line.replace("HTTP/1.1", "HTTP/1.0") } else { line.clone() };
            if !line.to_ascii_lowercase().starts_with("connection:") {
                asked.extend(line.as_bytes());
                asked.extend(b"\r\n");
            }
        }
        asked.extend(b"\r\n");
        server.write_all(&asked)?;
        let mut answer = Message { head: read_head(&mut server)?, body: Vec::new() };
        server.read_to_end(&mut answer.body)?;
        if let Some(status) = answer.head.first_mut() {
            *status = status.replace("HTTP/1.0", "HTTP/1.1");
        }
        answer.head.retain(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        Ok(answer)
    }

    /// Passes bytes on in both directions.
    fn tunnel(&self, mut client: TcpStream) -> io::Result<()> {
        let server = (*lock(&self.tls)).ok_or(io::ErrorKind::ConnectionRefused)?;
        let mut server = TcpStream::connect(server)?;
        client.set_read_timeout(None)?;
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        let (mut to_server, mut from_client) = (server.try_clone()?, client.try_clone()?);
        thread::spawn(move || {
            let _ = io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Write);
        });
        let _ = io::copy(&mut server, &mut client);
        let _ = client.shutdown(Shutdown::Both);
        server.shutdown(Shutdown::Both)
    }
}

impl Message {
    fn refusal(status: u16) -> Self {
        let body = br#"{"errors":[{"code":"UNKNOWN","message":"this is a test"}]}"#.to_vec();
        let mut head = vec![
            format!("HTTP/1.1 {status} Test"),
            "Content-Type: application/json".to_owned(),
            format!("Content-Length: {}", body.len()),
        ];
        if status == 429 {
            head.push("Retry-After: 1".to_owned());
        }
        Self { head, body }
    }

    fn head(&self) -> Vec<u8> {
        let lines = self.head.iter().map(String::as_str).chain(["Connection: close", "", ""]);
        lines.collect::<Vec<_>>().join("\r\n").into_bytes()
    }
}

/// The lines of a head, byte by byte so that nothing of the body is taken.
fn read_head(from: &mut TcpStream) -> io::Result<Vec<String>> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        from.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let text = String::from_utf8_lossy(&head);
    Ok(text.trim_end().split("\r\n").map(str::to_owned).collect())
}

/// Ends with FIN, and reads on so that no reset comes of it.
fn finish(client: &TcpStream) -> io::Result<()> {
    client.shutdown(Shutdown::Write)?;
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    let _ = io::copy(&mut Read::take(client, 1 << 20), &mut io::sink());
    Ok(())
}

/// Ends with RST, by the caller's dropping it.
fn reset(client: &TcpStream) -> io::Result<()> {
    Ok(set_socket_linger(client, Some(Duration::ZERO))?)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = match self.part {
            Part::Ping => "ping",
            Part::Manifest => "manifest",
            Part::Blob => "blob",
            Part::Token => "token",
        };
        let how = match self.trouble {
            Trouble::Slow => "slow (1 s)".to_owned(),
            Trouble::Hang => "never answered".to_owned(),
            Trouble::Stall => "silent half-way".to_owned(),
            Trouble::Reset => "reset".to_owned(),
            Trouble::Break => "reset half-way".to_owned(),
            Trouble::Truncate => "ends half-way".to_owned(),
            Trouble::Corrupt => "corrupt".to_owned(),
            Trouble::Longer => "longer than it is".to_owned(),
            Trouble::Status(status) => status.to_string(),
        };
        write!(f, "{part} {how}, {}", if self.once { "once" } else { "always" })
    }
}
