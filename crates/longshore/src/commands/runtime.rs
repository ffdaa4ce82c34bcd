//! `longshore runtime`: has container runtimes pull through the node, checks that they do, and undoes it.

mod check;
mod files;
mod ostree;
mod place;
mod program;
mod pull;

use clap::Subcommand;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Write what a runtime has to be told into its files, keeping what is there
    Install(files::InstallArgs),
    /// See whether a runtime pulls through the node, with a real pull
    Check(check::Args),
    /// Bring the runtime's files back as they were
    Uninstall(files::UninstallArgs),
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    match args.action {
        Action::Install(args) => files::install(args).await,
        Action::Check(args) => check::run(args).await,
        Action::Uninstall(args) => files::uninstall(args).await,
    }
}

/// Reads a runtime's name.
fn parse(text: &str) -> Result<runtime::Runtime, String> {
    match text.to_ascii_lowercase().as_str() {
        "docker" => Ok(runtime::Runtime::Docker),
        "containerd" => Ok(runtime::Runtime::Containerd),
        "ostree" | "rpm-ostree" => Ok(runtime::Runtime::Ostree),
        "podman" | "skopeo" | "buildah" | "cri-o" | "crio" => Ok(runtime::Runtime::Podman),
        _ => {
            Err("known are docker, containerd, podman (which stands for skopeo, Buildah and CRI-O too) and ostree"
                .into())
        }
    }
}
