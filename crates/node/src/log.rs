//! The last lines of the process's log, for people who look at the node from elsewhere.

use std::{
    collections::VecDeque,
    sync::{Mutex, OnceLock, PoisonError},
};

use serde::Serialize;

use crate::content::now_ms;

/// How many lines are kept, and of each how many bytes.
const MOST: usize = 2000;
const LONGEST: usize = 4096;

/// The lines. There is one log in a process, and one of these.
#[derive(Default)]
pub struct LogBook(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    kept: VecDeque<LogLine>,
    next: u64,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LogLine {
    seq: u64,
    at_ms: u64,
    level: String,
    text: String,
}

/// Some lines.
#[derive(Debug, Serialize)]
pub(crate) struct LogPage {
    lines: Vec<LogLine>,
    /// What to ask for next.
    next: u64,
}

/// The process's log book.
pub fn log_book() -> &'static LogBook {
    static BOOK: OnceLock<LogBook> = OnceLock::new();
    BOOK.get_or_init(LogBook::default)
}

impl LogBook {
    /// Notes a line, without the codes that colour it.
    pub fn note(&self, level: &str, line: &str) {
        let mut text = plain(line.trim_end());
        if text.len() > LONGEST {
            text.truncate(text.floor_char_boundary(LONGEST));
            text.push('…');
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = lines.next;
        lines.next += 1;
        if lines.kept.len() >= MOST {
            lines.kept.pop_front();
        }
        lines.kept.push_back(LogLine { seq, at_ms: now_ms(), level: level.to_lowercase(), text });
    }

    /// Lines from the one of that number on, as far as they are kept.
    pub(crate) fn from(&self, seq: u64) -> LogPage {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = lines.kept.iter().filter(|line| line.seq >= seq).cloned().collect();
        LogPage { lines: kept, next: lines.next }
    }
}

/// Without escape sequences (ECMA-48) and other control characters.
fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len().min(LONGEST));
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            '\u{1b}' => {
                if chars.next() == Some('[') {
                    // Up to the letter that ends it.
                    let _ = chars.by_ref().find(char::is_ascii_alphabetic);
                }
            }
            '\n' | '\t' => plain.push(' '),
            char if char.is_control() => {}
            char => plain.push(char),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_plain_and_not_kept_without_end() {
        let book = LogBook::default();
        book.note("WARN", "\u{1b}[33mdisk\u{1b}[0m \u{7}full\n");
        assert_eq!(book.from(0).lines[0].text, "disk full");
        assert_eq!(book.from(0).lines[0].level, "warn");
        (0..MOST).for_each(|n| book.note("INFO", &n.to_string()));
        let page = book.from(0);
        assert_eq!((page.lines.len(), page.lines[0].text.as_str(), page.next), (MOST, "0", MOST as u64 + 1));
        assert_eq!(book.from(page.next - 1).lines.len(), 1);
        assert!(book.from(page.next).lines.is_empty());
        book.note("INFO", &"ä".repeat(LONGEST));
        assert!(book.from(page.next).lines[0].text.len() <= LONGEST + 3);
    }
}
