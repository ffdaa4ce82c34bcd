//! What a lab of one run has made and started, so that all of it can be taken away again: at its end, or by the next
//! lab when it was killed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

use crate::{
    LabConfig, LabError,
    claim::{self, Claim, file},
    links,
    lock::Lock,
    plan::Network,
    process::{self, Launch, Process},
    registry::Registry,
};

/// All that a lab has made and started.
pub(crate) struct Stage {
    claim: Claim,
    /// Image, configurations, logs, data.
    work: PathBuf,
    /// Where everything lies is the user's, and stays.
    keeps_work: bool,
    network: Network,
    processes: Vec<Process>,
    registry: Option<Registry>,
    // Last, so that it is given back when all else is gone.
    network_lock: Option<Lock>,
}

impl Stage {
    /// A new one, after what killed labs have left is removed.
    pub(crate) async fn set(config: &LabConfig) -> Result<Self, LabError> {
        let base = claim::base();
        if let Some(path) = &config.directory {
            let is_empty = fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
            if !is_empty {
                return Err(LabError::NotEmpty { path: path.clone() });
            }
        }
        let claim = {
            let base = base.clone();
            tokio::task::spawn_blocking(move || claim::claim(&base, None))
                .await
                .map_err(|_| LabError::Thread)??
        };
        let work = config.directory.clone().unwrap_or_else(|| claim.own.join("work"));
        fs::create_dir_all(&work).map_err(file(&work))?;
        // Nodes run there with paths of this configuration.
        let work = fs::canonicalize(&work).map_err(file(&work))?;
        let (network, network_lock) = if config.namespaces {
            (Network::Namespaces, None)
        } else {
            let (block, lock) = claim::claim_block(&base)?;
            (Network::Loopback(block), Some(lock))
        };
        if geteuid().is_root() {
            let swept = claim::sweep_namespaces(&base, &claim.id).await;
            if config.namespaces {
                swept?;
            }
        }
        Ok(Self {
            claim,
            work,
            keeps_work: config.directory.is_some(),
            network,
            processes: Vec::new(),
            registry: None,
            network_lock,
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.claim.id
    }

    pub(crate) fn network(&self) -> Network {
        self.network
    }

    pub(crate) fn work(&self) -> &Path {
        &self.work
    }

    /// A node's unix socket.
    pub(crate) fn socket(&self, node: &str) -> PathBuf {
        self.claim.own.join(format!("{node}.sock"))
    }

    /// The network namespace of a host, if hosts have one.
    pub(crate) fn namespace(&self, host: &str) -> Option<String> {
        (self.network == Network::Namespaces).then(|| links::namespace(self.id(), host))
    }

    /// Starts a process, and writes down that it is ours.
    pub(crate) fn start(&mut self, name: &str, program: &Path, arguments: &[&str]) -> Result<(), LabError> {
        let (namespace, log) = (self.namespace(name), self.work.join(format!("{name}.log")));
        let process = Process::start(&Launch {
            name,
            program,
            arguments,
            environment: &[],
            namespace: namespace.as_deref(),
            log: &log,
            mark: &self.claim.own,
        })?;
        if let Some(pid) = process.pid() {
            self.claim.note(pid)?;
        }
        self.processes.push(process);
        Ok(())
    }

    pub(crate) fn keep(&mut self, registry: Registry) {
        self.registry = Some(registry);
    }

    /// Fails if a process has ended.
    pub(crate) fn check(&mut self) -> Result<(), LabError> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    /// The end of a process's log.
    pub(crate) fn tail(&self, name: &str) -> String {
        self.processes.iter().find(|process| process.name == name).map(Process::tail).unwrap_or_default()
    }

    /// Takes everything away. What cannot be is left for the next lab, with a warning.
    pub(crate) async fn strike(mut self) {
        process::stop(&mut self.processes).await;
        if let Some(registry) = self.registry.take() {
            registry.stop().await;
        }
        if self.network == Network::Namespaces
            && let Err(error) = links::remove(self.id()).await
        {
            tracing::warn!(%error, "network namespaces are left behind; the next lab removes them");
        }
        if self.keeps_work {
            tracing::info!("logs and data lie in {}", self.work.display());
        }
        if let Err(error) = fs::remove_dir_all(&self.claim.own) {
            tracing::warn!(%error, "{} is left behind; the next lab removes it", self.claim.own.display());
        }
        drop(self.network_lock.take());
        // What it leaves where this fails is in nobody's way.
        let _ = tokio::task::spawn_blocking(|| claim::leave(&claim::base())).await;
    }
}
