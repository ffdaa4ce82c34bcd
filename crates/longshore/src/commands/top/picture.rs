//! The board as a picture of characters.

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style, Stylize as _},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table},
};

use super::board::{Board, Giver, Map, Node};
use crate::quantity;

/// Colours that are told apart by those too who see some of them alike (Okabe and Ito). Of the origin there is one of
/// its own.
const PEERS: [Color; 6] = [
    Color::Rgb(86, 180, 233),
    Color::Rgb(0, 158, 115),
    Color::Rgb(204, 121, 167),
    Color::Rgb(240, 228, 66),
    Color::Rgb(0, 114, 178),
    Color::Rgb(148, 148, 148),
];
const ORIGIN: Color = Color::Rgb(213, 94, 0);
const STORE: Color = Color::DarkGray;

/// How wide the columns before the map of pieces are.
const COLUMNS: [u16; 7] = [12, 14, 14, 6, 6, 11, 6];

/// How many lines it takes besides one for each node.
pub(super) const AROUND: u16 = 4;

/// The picture, and the keys where there are any.
pub(super) fn draw(board: &Board, keys: Option<&'static str>, frame: &mut Frame<'_>) {
    let foot = 1 + u16::from(keys.is_some());
    let areas = Layout::vertical([Constraint::Length(2), Constraint::Min(2), Constraint::Length(foot)]);
    let [head, body, foot] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(heading(board)), head);
    let before: u16 = COLUMNS.iter().map(|width| width + 1).sum();
    let map = usize::from(body.width.saturating_sub(before).max(8));
    let chosen = board.chosen().map(|(_, (hash, _, _))| hash);
    let rows = board.nodes().iter().map(|(name, node)| row(board, name, node, chosen.as_deref(), map));
    let mut widths: Vec<Constraint> = COLUMNS.iter().map(|width| Constraint::Length(*width)).collect();
    widths.push(Constraint::Min(8));
    let titles = ["node", "down", "up", "peers", "blobs", "to clients", "here", "pieces, by who gave them"];
    let table =
        Table::new(rows, widths).header(Row::new(titles).style(Style::new().add_modifier(Modifier::BOLD)));
    frame.render_widget(table, body);
    frame.render_widget(
        Paragraph::new(
            [legend(board)].into_iter().chain(keys.map(|keys| keys.dark_gray().into())).collect::<Vec<_>>(),
        ),
        foot,
    );
}

/// The fleet in a line, and the torrent whose pieces are shown.
fn heading(board: &Board) -> Vec<Line<'static>> {
    let (down, up) =
        board.nodes().values().map(Node::rates).fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
    let origin: u64 =
        board.nodes().values().filter_map(|n| n.status.as_ref()).map(|s| s.totals.from_origins).sum();
    let mut first = vec![
        Span::from("Longshore").bold(),
        format!("  {}", quantity::count(board.nodes().len(), "node")).into(),
        format!("  down {}  up {}", quantity::rate(down as f64), quantity::rate(up as f64)).into(),
        Span::from(format!("  from origins {}", quantity::size(origin))).fg(ORIGIN),
    ];
    if let Some(why) = board.why_gone() {
        first.push(Span::from(format!("  cannot be asked: {}", plain(why))).red());
    }
    let second = match board.chosen() {
        Some((place, (hash, name, size))) => {
            let count = board.torrents().len();
            let name = plain(&name).chars().take(40).collect::<String>();
            format!(
                "torrent {} of {count}: {name}  {}  {}",
                place + 1,
                quantity::size(size),
                &hash[..8.min(hash.len())]
            )
        }
        None => "no torrent moves".to_owned(),
    };
    vec![first.into(), second.into()]
}

fn row(board: &Board, name: &str, node: &Node, chosen: Option<&str>, width: usize) -> Row<'static> {
    let (down, up) = node.rates();
    let totals = node.status.as_ref().map(|status| status.totals).unwrap_or_default();
    let map = chosen.and_then(|hash| node.maps.get(hash));
    let here = match map {
        Some(map) => map.stretch(0, map.pieces.len()).0,
        None => f64::from(u8::from(chosen.is_some_and(|hash| node.is_whole(hash)))),
    };
    let pieces = match (&node.lost, map) {
        (Some(why), _) => Line::from(Span::from(plain(why)).red()),
        (None, Some(map)) => stripe(board, map, width),
        (None, None) if here > 0.0 => Line::from(Span::from("━".repeat(width)).fg(STORE)),
        (None, None) => Line::default(),
    };
    let moves = |rate: u64| if rate == 0 { String::new() } else { quantity::rate(rate as f64) };
    Row::new([
        Cell::from(plain(name)),
        Cell::from(moves(down)),
        Cell::from(moves(up)),
        Cell::from(totals.peers.to_string()),
        Cell::from(totals.blobs.to_string()),
        Cell::from(quantity::size(totals.to_clients)),
        Cell::from(if here > 0.0 { format!("{:.0}%", (here * 100.0).floor()) } else { String::new() }),
        Cell::from(pieces),
    ])
}

/// The pieces from the first to the last, each place a stretch of them.
fn stripe(board: &Board, map: &Map, width: usize) -> Line<'static> {
    let count = map.pieces.len();
    let place = |at: usize| {
        let (here, giver) = map.stretch(at * count / width, ((at + 1) * count).div_ceil(width));
        let sign = match here {
            part if part <= 0.0 => " ",
            part if part < 0.5 => "░",
            part if part < 1.0 => "▒",
            _ => "█",
        };
        Span::from(sign).fg(giver.map_or(Color::Reset, |giver| colour(board, giver)))
    };
    (0..width).map(place).collect::<Vec<_>>().into()
}

/// A node keeps its colour: that of its place among the nodes.
fn colour(board: &Board, giver: &Giver) -> Color {
    let of_place = |place: usize| PEERS.get(place % PEERS.len()).copied().unwrap_or(Color::Reset);
    match giver {
        Giver::Origin => ORIGIN,
        Giver::Store => STORE,
        Giver::Directory => Color::Rgb(230, 159, 0),
        Giver::Peer(id) => match board.name_of(id) {
            Some(name) => of_place(board.nodes().keys().position(|known| known == name).unwrap_or(0)),
            None => of_place(id.bytes().fold(0, |sum, byte| sum + usize::from(byte))),
        },
    }
}

fn legend(board: &Board) -> Line<'static> {
    let mut signs = vec![Span::from("█ origin ").fg(ORIGIN), Span::from("━ was here ").fg(STORE)];
    for name in board.nodes().keys().take(PEERS.len() * 2) {
        let named = board.nodes().keys().position(|known| known == name).unwrap_or(0);
        let colour = PEERS.get(named % PEERS.len()).copied().unwrap_or(Color::Reset);
        signs.push(Span::from(format!("█ {} ", plain(name))).fg(colour));
    }
    signs.into()
}

/// Names come from others: nothing in them may steer the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

/// The picture as lines, for what is no terminal.
pub(super) fn text(buffer: &Buffer) -> Vec<String> {
    let area = buffer.area;
    let line = |y: u16| {
        let cells = (area.left()..area.right()).filter_map(|x| buffer.cell((x, y)).map(|cell| cell.symbol()));
        cells.collect::<String>().trim_end().to_owned()
    };
    let mut lines: Vec<String> = (area.top()..area.bottom()).map(line).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

#[cfg(test)]
mod tests {
    use api::live::{News, Record};
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    #[test]
    fn names_do_not_steer_the_terminal_and_little_room_is_no_trouble() {
        let mut board = Board::default();
        let news = News::Lost { error: "\u{1b}[2Jgone".into() };
        board.take(Record { node: "n\u{1b}]0;x\u{7}1".into(), at_ms: 0, news });
        for (width, height) in [(100, 20), (20, 4), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a picture");
            terminal.draw(|frame| draw(&board, Some("q quits"), frame)).expect("drawn");
            let lines = text(terminal.backend().buffer());
            assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "{lines:?}");
            if width == 100 {
                assert!(lines.iter().any(|line| line.contains("[2Jgone")), "{lines:?}");
            }
        }
    }
}
