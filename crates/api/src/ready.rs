//! Asks a server whether it does its work, as probes of containers and load balancers do.

use std::time::Duration;

use reqwest::Method;

use crate::{
    CallError, ClientError,
    transport::{Connect, Transport, join, parse_base},
};

/// Asks a tracker, or the mirror of a node, at its base address for `/readyz`.
///
/// # Errors
/// When the address is none, and, within, when it is not ready or does not say so.
pub async fn ready(server: &str, deadline: Duration) -> Result<Result<(), CallError>, ClientError> {
    let base = parse_base(server)?;
    let transport = Transport::new(&Connect::Tcp { tls: base.scheme() == "https" }, None)?;
    let url = join(&base, &["readyz"]);
    let shown = url.to_string();
    let answer = transport.bytes::<()>(Method::GET, url, None, deadline).await;
    Ok(answer.and_then(|answer| match answer {
        Some(_) => Ok(()),
        None => Err(CallError::BadAnswer { url: shown, reason: "there is no such page".to_owned() }),
    }))
}
