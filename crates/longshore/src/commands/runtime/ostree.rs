//! OSTree's side of `longshore runtime check`: what its remotes say, and a pull of a commit into a folder that goes.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use runtime::{OstreeRemote, Root, Runtime};
use tokio::process::Command;

use super::{
    check::{CONFIGURATION, Finding, bad, good, install},
    program::run,
    pull::Scratch,
};

/// A remote whose content is asked for at the mirror.
pub(super) struct Remote {
    url: String,
    content: String,
}

/// Whether a remote asks the mirror, and the first that does.
pub(super) fn configured(mirror: SocketAddr, root: &Root) -> (Finding, Option<Remote>) {
    let remotes = match runtime::ostree_remotes(root) {
        Ok(remotes) => remotes,
        Err(error) => return (bad(CONFIGURATION, error.to_string()), None),
    };
    let below = format!("http://{mirror}/ostree/");
    let asks = |remote: OstreeRemote| {
        let content = remote.content.filter(|content| content.starts_with(&below))?;
        Some((remote.name, Remote { url: remote.url, content }))
    };
    match remotes.into_iter().find_map(asks) {
        Some((name, remote)) => (
            good(CONFIGURATION, format!("remote {name} asks for its content at {}", remote.content)),
            Some(remote),
        ),
        None => {
            let words = format!("no remote of OSTree asks below {below}: {}", install(Runtime::Ostree));
            (bad(CONFIGURATION, words), None)
        }
    }
}

impl Remote {
    /// Pulls a commit, without what it is of: that which is named, or the first that the remote's summary has.
    pub(super) async fn pull(&self, named: Option<&str>, deadline: Duration) -> Result<String, String> {
        let scratch = Scratch::new()?;
        let repository = format!("--repo={}", PathBuf::from(scratch.path()).join("repo").display());
        let ostree = |arguments: &[&str]| {
            let mut command = Command::new("ostree");
            command.arg(&repository).args(arguments);
            command
        };
        run(&mut ostree(&["init", "--mode=archive"]), deadline).await?;
        // Nothing of it is used, so that nobody's signature is needed.
        let content = format!("--contenturl={}", self.content);
        run(&mut ostree(&["remote", "add", "--no-gpg-verify", &content, "check", &self.url]), deadline)
            .await?;
        let branch = match named {
            Some(named) => named.to_owned(),
            None => {
                let refs = run(&mut ostree(&["remote", "refs", "check"]), deadline).await?;
                let first = refs.lines().find_map(|line| line.trim().strip_prefix("check:"));
                first.ok_or("the remote names no branch: give one with --image")?.to_owned()
            }
        };
        let pull = ["pull", "--commit-metadata-only", "--depth=0", "check", &branch];
        run(&mut ostree(&pull), deadline).await?;
        Ok(branch)
    }
}
