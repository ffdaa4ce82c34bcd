//! An announce over HTTP (BEP 3).

use std::net::IpAddr;

use announce::{AnnounceResponse, Reply};
use reqwest::{Client, header::HOST, redirect::Policy};

use crate::{client::Question, error::TrackerError};

/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 1024 * 1024;

pub(crate) fn client(from: Option<IpAddr>) -> Result<Client, reqwest::Error> {
    // reqwest takes the process's TLS provider; whoever installed one first wins, and any does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .local_address(from)
        .redirect(Policy::limited(3))
        .user_agent(concat!("Longshore/", env!("CARGO_PKG_VERSION")))
        .build()
}

pub(crate) async fn announce(
    client: &Client,
    question: &Question<'_>,
) -> Result<AnnounceResponse, TrackerError> {
    let url = announce::append_to_url(question.tracker, &question.request.to_query());
    let mut request = client.get(url);
    if let Some(host) = question.host {
        request = request.header(HOST, host);
    }
    let mut response = request.send().await.map_err(TrackerError::of)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(TrackerError::of)? {
        if body.len() + chunk.len() > LONGEST_ANSWER {
            return Err(TrackerError::Malformed("it is too long".into()));
        }
        body.extend_from_slice(&chunk);
    }
    read_http_answer(response.status().as_u16(), &body)
}

/// What an HTTP tracker's status and body say. A body that can be read counts, whatever the status.
///
/// # Errors
/// The tracker's refusal, its status, or that it cannot be understood.
pub fn read_http_answer(status: u16, body: &[u8]) -> Result<AnnounceResponse, TrackerError> {
    match AnnounceResponse::parse(body) {
        Ok(Reply::Ok(response)) => Ok(response),
        Ok(Reply::Failure { reason, retry_in }) => Err(TrackerError::Refused { reason, retry_in }),
        Err(error) if (200..300).contains(&status) => Err(TrackerError::Malformed(error.to_string())),
        Err(_) => Err(TrackerError::Status(status)),
    }
}
