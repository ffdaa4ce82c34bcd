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
const DIRECTORY: Color = Color::Rgb(230, 159, 0);
/// Peers where there are more of them than colours, or no colours at all; D and O are the directory and the origin.
const LETTERS: &str = "ABCEFGHIJKLMNPQRSTUVWXYZ";
const OTHERS: char = '+';

/// What is shown of a node before its pieces: title, width, whether it is of the torrent alone, and the rank by which
/// columns are left out where there is little room, the last first.
const COLUMNS: [(&str, u16, bool, u8); 7] = [
    ("node", 12, false, 0),
    ("down", 13, false, 2),
    ("up", 13, false, 3),
    ("peers", 5, false, 4),
    ("blobs", 5, false, 6),
    ("to clients", 11, false, 5),
    ("here", 4, true, 1),
];
/// The least room for the pieces for which columns are left out.
const LEAST_MAP: u16 = 12;

/// How many lines it takes besides one for each node.
pub(super) const AROUND: u16 = 5;

/// The picture, and the keys where there are any. Where there are no colours, letters tell givers apart.
pub(super) fn draw(board: &Board, keys: Option<&'static str>, colours: bool, frame: &mut Frame<'_>) {
    let foot = 1 + u16::from(keys.is_some());
    let areas = Layout::vertical([Constraint::Length(2), Constraint::Min(3), Constraint::Length(foot)]);
    let [head, body, foot] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(heading(board, usize::from(head.width))), head);
    let [groups, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(2)]).areas(body);
    let columns = columns(body.width);
    let before = |torrent: bool| -> usize {
        let widths = columns.iter().filter(|at| COLUMNS[**at].2 == torrent).map(|at| COLUMNS[*at].1 + 1);
        widths.map(usize::from).sum()
    };
    let map = usize::from(body.width).saturating_sub(before(false) + before(true)).max(8);
    let over = |title: &str, width: usize| {
        let line = title.chars().chain([' ']).chain(std::iter::repeat('─')).take(width.saturating_sub(1));
        Span::from(line.chain([' ']).collect::<String>()).dark_gray()
    };
    let titles = [over("of the whole node", before(false)), over("of this torrent", before(true) + map)];
    frame.render_widget(Paragraph::new(Line::from_iter(titles)), groups);
    let chosen = board.chosen().map(|(shown, ..)| shown.info_hash);
    let marks = Marks::of(board, chosen.as_deref(), colours);
    let rows = board.nodes().iter().map(|(name, node)| {
        let (cells, pieces) = row(name, node, chosen.as_deref(), map, &marks);
        let cells = columns.iter().filter_map(|at| cells.get(*at)).cloned().map(Cell::from);
        Row::new(cells.chain([Cell::from(pieces)]).collect::<Vec<_>>())
    });
    let mut widths: Vec<Constraint> = columns.iter().map(|at| Constraint::Length(COLUMNS[*at].1)).collect();
    widths.push(Constraint::Min(8));
    let titles = columns.iter().map(|at| COLUMNS[*at].0).chain(["pieces, by who gave them"]);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Table::new(rows, widths).header(Row::new(titles).style(bold)), body);
    let legend = marks.legend(usize::from(foot.width));
    let keys = keys.map(|keys| keys.dark_gray().into());
    frame.render_widget(Paragraph::new([legend].into_iter().chain(keys).collect::<Vec<_>>()), foot);
}

/// The columns for which there is room.
fn columns(width: u16) -> Vec<usize> {
    let mut ranked: Vec<usize> = (0..COLUMNS.len()).collect();
    ranked.sort_by_key(|at| COLUMNS[*at].3);
    let mut room = width.saturating_sub(LEAST_MAP);
    let fits = |at: &usize| match room.checked_sub(COLUMNS[*at].1 + 1) {
        Some(rest) => {
            room = rest;
            true
        }
        None => false,
    };
    let mut columns: Vec<usize> = ranked.into_iter().take_while(fits).collect();
    columns.sort_unstable();
    columns
}

/// The fleet in a line, and the torrent whose pieces are shown.
fn heading(board: &Board, width: usize) -> Vec<Line<'static>> {
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
        Some((shown, place, count)) => {
            let before = format!("torrent {} of {count}: ", place + 1);
            let size = if shown.size > 0 { quantity::size(shown.size) } else { "size not known".to_owned() };
            let after = format!("  {size}  {}", shown.info_hash.get(..8).unwrap_or_default());
            let room = width.saturating_sub(before.chars().count() + after.chars().count()).max(8);
            let name = if shown.name.is_empty() { "name not known" } else { &shown.name };
            format!("{before}{}{after}", shortened(&plain(name), room.min(60)))
        }
        None => "no torrent moves".to_owned(),
    };
    vec![first.into(), second.into()]
}

/// The cells of all columns, and the pieces.
fn row(
    name: &str,
    node: &Node,
    chosen: Option<&str>,
    width: usize,
    marks: &Marks<'_>,
) -> ([String; 7], Line<'static>) {
    let (down, up) = node.rates();
    let totals = node.status.as_ref().map(|status| status.totals).unwrap_or_default();
    let map = chosen.and_then(|hash| node.maps.get(hash));
    let here = match map {
        Some(map) => map.stretch(0, map.pieces.len()).0,
        None => f64::from(u8::from(chosen.is_some_and(|hash| node.is_whole(hash)))),
    };
    let pieces = match (&node.lost, map) {
        (Some(why), _) => Line::from(Span::from(plain(why)).red()),
        (None, Some(map)) => stripe(map, width, marks),
        (None, None) if here > 0.0 => Line::from(Span::from("━".repeat(width)).fg(STORE)),
        (None, None) => Line::default(),
    };
    let moves = |rate: u64| if rate == 0 { String::new() } else { quantity::rate(rate as f64) };
    let cells = [
        shortened(&plain(name), usize::from(COLUMNS[0].1)),
        moves(down),
        moves(up),
        totals.peers.to_string(),
        totals.blobs.to_string(),
        quantity::size(totals.to_clients),
        if here > 0.0 { format!("{:.0}%", (here * 100.0).floor()) } else { String::new() },
    ];
    (cells, pieces)
}

/// The pieces from the first to the last, each place a stretch of them.
fn stripe(map: &Map, width: usize, marks: &Marks<'_>) -> Line<'static> {
    let count = map.pieces.len();
    let place = |at: usize| match map.stretch(at * count / width, ((at + 1) * count).div_ceil(width)) {
        (here, Some(giver)) if here > 0.0 => marks.sign(giver, here),
        _ => Span::from(" "),
    };
    (0..width).map(place).collect::<Vec<_>>().into()
}

fn legend_line(signs: Vec<Span<'static>>, width: usize) -> Line<'static> {
    let length = |sign: &Span<'_>| sign.content.chars().count() + 2;
    let all: usize = signs.iter().map(length).sum();
    // What does not fit is counted, for which there must be room too.
    let room = if all <= width + 2 { usize::MAX } else { width.saturating_sub(5) };
    let (mut line, mut used, count) = (Vec::new(), 0, signs.len());
    for (at, sign) in signs.into_iter().enumerate() {
        used += length(&sign);
        if used > room.saturating_add(2) {
            line.push(Span::from(format!("+{}", count - at)));
            break;
        }
        line.extend([sign, Span::from("  ")]);
    }
    line.into()
}

/// How givers are told apart: by colours as long as there are enough of them, and otherwise by letters.
struct Marks<'a> {
    board: &'a Board,
    /// All who gave something of the torrent.
    givers: &'a [Giver],
    /// The peers among them: nodes that are shown by their names, and then the others as they came.
    peers: Vec<&'a Giver>,
    letters: bool,
}

impl<'a> Marks<'a> {
    fn of(board: &'a Board, chosen: Option<&str>, colours: bool) -> Self {
        let givers = chosen.map_or(&[][..], |hash| board.givers(hash));
        Self::among(board, givers, colours)
    }

    fn among(board: &'a Board, givers: &'a [Giver], colours: bool) -> Self {
        let mut peers: Vec<_> = givers.iter().filter(|giver| matches!(giver, Giver::Peer(..))).collect();
        // So that n2 comes before n10.
        peers.sort_by_cached_key(|giver| {
            board.name_of(giver).map_or((true, 0, ""), |name| (false, name.len(), name))
        });
        let letters = !colours || peers.len() > PEERS.len();
        Self { board, givers, peers, letters }
    }

    /// What stands for a stretch of pieces of which a part is here.
    fn sign(&self, giver: &Giver, here: f64) -> Span<'static> {
        let colour = self.colour(giver);
        let whole = here >= 1.0;
        if *giver == Giver::Store {
            return Span::from(if whole { "━" } else { "╌" }).fg(colour);
        }
        if self.letters {
            let letter = self.letter(giver);
            return Span::from(if whole { letter } else { letter.to_ascii_lowercase() }.to_string())
                .fg(colour);
        }
        let block = match here {
            part if part < 0.5 => "░",
            part if part < 1.0 => "▒",
            _ => "█",
        };
        Span::from(block).fg(colour)
    }

    /// A peer's place among the peers that gave.
    fn place(&self, giver: &Giver) -> Option<usize> {
        self.peers.iter().position(|known| known.is_same(giver))
    }

    fn letter(&self, giver: &Giver) -> char {
        match giver {
            Giver::Origin => 'O',
            Giver::Directory => 'D',
            Giver::Store => '━',
            Giver::Peer(..) => {
                self.place(giver).and_then(|place| LETTERS.chars().nth(place)).unwrap_or(OTHERS)
            }
        }
    }

    fn colour(&self, giver: &Giver) -> Color {
        match giver {
            Giver::Origin => ORIGIN,
            Giver::Store => STORE,
            Giver::Directory => DIRECTORY,
            Giver::Peer(..) => match self.place(giver) {
                Some(place) => PEERS.get(place % PEERS.len()).copied().unwrap_or(Color::Reset),
                None => Color::Reset,
            },
        }
    }

    fn legend(&self, width: usize) -> Line<'static> {
        let mut fixed = vec![Giver::Origin];
        fixed.extend(self.givers.contains(&Giver::Directory).then_some(Giver::Directory));
        let names = [(Giver::Origin, "origin"), (Giver::Directory, "directory")];
        let named =
            |giver: &Giver| names.iter().find(|(known, _)| known == giver).map_or("", |(_, name)| name);
        let sign = |giver: &Giver, name: &str| {
            Span::from(format!("{} {name}", self.sign(giver, 1.0).content)).fg(self.colour(giver))
        };
        let mut signs: Vec<_> = fixed.iter().map(|giver| sign(giver, named(giver))).collect();
        signs.push(Span::from("━ on this host").fg(STORE));
        signs.push(Span::from(if self.letters { "small: in part" } else { "░▒ in part" }));
        signs.extend(self.peers.iter().take(LETTERS.len()).map(|giver| sign(giver, &self.name(giver))));
        if self.peers.len() > LETTERS.len() {
            signs.push(Span::from(format!("{OTHERS} {} others", self.peers.len() - LETTERS.len())));
        }
        legend_line(signs, width)
    }

    /// What is known of a peer: its name; or its host, with the port where several are there; or its id.
    fn name(&self, giver: &Giver) -> String {
        let Giver::Peer(id, address) = giver else { return String::new() };
        if let Some(name) = self.board.name_of(giver) {
            return plain(name);
        }
        let host = |address: &Option<String>| {
            address.as_deref().and_then(|a| a.rsplit_once(':')).map(|(host, _)| host.to_owned())
        };
        let Some(full) = address else {
            return id.chars().take(8).collect();
        };
        let own = host(address);
        let alike =
            self.peers.iter().filter(|peer| matches!(peer, Giver::Peer(_, other) if host(other) == own));
        let several = alike.count() > 1;
        plain(&own.filter(|_| !several).unwrap_or_else(|| full.clone()))
    }
}

/// At most so many characters of it.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
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
    use api::{
        live::{News, Record},
        node::{Source, SourceKind},
    };
    use ratatui::{Terminal, backend::TestBackend};

    use super::{super::board::tests::blocks, *};

    #[test]
    fn names_do_not_steer_the_terminal_and_little_room_is_no_trouble() {
        let mut board = Board::default();
        let news = News::Lost { error: "\u{1b}[2Jgone".into() };
        board.take(Record { node: "n\u{1b}]0;x\u{7}1".into(), at_ms: 0, news });
        for (width, height) in [(100, 20), (20, 4), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a picture");
            terminal.draw(|frame| draw(&board, Some("q quits"), true, frame)).expect("drawn");
            let lines = text(terminal.backend().buffer());
            assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "{lines:?}");
            if width == 100 {
                assert!(lines.iter().any(|line| line.contains("[2Jgone")), "{lines:?}");
            }
        }
    }

    fn pictured(board: &Board, width: u16, colours: bool) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, 12)).expect("a picture");
        terminal.draw(|frame| draw(board, None, colours, frame)).expect("drawn");
        text(terminal.backend().buffer())
    }

    /// Of a torrent of 24 pieces, of which each of so many peers gave one, and the origin the others.
    fn given_by(peers: u32) -> Board {
        let mut record = blocks(0, &(0..24).map(|piece| (piece, piece.min(peers))).collect::<Vec<_>>());
        if let News::Blocks(blocks) = &mut record.news {
            blocks.size = 24 * 16384;
            let peer = |at: u32| Source {
                kind: SourceKind::Peer,
                peer: Some(format!("10.0.0.{at}:6881")),
                peer_id: Some(format!("{at:040}")),
            };
            let origin = Source { kind: SourceKind::Origin, peer: None, peer_id: None };
            blocks.sources = (0..peers).map(peer).chain([origin]).collect();
        }
        let mut board = Board::default();
        board.take(record);
        board
    }

    #[test]
    fn givers_are_letters_without_colours_and_where_there_are_more_of_them_than_colours() {
        let (twelve, two) = (given_by(12), given_by(2));
        for (board, colours) in [(&twelve, true), (&twelve, false)] {
            let all = pictured(board, 200, colours).join("\n");
            for letter in "ABCEFGHIJKLM".chars().chain(['O']) {
                assert!(all.contains(&letter.to_string().repeat(3)), "{letter}: {all}");
            }
            assert!(all.contains("M 10.0.0.11") && !all.contains('█'), "{all}");
        }
        assert!(pictured(&two, 200, false).join("\n").contains("AAA"));
        let blocks = pictured(&two, 200, true).join("\n");
        assert!(
            blocks.contains("███") && blocks.contains("█ 10.0.0.1") && !blocks.contains("AAA"),
            "{blocks}"
        );
    }

    #[test]
    fn what_does_not_fit_into_the_legend_is_counted() {
        let legend = |width| pictured(&given_by(12), width, false).pop().expect("a line");
        let (narrow, wide) = (legend(60), legend(220));
        assert!(wide.contains("small: in part") && wide.ends_with("M 10.0.0.11"), "{wide}");
        assert!(narrow.ends_with("+11") && narrow.contains("A 10.0.0.0"), "{narrow}");
        assert!(pictured(&given_by(2), 200, true).pop().expect("a line").contains("░▒ in part"));
    }

    #[test]
    fn little_room_leaves_columns_out_and_cuts_no_rate() {
        let mut board = given_by(1);
        let link = |rate| api::live::Link {
            peer_id: "x".into(),
            address: String::new(),
            client: String::new(),
            torrents: 1,
            down_bytes: 0,
            up_bytes: 0,
            down_rate: rate,
            up_rate: rate,
        };
        let news = News::Links { all: true, changed: vec![link((1 << 30) - 5000)], gone: Vec::new() };
        board.take(Record { node: "n1".into(), at_ms: 0, news });
        for width in [44, 60, 80, 110, 200] {
            let lines = pictured(&board, width, false);
            let row = lines.iter().find(|line| line.starts_with("n1")).expect("a row");
            let rates = if width < 60 { 1 } else { 2 };
            assert_eq!(row.matches("1024.00 MiB/s").count(), rates, "{lines:?}");
        }
        let lines = pictured(&board, 110, false);
        assert!(lines[2].starts_with("of the whole node ─") && lines[2].contains("─ of this torrent ─"));
    }

    #[test]
    fn a_port_is_named_where_a_host_has_several_peers() {
        let peer = |port| Giver::Peer(format!("{port}"), Some(format!("10.0.0.1:{port}")));
        let (board, givers) = (Board::default(), [peer(1), peer(2)]);
        let name = |givers| Marks::among(&board, givers, true).name(&peer(1));
        assert_eq!((name(&givers[..1]), name(&givers)), ("10.0.0.1".to_owned(), "10.0.0.1:1".to_owned()));
    }

    #[test]
    fn a_peer_that_is_not_shown_has_the_name_of_the_labs_host() {
        let mut board = Board::default();
        let giver = Giver::Peer("aa".into(), Some("127.0.1.3:40000".into()));
        let name = |board: &Board| Marks::among(board, std::slice::from_ref(&giver), true).name(&giver);
        assert_eq!(name(&board), "127.0.1.3");
        board.meet([("127.0.1.3".to_owned(), "n1".to_owned())].into());
        assert_eq!(name(&board), "n1");
    }

    #[test]
    fn marks_follow_the_names_of_nodes_and_strangers_come_last() {
        let mut board = Board::default();
        for name in ["n10", "n2"] {
            let text =
                format!(r#"{{"node":"{name}","peer_id":"{name}","version":"","uptime":0,"totals":{{}}}}"#);
            let status = serde_json::from_str(&text).expect("a status");
            board.take(Record { node: name.into(), at_ms: 0, news: News::Status { status } });
        }
        let givers = ["zz", "n10", "n2"].map(|id| Giver::Peer(id.into(), None));
        let marks = Marks::among(&board, &givers, false);
        assert_eq!(givers.each_ref().map(|giver| marks.letter(giver)), ['C', 'B', 'A']);
    }
}
