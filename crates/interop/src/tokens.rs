//! A token service for docker-registry (the distribution project's token spec), signing RS256 with openssl.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, SystemTime},
};

use serde_json::json;
use tempfile::TempDir;

use crate::require;

/// What the registry calls itself, and whom it believes.
const SERVICE: &str = "reg.test";
const ISSUER: &str = "longshore-test";
/// How long a token lives, in seconds.
const LIFE: u64 = 300;

/// The service. Whoever has the password of [`Tokens::USER`] gets what they ask for; anybody else gets to pull what
/// has `public` in its name. Ends with its handle.
#[derive(Debug)]
pub struct Tokens {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: TempDir,
    given: AtomicU64,
    over: AtomicBool,
}

impl Tokens {
    /// Who may have everything, with the password.
    pub const USER: &str = "alice:hunter2";

    /// Starts it; nothing where there is no openssl.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Option<Self> {
        if !require("openssl", "openssl") {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens"]);
        openssl.args(["-keyout", "key.pem", "-out", "certificate.pem"]).current_dir(folder.path());
        let made = openssl.output().expect("starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { folder, given: AtomicU64::new(0), over: AtomicBool::new(false) });
        let accepting = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.over.load(SeqCst) {
                    return;
                }
                let shared = accepting.clone();
                // A client that goes away is no news.
                thread::spawn(move || shared.serve(stream));
            }
        });
        Some(Self { address, shared })
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The lines of docker-registry's configuration that make it believe us. Clients are sent to `realm`, which is this
    /// service, or leads to it.
    ///
    /// # Panics
    /// When our own files are gone.
    pub fn believed(&self, realm: SocketAddr) -> String {
        format!(
            "auth: {{token: {{realm: 'http://{realm}/token', service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: {}}}}}\n",
            self.shared.folder.path().join("certificate.pem").display()
        )
    }

    /// How many tokens were given.
    pub fn given(&self) -> u64 {
        self.shared.given.load(SeqCst)
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        // So that the loop sees it.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && head.len() < 64 * 1024 {
            client.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let field = |name: &str| {
            let fields = head.lines().filter_map(|line| line.split_once(':'));
            fields.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let target = head.split(' ').nth(1).unwrap_or_default();
        let mut form = target.split_once('?').map(|(_, query)| query.to_owned()).unwrap_or_default();
        if head.starts_with("POST ") {
            // The OAuth2 way, which containerd goes with a password.
            let length = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let mut body = vec![0; usize::min(length, 64 * 1024)];
            client.read_exact(&mut body)?;
            form = String::from_utf8_lossy(&body).into_owned();
        }
        let values = |name: &str| {
            let pairs = form.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).map(|(_, value)| unescape(value)).collect::<Vec<_>>()
        };
        let first = |name: &str| values(name).into_iter().next();
        let shown = match field("authorization").and_then(|value| value.strip_prefix("Basic ")) {
            Some(encoded) => Some(openssl(&["base64", "-d", "-A"], encoded.as_bytes())?),
            None => first("username").zip(first("password")).map(|(u, p)| format!("{u}:{p}").into_bytes()),
        };
        let known = shown.as_deref().map(|shown| shown == Tokens::USER.as_bytes());
        let (status, body) = if known == Some(false) {
            ("401 Unauthorized", json!({"errors": [{"code": "UNAUTHORIZED", "message": "who?"}]}))
        } else {
            let scopes = values("scope").join(" ");
            let token = self.token(known == Some(true), &scopes)?;
            self.given.fetch_add(1, SeqCst);
            ("200 OK", json!({"token": token, "access_token": token, "expires_in": LIFE}))
        };
        let body = body.to_string();
        let length = body.len();
        write!(
            client,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )?;
        client.shutdown(Shutdown::Write)
    }

    /// A token for what of the scopes may be had.
    fn token(&self, everything: bool, scopes: &str) -> io::Result<String> {
        let access: Vec<_> = scopes
            .split(' ')
            .filter_map(|scope| {
                let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
                let actions: Vec<&str> = actions
                    .split(',')
                    .filter(|a| everything || (*a == "pull" && name.contains("public")))
                    .collect();
                (!actions.is_empty()).then(|| json!({"type": "repository", "name": name, "actions": actions}))
            })
            .collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let certificate = fs::read_to_string(self.folder.path().join("certificate.pem"))?;
        let der: String = certificate.lines().filter(|line| !line.starts_with("-----")).collect();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
        let claims = json!({
            "iss": ISSUER, "sub": "", "aud": SERVICE, "exp": now + LIFE, "nbf": now - 10, "iat": now,
            "jti": self.given.load(SeqCst).to_string(), "access": access,
        });
        let signed =
            format!("{}.{}", encode(header.to_string().as_bytes())?, encode(claims.to_string().as_bytes())?);
        let key = self.folder.path().join("key.pem");
        let signature = openssl(&["dgst", "-sha256", "-sign", &text(&key)], signed.as_bytes())?;
        Ok(format!("{signed}.{}", encode(&signature)?))
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Base64 for URLs, without padding.
fn encode(bytes: &[u8]) -> io::Result<String> {
    let plain = String::from_utf8(openssl(&["base64", "-A"], bytes)?).map_err(io::Error::other)?;
    Ok(plain.trim_end().trim_end_matches('=').replace('+', "-").replace('/', "_"))
}

fn openssl(arguments: &[&str], input: &[u8]) -> io::Result<Vec<u8>> {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input)?;
    }
    Ok(child.wait_with_output()?.stdout)
}

/// `%3A` and `+` of a form.
fn unescape(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).unwrap_or_default();
                bytes.push(u8::from_str_radix(digits, 16).unwrap_or(b'?'));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
