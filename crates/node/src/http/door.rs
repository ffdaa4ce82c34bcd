//! The API's door over TCP, which strangers may knock at: so many connections, and a deadline for each request's head.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections at once: a browser has six for a page, and files are left for what the node is for.
const MOST: usize = 192;
/// How long a request's head may take, and how long a connection may stand without one.
const HEAD: Duration = Duration::from_secs(20);
/// How long what is under way may take at the end.
const GRACE: Duration = Duration::from_secs(5);
/// The wait after a connection could not be taken, as when no file is left for it.
const REST: Duration = Duration::from_millis(200);

/// Serves until `stop`, and then until what was under way has ended. More connections wait until one ends.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let (places, connections) = (Arc::new(Semaphore::new(MOST)), TaskTracker::new());
    let next = async || {
        // It is never closed.
        let place = places.clone().acquire_owned().await.ok()?;
        Some((place, listener.accept().await))
    };
    while let Some(Some((place, accepted))) = stop.run_until_cancelled(next()).await {
        match accepted {
            Ok((stream, _)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    converse(stream, router, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the API cannot take a connection");
                sleep(REST).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn converse(stream: TcpStream, router: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection of the API ended early");
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_never_ends_a_requests_head_is_left_and_makes_room_for_others() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let router = Router::new().route("/", get(async || "here"));
        let serving = tokio::spawn(serve(listener, router, stop.clone()));
        let mut idle = Vec::new();
        for _ in 0..MOST {
            let mut stream = TcpStream::connect(address).await.expect("taken");
            stream.write_all(b"GET / HTTP/1.1\r\n").await.expect("sent");
            idle.push(stream);
        }
        let mut other = TcpStream::connect(address).await.expect("waits");
        other.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("sent");
        let mut answer = String::new();
        timeout(10 * HEAD, other.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
        assert!(answer.ends_with("here"), "{answer}");
        for mut stream in idle {
            let mut rest = Vec::new();
            timeout(10 * HEAD, stream.read_to_end(&mut rest)).await.expect("it is closed").expect("in order");
        }
        stop.cancel();
        timeout(10 * GRACE, serving).await.expect("ends").expect("well");
    }
}
