//! `longshore runtime install` and `uninstall`: the runtimes' files.

use std::{fs, io, path::Path, time::Duration};

use runtime::{
    Done, EditError, KeepError, Keeper, Outcome, PlannedUndo, Root, Runtime, Setup, SetupError, Undone,
};
use tokio::process::Command;

use super::{place, place::Mirror, place::System, program};
use crate::{
    failure::{self, Failure},
    host, screen,
};

/// How long a restart may take: a runtime may end its containers first.
const RESTART: Duration = Duration::from_secs(180);

#[derive(clap::Args)]
pub(crate) struct InstallArgs {
    /// docker, containerd, podman (for skopeo, Buildah and CRI-O too), ostree [default: those that are installed, but
    /// not ostree]
    #[arg(value_name = "RUNTIME", value_parser = super::parse)]
    runtimes: Vec<Runtime>,
    #[command(flatten)]
    mirror: Mirror,
    /// A registry that podman is to pull through the mirror; may be repeated [default: docker.io, and those listed
    /// in the node's configuration]
    #[arg(long = "registry", value_name = "NAME")]
    registries: Vec<String>,
    #[command(flatten)]
    system: System,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Restart what has to be restarted
    #[arg(long)]
    restart: bool,
}

#[derive(clap::Args)]
pub(crate) struct UninstallArgs {
    /// docker, containerd, podman, ostree [default: all that were set up]
    #[arg(value_name = "RUNTIME", value_parser = super::parse)]
    runtimes: Vec<Runtime>,
    #[command(flatten)]
    system: System,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Restart what has to be restarted
    #[arg(long)]
    restart: bool,
}

pub(super) async fn install(args: InstallArgs) -> anyhow::Result<()> {
    let root = args.system.root()?;
    let runtimes = args.system.runtimes(&args.runtimes, &root)?;
    if args.runtimes.is_empty() {
        let names: Vec<_> = runtimes.iter().map(|runtime| runtime.name()).collect();
        screen::note(&format!("found here: {}", names.join(", ")));
    }
    let several = runtimes.len() > 1;
    let config = args.mirror.config(&root)?;
    let Some(mirror) = args.mirror.address(&root, config.as_ref()).await? else {
        let failure = Failure::new(
            "where the mirror listens is not known: there is no configuration of a node, and \
                                    no node answers",
        );
        return Err(failure
            .hint("start `longshore node`, or name the address: --mirror 127.0.0.1:5555")
            .into());
    };
    let repositories = config.iter().flat_map(|config| &config.ostree);
    let repositories = repositories.map(|known| (known.name.clone(), known.url.clone())).collect();
    let setup = Setup { mirror, registries: registries(&args.registries, config.as_ref()), repositories };
    let keeper = Keeper::new(root.clone(), args.system.state());
    let dry = args.dry_run;
    let of = root.clone();
    let written = host::blocking(move || {
        let written = write(&keeper, &setup, &runtimes, &of, dry);
        // A folder for records without any is not left behind.
        if !dry {
            keeper.tidy();
        }
        written
    });
    let (changed, mut failed) = written.await??;
    if !dry {
        for changed in changed {
            let runtime = changed.0;
            if let Err(error) = take_up(changed, &root, args.restart, true).await {
                failed.push((runtime, error));
            }
        }
    }
    all_done(failed, several)
}

/// Of several runtimes those that cannot be set up keep no other from it.
fn all_done(mut failed: Vec<Refused>, several: bool) -> anyhow::Result<()> {
    if !several && let Some((_, error)) = failed.pop() {
        return Err(error);
    }
    if failed.is_empty() {
        return Ok(());
    }
    for (_, error) in &failed {
        failure::report(error);
    }
    let names: Vec<_> = failed.iter().map(|(runtime, _)| runtime.name()).collect();
    Err(Failure::new(format!("not set up: {}; the others are", names.join(", "))).into())
}

/// Docker Hub, and what is listed; what cannot stand there is said.
fn registries(named: &[String], config: Option<&node::Config>) -> Vec<String> {
    if !named.is_empty() {
        return named.to_vec();
    }
    let mut names = vec!["docker.io".to_owned()];
    for upstream in config.iter().flat_map(|config| &config.origin.upstreams) {
        let name = &upstream.registry;
        if name.contains(':') {
            screen::note(&format!("{name} is left out for Podman: a name with a port cannot stand there"));
        } else if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// A runtime that has to take something up, and its files.
type Changed = (Runtime, Vec<String>);
/// One that cannot be set up, and why.
type Refused = (Runtime, anyhow::Error);

/// Sets each runtime up: of what was written where, and of those that could not be and why.
fn write(
    keeper: &Keeper,
    setup: &Setup,
    runtimes: &[Runtime],
    root: &Root,
    dry: bool,
) -> anyhow::Result<(Vec<Changed>, Vec<Refused>)> {
    let _lock = if dry { None } else { Some(keeper.lock().map_err(|error| explain(&error))?) };
    let (mut changed, mut failed) = (Vec::new(), Vec::new());
    for &runtime in runtimes {
        let mut files = Vec::new();
        if let Err(error) = write_one(keeper, setup, runtime, root, dry, &mut files) {
            failed.push((runtime, error));
        }
        if !files.is_empty() {
            changed.push((runtime, files));
        }
    }
    Ok((changed, failed))
}

/// Plans all of a runtime's files, then writes them; `files` are those that were.
fn write_one(
    keeper: &Keeper,
    setup: &Setup,
    runtime: Runtime,
    root: &Root,
    dry: bool,
    files: &mut Vec<String>,
) -> anyhow::Result<()> {
    if place::found(runtime, root).is_none() {
        let programs = runtime.programs().join(", ");
        screen::note(&format!(
            "{runtime} is not installed here (there is no {programs}); its files are for later"
        ));
    }
    if root.is_system() && runtime == Runtime::Docker {
        no_flag()?;
    }
    let (changes, notes) = setup.changes(runtime, root).map_err(|error| refuse(&error))?;
    notes.iter().for_each(|note| screen::note(&format!("note: {note}")));
    let planned = changes.iter().map(|change| keeper.plan(runtime, change));
    for plan in planned.collect::<Result<Vec<_>, _>>().map_err(|error| explain(&error))? {
        let path = plan.path.display().to_string();
        if let (true, Some(new)) = (dry, &plan.new) {
            screen::say(runtime::preview(&plan.path, plan.old.as_deref(), Some(new)).trim_end());
            continue;
        }
        if dry {
            screen::say(&format!("{path} stays as it is"));
            continue;
        }
        match keeper.apply(runtime, plan).map_err(|error| explain(&error))? {
            Done::Written => {
                screen::say(&format!("wrote {path}"));
                files.push(path);
            }
            Done::Unchanged => screen::say(&format!("{path} is as it was written before")),
            Done::There => screen::say(&format!("{path} names the mirror already; it was left as it is")),
        }
    }
    Ok(())
}

pub(super) async fn uninstall(args: UninstallArgs) -> anyhow::Result<()> {
    let root = args.system.root()?;
    let keeper = Keeper::new(root.clone(), args.system.state());
    let mut runtimes = if args.runtimes.is_empty() { Runtime::ALL.to_vec() } else { args.runtimes };
    runtimes.sort();
    runtimes.dedup();
    let dry = args.dry_run;
    let changed = host::blocking(move || take_out(&keeper, &runtimes, dry)).await??;
    for runtime in changed {
        take_up(runtime, &root, args.restart, false).await?;
    }
    Ok(())
}

fn take_out(keeper: &Keeper, runtimes: &[Runtime], dry: bool) -> anyhow::Result<Vec<(Runtime, Vec<String>)>> {
    let mut changed = Vec::new();
    let mut failed = None;
    let _lock =
        if dry || !keeper.is_used() { None } else { Some(keeper.lock().map_err(|error| explain(&error))?) };
    for &runtime in runtimes {
        if dry {
            for PlannedUndo { path, old, new } in
                keeper.plan_undo(runtime).map_err(|error| explain(&error))?
            {
                if old == new {
                    screen::say(&format!("{} stays as it is", path.display()));
                } else {
                    screen::say(runtime::preview(&path, old.as_deref(), new.as_deref()).trim_end());
                }
            }
            continue;
        }
        let mut files = Vec::new();
        for Outcome { path, undone } in keeper.undo(runtime).map_err(|error| explain(&error))? {
            let path = path.display();
            match undone {
                Ok(undone) => {
                    screen::say(&match undone {
                        Undone::Restored => format!("{path} is as it was before"),
                        Undone::Removed => format!("{path} is removed, as it was made by Longshore"),
                        Undone::Edited => {
                            format!("{path} was changed by others since: only Longshore's part was taken out")
                        }
                        Undone::Untouched => format!("{path} had nothing of Longshore's in it"),
                        Undone::Gone => format!("{path} was removed by others since: it stays so"),
                    });
                    if !matches!(undone, Undone::Untouched) {
                        files.push(path.to_string());
                    }
                }
                Err(error) => {
                    screen::complain(&format!("error: {error}"));
                    failed = Some(error);
                }
            }
        }
        if !files.is_empty() {
            changed.push((runtime, files));
        }
    }
    match failed {
        Some(error) => Err(explain(&error)),
        None => {
            if changed.is_empty() && !dry {
                screen::say("nothing of Longshore's is left to undo");
            }
            Ok(changed)
        }
    }
}

/// Says what is needed for a runtime to take its files up, or does it.
async fn take_up(
    (runtime, files): (Runtime, Vec<String>),
    root: &Root,
    restart: bool,
    installed: bool,
) -> anyhow::Result<()> {
    if !root.is_system() {
        return Ok(());
    }
    let (verb, unit, why) = match runtime {
        Runtime::Docker => ("restart", "docker", "Docker takes it up when it starts"),
        Runtime::Containerd if files.iter().any(|file| file.ends_with("/config.toml")) => {
            ("restart", "containerd", "containerd takes up its config.toml when it starts")
        }
        Runtime::Containerd => {
            screen::note("containerd reads hosts.toml at each pull: nothing has to be restarted");
            return Ok(());
        }
        Runtime::Podman if place::is_there("crio", root) => {
            ("reload", "crio", "CRI-O takes it up at a reload")
        }
        Runtime::Podman | Runtime::Ostree => return Ok(()),
    };
    if !restart {
        // A mirror that is no longer named stays with Docker at a reload.
        let reload = if runtime == Runtime::Docker && installed {
            " (or `systemctl reload docker`, which lets containers run on)"
        } else {
            ""
        };
        screen::note(&format!("{why}: systemctl {verb} {unit}{reload}"));
        return Ok(());
    }
    let done = program::run(Command::new("systemctl").args([verb, unit]), RESTART).await;
    done.map_err(|words| Failure::new(format!("the files are written, but {unit} did not {verb}: {words}")))?;
    screen::note(&format!("systemctl {verb} {unit}: done"));
    Ok(())
}

/// Docker does not start with mirrors on its command line and in its file. Looks at daemons that see our files.
fn no_flag() -> anyhow::Result<()> {
    let files_of = |process: &Path| fs::read_link(process.join("ns/mnt")).ok();
    let ours = files_of(Path::new("/proc/self"));
    for process in fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path()) {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let docker = words.first().is_some_and(|program| program.rsplit('/').next() == Some("dockerd"));
        let has = |flag: &str| words.iter().any(|word| word.starts_with(flag));
        if docker && has("--registry-mirror") && !has("--config-file") && files_of(&process) == ours {
            let failure = Failure::new(
                "Docker runs with --registry-mirror on its command line, and does not start with mirrors in its file \
                 as well",
            );
            return Err(failure.hint("take that flag out of its unit first").into());
        }
    }
    Ok(())
}

fn refuse(error: &SetupError) -> anyhow::Error {
    match error {
        SetupError::Registry(_) => Failure::bad_input(error.to_string()).into(),
        SetupError::NoRemote(_) => Failure::new(error.to_string())
            .hint("add the repository to it, by the URL that the remote has; the node's configuration is given with --config")
            .into(),
        SetupError::Edit { .. } => unusable(error),
        SetupError::Read { source, .. } => told(error, source),
        _ => Failure::new(error.to_string()).hint("its files were left as they are").into(),
    }
}

fn explain(error: &KeepError) -> anyhow::Error {
    match (error, error.io()) {
        (_, Some(source)) => told(error, source),
        (KeepError::Edit { source: EditError::Syntax { .. } | EditError::NotText, .. }, _) => unusable(error),
        _ => Failure::new(error.to_string()).into(),
    }
}

fn unusable(error: &dyn std::error::Error) -> anyhow::Error {
    Failure::new(error.to_string()).hint("mend that file first; it was left as it is").into()
}

fn told(error: &dyn std::error::Error, source: &io::Error) -> anyhow::Error {
    let failure = Failure::new(error.to_string());
    match source.kind() {
        io::ErrorKind::PermissionDenied => failure.hint("run this as root, with sudo for example"),
        io::ErrorKind::ReadOnlyFilesystem => failure.hint(
            "that file system is mounted read-only: make the change where the system is built, with --root",
        ),
        _ => failure,
    }
    .into()
}
