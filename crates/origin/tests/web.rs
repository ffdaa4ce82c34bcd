//! Files of web servers, and which trouble with one keeps clients from which other.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking, their helpers too")]

use longshore_origin::{Origin, OriginConfig, OriginError, Patience, Web, WebConfig};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use url::Url;

/// A server of plain HTTP that gives every file, and drops what speaks anything else.
async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut start = [0; 4];
            let read = stream.read_exact(&mut start).await;
            if read.is_ok() && matches!(&start, b"GET " | b"HEAD") {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = stream.write_all(answer).await;
            }
        }
    });
    port
}

fn web(port: u16, patience: Patience) -> Web {
    let origin = Origin::new(&OriginConfig::default()).unwrap();
    let private_hosts = vec![format!("127.0.0.1:{port}")];
    Web::new(&WebConfig { private_hosts, patience, ..WebConfig::default() }, &origin).unwrap()
}

fn url(scheme: &str, port: u16) -> Url {
    Url::parse(&format!("{scheme}://127.0.0.1:{port}/file")).unwrap()
}

#[tokio::test]
async fn a_port_that_speaks_no_tls_is_still_asked_without() {
    let port = server().await;
    let web = web(port, Patience { attempts: 1, ..Patience::default() });
    for _ in 0..2 {
        let error = web.head(&url("https", port)).await.unwrap_err();
        assert!(matches!(error, OriginError::Unreachable { .. }), "{error}");
        assert_eq!(web.head(&url("http", port)).await.unwrap().size, Some(0));
    }
}
