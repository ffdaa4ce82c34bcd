//! `longshore top`: a node or a lab in the terminal, as it moves.

mod board;
mod picture;

use std::{collections::BTreeMap, io::IsTerminal as _, time::Duration};

use anyhow::Context as _;
use api::{CallError, RecordStream};
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};

use self::board::Board;
use super::{lab, status::Connection};
use crate::{failure::Failure, screen};

/// What is asked for.
const TOPICS: &str = "status,torrents,links,blocks";
/// How often the picture is drawn.
const DRAW: Duration = Duration::from_millis(250);
/// How long the keyboard is listened to at a time.
const LISTEN: Duration = Duration::from_millis(100);
/// After what pause a node is asked again that has gone.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a lab is asked who its hosts are.
const WHO: Duration = Duration::from_secs(5);
/// How long `--once` looks, and how wide its picture is.
const ONCE: (Duration, u16) = (Duration::from_millis(2500), 100);
/// What the keys do.
const KEYS: &str = "q quits, ↑ ↓ choose the torrent";
/// Records and keys that may wait to be drawn.
const QUEUE: usize = 1024;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// All nodes of a lab instead; the only one that runs where none is named
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    lab: Option<String>,
    /// Print one picture, and end
    #[arg(long)]
    once: bool,
}

/// Where news come from.
#[derive(Clone)]
enum Source {
    Node(api::NodeClient),
    Lab(api::LabClient),
}

impl Source {
    async fn open(&self) -> Result<RecordStream, CallError> {
        match self {
            Self::Node(node) => node.events(TOPICS).await,
            Self::Lab(lab) => lab.events(TOPICS).await,
        }
    }
}

enum News {
    Record(Box<api::live::Record>),
    /// The lab's hosts, by address.
    Hosts(BTreeMap<String, String>),
    /// It cannot be asked any more, for now.
    Gone(String),
    Key(KeyCode),
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let source = match &args.lab {
        Some(name) => Source::Lab(lab::client(Some(name.as_str()).filter(|name| !name.is_empty()))?),
        None => Source::Node(args.connection.client()?),
    };
    let draws = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if !args.once && !draws {
        return Err(Failure::bad_input("this is no terminal").hint("--once prints one picture").into());
    }
    // What cannot be reached at all is said at once, and not in a picture.
    let first = source.open().await.map_err(|error| args.connection.explain(error))?;
    let (sender, news) = mpsc::channel(QUEUE);
    let lab = match &source {
        Source::Lab(lab) => Some(lab.clone()),
        Source::Node(_) => args.connection.lab(),
    };
    let reading = tokio::spawn(read(source, first, sender.clone()));
    let asking = lab.map(|lab| tokio::spawn(ask(lab, sender.clone())));
    let outcome = if args.once { once(news).await } else { watch(sender, news).await };
    reading.abort();
    asking.iter().for_each(tokio::task::JoinHandle::abort);
    outcome
}

/// Asks a lab who its hosts are, now and then: some come later.
async fn ask(lab: api::LabClient, sender: mpsc::Sender<News>) {
    loop {
        if let Ok(status) = lab.status().await {
            let hosts = status.hosts.into_iter().map(|host| (host.address, host.name)).collect();
            if sender.send(News::Hosts(hosts)).await.is_err() {
                return;
            }
        }
        sleep(WHO).await;
    }
}

/// Reads news, and asks again when they end.
async fn read(source: Source, first: RecordStream, sender: mpsc::Sender<News>) {
    let mut stream = Some(first);
    loop {
        let gone = match &mut stream {
            Some(open) => match open.next().await {
                Ok(Some(record)) => {
                    if sender.send(News::Record(Box::new(record))).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(None) => "it has ended".to_owned(),
                Err(error) => error.to_string(),
            },
            None => match source.open().await {
                Ok(open) => {
                    stream = Some(open);
                    continue;
                }
                Err(error) => error.to_string(),
            },
        };
        stream = None;
        if sender.send(News::Gone(gone)).await.is_err() {
            return;
        }
        sleep(AGAIN).await;
    }
}

async fn watch(sender: mpsc::Sender<News>, mut news: mpsc::Receiver<News>) -> anyhow::Result<()> {
    let mut terminal = ratatui::try_init().context("the terminal cannot be drawn on")?;
    let keys = tokio::task::spawn_blocking(move || listen(&sender));
    let mut board = Board::default();
    let mut ticks = interval(DRAW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let outcome = loop {
        tokio::select! {
            some = news.recv() => match some {
                Some(News::Record(record)) => board.take(*record),
                Some(News::Hosts(hosts)) => board.meet(hosts),
                Some(News::Gone(why)) => board.gone(why),
                Some(News::Key(KeyCode::Char('q') | KeyCode::Esc)) | None => break Ok(()),
                Some(News::Key(key)) => board.key(key),
            },
            _ = ticks.tick() => {
                board.choose();
                if let Err(error) = terminal.draw(|frame| picture::draw(&board, Some(KEYS), true, frame)) {
                    break Err(error).context("the terminal cannot be drawn on");
                }
            }
        }
    };
    // Nobody takes keys any more, which ends the listening.
    drop(news);
    ratatui::restore();
    let _ = keys.await;
    outcome
}

/// Listens to the keyboard until nobody takes keys.
fn listen(sender: &mpsc::Sender<News>) {
    while !sender.is_closed() {
        if !matches!(event::poll(LISTEN), Ok(true)) {
            continue;
        }
        let Ok(Event::Key(key)) = event::read() else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        let stop = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        let code = if stop { KeyCode::Char('q') } else { key.code };
        if sender.blocking_send(News::Key(code)).is_err() {
            return;
        }
    }
}

/// One picture as text.
async fn once(mut news: mpsc::Receiver<News>) -> anyhow::Result<()> {
    let mut board = Board::default();
    let (time, width) = ONCE;
    let _over = tokio::time::timeout(time, async {
        while let Some(some) = news.recv().await {
            match some {
                News::Record(record) => board.take(*record),
                News::Hosts(hosts) => board.meet(hosts),
                News::Gone(why) => board.gone(why),
                News::Key(_) => {}
            }
        }
    })
    .await;
    board.choose();
    let nodes = u16::try_from(board.nodes().len()).unwrap_or(u16::MAX);
    let mut terminal = Terminal::new(TestBackend::new(width, nodes.saturating_add(picture::AROUND)))?;
    terminal.draw(|frame| picture::draw(&board, None, false, frame))?;
    let text = picture::text(terminal.backend().buffer());
    text.iter().for_each(|line| screen::say(line));
    Ok(())
}
