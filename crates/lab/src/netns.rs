//! Work inside a network namespace.

use std::{fs::File, io, os::fd::AsFd as _, path::Path, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::LabError;

/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";

/// Does `work` on a thread of its own, in the namespace if one is named. Sockets that it opens stay in that namespace
/// wherever they are used.
pub(crate) async fn inside<T: Send + 'static>(
    namespace: Option<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LabError> {
    let (sender, done) = oneshot::channel();
    let enter_and_work = move || {
        let outcome = match namespace {
            None => Ok(work()),
            Some(name) => match enter(&name) {
                Ok(()) => Ok(work()),
                Err(source) => Err(LabError::Namespace { name, source }),
            },
        };
        // Nobody waits any more: the lab is being stopped.
        let _ = sender.send(outcome);
    };
    thread::Builder::new().name("lab".into()).spawn(enter_and_work).map_err(|_| LabError::Thread)?;
    done.await.map_err(|_| LabError::Thread)?
}

fn enter(name: &str) -> io::Result<()> {
    let namespace = File::open(Path::new(NAMESPACES).join(name))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}
