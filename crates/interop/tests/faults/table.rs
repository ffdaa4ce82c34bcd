//! What was tried, client by client, as a table for people.

use std::{
    env,
    fmt::{Display, Write as _},
    fs,
    io::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{cell::Verdict, client::Client};

/// How many pulls are tried at once: most of them wait.
const AT_ONCE: usize = 8;

/// The clients that are wanted and here.
fn clients() -> Vec<Client> {
    let wanted = env::var("LONGSHORE_CLIENTS").unwrap_or_else(|_| "skopeo".to_owned());
    let wanted =
        |client: &Client| wanted == "all" || wanted.split(',').any(|name| name == client.to_string());
    Client::ALL.into_iter().filter(wanted).filter(|client| client.is_here()).collect()
}

/// Tries each row with each client, tells of it, and fails where something is worse than without a mirror.
pub(crate) fn fill<R: Display + Sync>(
    name: &str,
    rows: &[R],
    attempt: impl Fn(Client, &R) -> Verdict + Sync,
) {
    let clients = clients();
    // `LONGSHORE_FAULTS`: only rows in whose words this stands.
    let part = env::var("LONGSHORE_FAULTS").unwrap_or_default();
    let rows: Vec<&R> = rows.iter().filter(|row| row.to_string().contains(&part)).collect();
    let cells: Vec<(usize, usize)> =
        (0..rows.len()).flat_map(|row| (0..clients.len()).map(move |column| (row, column))).collect();
    let (next, verdicts) = (AtomicUsize::new(0), Mutex::new(vec![None; cells.len()]));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((row, column)) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = attempt(clients[*column], rows[*row]);
                    let at = row * clients.len() + column;
                    verdicts.lock().expect("no panic")[at] = Some(verdict);
                }
            });
        }
    });
    let verdicts: Vec<Verdict> =
        verdicts.into_inner().expect("no panic").into_iter().map(|verdict| verdict.expect("tried")).collect();
    let mut text = format!("| {name} |");
    for client in &clients {
        let _ = write!(text, " {client} |");
    }
    text += &format!("\n|---|{}\n", "---|".repeat(clients.len()));
    let mut worse = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let _ = write!(text, "| {row} |");
        for (column, client) in clients.iter().enumerate() {
            let verdict = &verdicts[number * clients.len() + column];
            let _ = write!(text, " {} |", verdict.cell);
            worse.extend(verdict.worse.iter().map(|why| format!("{client}, {row}: {why}")));
        }
        text.push('\n');
    }
    println!("\n{text}");
    if let Some(path) = env::var_os("LONGSHORE_TABLE") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("the table's file");
        writeln!(file, "{text}").expect("written");
    }
    assert!(worse.is_empty(), "worse than without a mirror:\n{}", worse.join("\n"));
}
