//! Raising a lab that lasts: the command line as a configuration, and the process that keeps the lab.

use std::{
    env, fs,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Context as _;
use api::lab::{HostKind, LabHost, LabStatus};
use lab::{
    Delay, Rate, Sources,
    lasting::{self, Foreign, News, Seed, Topology, UpConfig},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
    sync::Notify,
};

use super::explain;
use crate::{failure::Failure, host::StopSignals, quantity, screen};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The lab's name, to tell it from others
    #[arg(long, value_name = "NAME", default_value = "lab")]
    name: String,
    /// Nodes that hold the content first; with 0 one node holds each torrent, and nobody images [default: 2]
    #[arg(long, value_name = "N")]
    seeders: Option<usize>,
    /// Nodes that get it [default: 10]
    #[arg(long, value_name = "N")]
    leechers: Option<usize>,
    /// Each file and each folder in it becomes a torrent, each OCI layout images
    #[arg(long, value_name = "DIR")]
    sources: Option<PathBuf>,
    /// An image of a registry outside; may be given again
    #[arg(long = "image", value_name = "REF")]
    images: Vec<String>,
    /// Where that registry answers, if not where its name says
    #[arg(long, value_name = "URL")]
    registry: Option<String>,
    /// Who has the content from the start: each seeder all, each thing one seeder, or no seeder, and one node each torrent
    #[arg(long, value_name = "all|each|origin", value_parser = parse_seed)]
    seed: Option<Seed>,
    /// A network namespace for each host (root only)
    #[arg(long)]
    netns: bool,
    /// The speed of each node's link, both ways, such as 100mbit; without --netns nodes limit themselves, towards peers
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// The speed of the registry's and the web server's links; needs --netns
    #[arg(long, value_name = "RATE")]
    origin_rate: Option<Rate>,
    /// The delay of each node's link, such as 5ms; needs --netns
    #[arg(long, value_name = "DELAY")]
    delay: Option<Delay>,
    /// All on one switch, so many zones (zones:3), or a file
    #[arg(long, value_name = "star|zones:N|FILE", default_value = "star")]
    topology: String,
    /// Other clients that take part: transmission, rtorrent
    #[arg(long, value_name = "CLIENT", value_delimiter = ',')]
    foreign: Vec<Foreign>,
    /// Where the page is, on loopback [default: 127.0.0.1:7070, or a free port]
    #[arg(long, value_name = "ADDR:PORT")]
    page: Option<SocketAddr>,
    /// Keep the lab in this process, until Ctrl-C
    #[arg(long)]
    foreground: bool,
    /// Print the lab's state as JSON once it stands
    #[arg(long)]
    json: bool,
    /// Print a topology with all that there is, and end
    #[arg(long)]
    print_topology: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    if args.print_topology {
        screen::say(Topology::EXAMPLE.trim_end());
        return Ok(());
    }
    let config = config(&args)?;
    let (name, json) = (config.name.clone(), args.json);
    if !args.foreground {
        return raise(&config, json).await;
    }
    let mut signals = StopSignals::listen()?;
    let tell = |news: News| show(&news, &name, true, json);
    lasting::supervise(config, false, tell, signals.wait()).await.map_err(|error| explain(&error))
}

/// Keeps a lab whose configuration comes by standard input, and tells by standard output how it goes until it stands.
pub(super) async fn supervise() -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    let config: UpConfig = serde_json::from_reader(io::stdin().lock()).context("that is no lab")?;
    // The terminal's Ctrl-C and hang-up are not for it. Already at the head of a session it need not.
    let _ = rustix::process::setsid();
    let unheard = Notify::new();
    let tell = |news: News| {
        let stands = matches!(news, News::Ready { .. });
        let told = say(&news);
        if told.is_err() {
            // Whoever raised it has gone before it stood.
            unheard.notify_one();
        }
        if stands && let Ok(nowhere) = fs::OpenOptions::new().write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdout(nowhere);
        }
    };
    let stop = async {
        tokio::select! {
            () = signals.wait() => {}
            () = unheard.notified() => {}
        }
    };
    if let Err(error) = lasting::supervise(config, true, tell, stop).await {
        let bad_input = error.is_bad_input();
        if say(&News::Failed { error: error.to_string(), bad_input }).is_err() {
            tracing::error!("{error}");
        }
    }
    Ok(())
}

fn say(news: &News) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, news)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Starts the process that keeps the lab, and waits until that stands.
async fn raise(config: &UpConfig, json: bool) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    let mut child = Command::new(&config.program)
        .args(["lab", "supervise"])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the lab's supervisor")?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Failure::new("the lab's supervisor cannot be spoken to").into());
    };
    input.write_all(&serde_json::to_vec(config)?).await.context("the lab's supervisor does not listen")?;
    drop(input);
    let mut lines = BufReader::new(output).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line.context("the lab's supervisor cannot be heard")?,
            () = signals.wait() => {
                screen::note("stopping");
                return stop(child).await;
            }
        };
        let Some(line) = line else {
            let ended =
                child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
            return Err(Failure::new(format!("the lab's supervisor has ended ({ended})")).into());
        };
        match serde_json::from_str(&line).context("the lab's supervisor is of another version")? {
            News::Failed { error, bad_input: true } => return Err(Failure::bad_input(error).into()),
            News::Failed { error, bad_input: false } => return Err(Failure::new(error).into()),
            news => {
                show(&news, &config.name, false, json);
                if matches!(news, News::Ready { .. }) {
                    return Ok(());
                }
            }
        }
    }
}

/// Ends the supervisor, which takes away what it has made.
async fn stop(mut child: Child) -> anyhow::Result<()> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // The number is the child's until it is waited for.
        let _ = kill_process(pid, Signal::TERM);
    }
    child.wait().await.context("the lab's supervisor cannot be waited for")?;
    Err(Failure::new("stopped before the lab stood; everything is removed").into())
}

fn show(news: &News, name: &str, foreground: bool, json: bool) {
    match news {
        News::Step { what } if !json => screen::note(what),
        News::Ready { status, .. } if json => {
            if let Ok(json) = serde_json::to_value(status) {
                screen::say_json(&json);
            }
        }
        News::Ready { status, seconds } => screen::say(&standing(status, *seconds, name, foreground)),
        _ => {}
    }
}

fn standing(status: &LabStatus, seconds: f64, name: &str, foreground: bool) -> String {
    let option = if name == "lab" { String::new() } else { format!(" --name {name}") };
    let hosts = quantity::count(status.hosts.len(), "host");
    let mut text = format!("The lab stands: {hosts} after {seconds:.1} s.\n\n");
    let end = match foreground {
        true => "Ctrl-C".to_owned(),
        false => format!("longshore lab down{option}"),
    };
    text += &screen::table(&[
        ("Its page:", status.page.clone()),
        ("Have the leechers pull:", format!("longshore lab pull{option}")),
        ("Look at it:", format!("longshore lab status{option}")),
        ("End it:", end),
    ]);
    for content in status.contents.iter().filter(|content| content.kind == "torrent") {
        let is_seeder =
            |host: &LabHost| host.kind == HostKind::Seeder && content.seeders.contains(&host.name);
        if !content.seeders.is_empty() && !status.hosts.iter().any(is_seeder) {
            let holders = content.seeders.join(", ");
            text += &format!("\n\nnote: no seeder holds {}: {holders} has it to begin with", content.name);
        }
    }
    for note in &status.notes {
        text += &format!("\n\nnote: {note}");
    }
    for problem in &status.problems {
        text += &format!("\n\nproblem: {problem}");
    }
    text
}

fn parse_seed(text: &str) -> Result<Seed, String> {
    match text {
        "all" => Ok(Seed::All),
        "each" => Ok(Seed::Each),
        "origin" => Ok(Seed::Origin),
        _ => Err(format!("`{text}` is none of all, each and origin")),
    }
}

fn config(args: &Args) -> anyhow::Result<UpConfig> {
    let program = env::current_exe().context("cannot find this program's file")?;
    let here = env::current_dir().context("cannot find the current directory")?;
    let mut topology = topology(args)?;
    for zone in &mut topology.zones {
        zone.link.rate = zone.link.rate.or(args.rate);
        zone.link.delay = zone.link.delay.or(args.delay);
    }
    topology.origin.rate = args.origin_rate.or(topology.origin.rate);
    if args.origin_rate.is_some() && !args.netns {
        return Err(Failure::bad_input(
            "--origin-rate needs --netns: without it only nodes can be limited, by themselves",
        )
        .into());
    }
    topology.seed = args.seed.unwrap_or(topology.seed);
    topology.registry = args.registry.clone().or(topology.registry);
    if !args.images.is_empty() {
        topology.images.clone_from(&args.images);
    }
    if !args.foreign.is_empty() {
        topology.foreign.clone_from(&args.foreign);
    }
    let sources = args.sources.clone().or(topology.sources);
    // The supervisor stands elsewhere.
    topology.sources = match sources {
        Some(path) => {
            let words = || Failure::bad_input(format!("cannot use the sources in {}", path.display()));
            Some(fs::canonicalize(&path).with_context(words)?)
        }
        None => None,
    };
    Ok(UpConfig {
        name: args.name.clone(),
        topology,
        own: Sources::own(&here, &program),
        program,
        namespaces: args.netns,
        must_delay: args.delay.is_some(),
        page: args.page,
        log: "info".to_owned(),
    })
}

fn topology(args: &Args) -> anyhow::Result<Topology> {
    let (seeders, leechers) = (args.seeders.unwrap_or(2), args.leechers.unwrap_or(10));
    if args.topology == "star" {
        return Ok(Topology::star(seeders, leechers));
    }
    if let Some(number) = args.topology.strip_prefix("zones:") {
        let number: usize = number.parse().unwrap_or(0);
        if !(1..=8).contains(&number) {
            return Err(Failure::bad_input("write zones:3; there may be from 1 to 8").into());
        }
        return Ok(Topology::zones(number, seeders, leechers));
    }
    if args.seeders.or(args.leechers).is_some() {
        return Err(Failure::bad_input(
            "a topology's file says how many nodes there are: leave --seeders and --leechers out",
        )
        .into());
    }
    let path = Path::new(&args.topology);
    let text = fs::read_to_string(path)
        .with_context(|| Failure::bad_input(format!("cannot read the topology {}", path.display())))?;
    let mut topology = Topology::read(&text)
        .map_err(|error| Failure::bad_input(format!("{}: {}", path.display(), error.trim_end())))?;
    // What it names lies beside it.
    let folder = path.parent().unwrap_or(Path::new(""));
    topology.sources = topology.sources.map(|sources| folder.join(sources));
    Ok(topology)
}
