//! https: whose certificates are trusted, and that TLS is not left on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::sync::Arc;

use hash::Digest;
use http::HeaderMap;
use longshore_origin::{
    Document, Origin, OriginConfig, OriginError, Patience, Repository, Target, Upstream, Web, WebConfig,
};
use rustls::{ServerConfig, ServerConnection, Stream, pki_types::PrivateKeyDer};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

/// Answers each connection's first request with `answer`. A thread of its own: it lives as long as the test.
fn start(answer: impl Fn(SocketAddr) -> String) -> (SocketAddr, String) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (config, answer) = (Arc::new(config), answer(addr));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = stream.unwrap();
            let mut tls = Stream::new(&mut connection, &mut stream);
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && tls.read_exact(&mut byte).is_ok() {
                request.extend(byte);
            }
            let _ = tls.write_all(answer.as_bytes());
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    });
    (addr, certified.cert.pem())
}

fn origin(registry: &str, ca: Option<&std::path::Path>) -> Origin {
    let upstream = Upstream {
        registry: registry.to_owned(),
        endpoint: Some(format!("https://{registry}")),
        ca: ca.map(Into::into),
        ..Upstream::default()
    };
    let patience = Patience { attempts: 1, ..Patience::default() };
    Origin::new(&OriginConfig { upstreams: vec![upstream], patience, ..OriginConfig::default() }).unwrap()
}

#[tokio::test]
async fn a_ca_file_makes_a_registry_trusted_and_its_absence_does_not() {
    let (addr, pem) = start(|_| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {OCI}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        )
    });
    let registry = format!("localhost:{}", addr.port());
    let repository = Repository::new(&registry, "org/app").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let target = Target::Tag("1".into());
    let manifest = origin(&registry, Some(file.path())).manifest(&repository, &target, &[]).await.unwrap();
    assert_eq!(manifest.digest, Digest::of(b"{}"));
    let error = origin(&registry, None).manifest(&repository, &target, &[]).await.unwrap_err();
    assert!(matches!(error, OriginError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn neither_redirect_nor_token_service_may_leave_tls() {
    let redirect = "HTTP/1.1 302 There\r\nLocation: http://localhost:1/x\r\n".to_owned();
    let challenge =
        "HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=\"http://localhost:1/token\"\r\n".to_owned();
    for head in [redirect, challenge] {
        let (addr, pem) = start(|_| format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n"));
        let registry = format!("localhost:{}", addr.port());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pem).unwrap();
        let repository = Repository::new(&registry, "org/app").unwrap();
        let outcome = origin(&registry, Some(file.path())).blob(&repository, &Digest::of(b""), 0).await;
        let error = outcome.map(|_| ()).unwrap_err();
        assert!(matches!(error, OriginError::Invalid { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_ca_file_that_is_none_is_refused_at_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "nothing").unwrap();
    let upstream =
        Upstream { registry: "reg.test".into(), ca: Some(file.path().into()), ..Upstream::default() };
    let config = OriginConfig { upstreams: vec![upstream], ..OriginConfig::default() };
    let error = Origin::new(&config).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("reg.test") && error.contains("no certificate"), "{error}");
}

#[tokio::test]
async fn a_registry_that_speaks_plain_http_is_known_and_the_way_to_say_so_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let registry = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // What any HTTP server says of a TLS greeting.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        }
    });
    let repository = Repository::new(&registry, "org/app").unwrap();
    let outcome = origin(&registry, None).manifest(&repository, &Target::Tag("1".into()), &[]).await;
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains(&format!("--upstream {registry}=http://{registry}")), "{error}");
}

#[tokio::test]
async fn a_ca_file_makes_a_web_server_trusted_for_what_is_below_its_base_alone() {
    let (addr, pem) =
        start(|_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".to_owned());
    let base = format!("https://localhost:{}/repo/", addr.port());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let patience = Patience { attempts: 1, ..Patience::default() };
    let web = |ca: Option<&std::path::Path>| {
        let bases = vec![(base.parse().unwrap(), ca.map(Into::into))];
        let origin = Origin::new(&OriginConfig::default()).unwrap();
        Web::new(&WebConfig { bases, patience, ..WebConfig::default() }, &origin).unwrap()
    };
    let ask = async |web: &Web, path: &str| {
        let url = format!("https://localhost:{}{path}", addr.port()).parse().unwrap();
        web.document(&url, HeaderMap::new(), 100).await
    };
    let trusting = web(Some(file.path()));
    let Document::New(_, bytes) = ask(&trusting, "/repo/summary").await.unwrap() else { panic!("nothing") };
    assert_eq!(bytes.as_ref(), b"ok");
    let outside = ask(&trusting, "/other").await.unwrap_err();
    assert!(matches!(outside, OriginError::NotAllowed { .. }), "{outside}");
    let error = ask(&web(None), "/repo/summary").await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}
