//! Calls a lab.

use std::time::Duration;

use reqwest::Method;
use url::Url;

use crate::{
    CallError, ClientError, Endpoint, NodeClient, RecordStream,
    lab::{LabAction, LabDone, LabStatus},
    transport::{Connect, Transport, join, parse_base},
};

/// A client of one lab.
#[derive(Clone)]
pub struct LabClient {
    transport: Transport,
    base: Url,
    deadline: Duration,
}

impl LabClient {
    /// How long a call may take, unless set otherwise. Ending a node takes five seconds at most.
    pub const DEADLINE: Duration = Duration::from_secs(30);

    /// A client of the lab at `endpoint`.
    pub fn new(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let (connect, base) = match endpoint {
            Endpoint::Unix(path) => (Connect::Unix(path), parse_base("http://localhost")?),
            Endpoint::Http(url) => {
                let base = parse_base(url)?;
                (Connect::Tcp { tls: base.scheme() == "https" }, base)
            }
        };
        Ok(Self { transport: Transport::new(&connect, None)?, base, deadline: Self::DEADLINE })
    }

    /// The same with another deadline per call.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How the lab is.
    pub async fn status(&self) -> Result<LabStatus, CallError> {
        let url = join(&self.base, &["lab"]);
        let answer = self.transport.json::<(), _>(Method::GET, url.clone(), None, self.deadline).await?;
        answer.ok_or_else(|| missing(&url))
    }

    /// Has it do something; says what it has done.
    pub async fn act(&self, action: &LabAction) -> Result<LabDone, CallError> {
        let url = join(&self.base, &["lab", "actions"]);
        let answer = self.transport.json(Method::POST, url.clone(), Some(action), self.deadline).await?;
        answer.ok_or_else(|| missing(&url))
    }

    /// What happens in it and at its nodes, from now on, as [`NodeClient::events`] tells of one node.
    pub async fn events(&self, topics: &str) -> Result<RecordStream, CallError> {
        let mut url = join(&self.base, &["lab", "events"]);
        if !topics.is_empty() {
            url.query_pairs_mut().append_pair("topics", topics);
        }
        RecordStream::open(&self.transport, url, self.deadline).await
    }

    /// A client of one of its nodes, through the lab.
    pub fn node(&self, name: &str) -> NodeClient {
        NodeClient::over(self.transport.clone(), join(&self.base, &["lab", "nodes", name]))
    }
}

fn missing(url: &Url) -> CallError {
    let reason = "there is no such call (404): is it a lab of this version?".to_owned();
    CallError::BadAnswer { url: url.to_string(), reason }
}
