//! TOML with the places where things stand in its text.

use std::ops::Range;

use toml_edit::{Document, Item, Table, TableLike};

use crate::part::EditError;

/// Reads a text with its places.
pub(crate) fn read(text: &str) -> Result<Document<&str>, EditError> {
    Document::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.as_bytes().get(..at).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        EditError::Syntax { line, what: error.message().replace('\n', ", ") }
    })
}

/// Reads what a text says.
pub(crate) fn values(text: &str) -> Result<toml::Table, EditError> {
    // The same parser, but its errors have no places.
    read(text)?;
    text.parse()
        .map_err(|error: toml::de::Error| EditError::Syntax { line: 1, what: error.message().to_owned() })
}

/// Tables without the empty ones.
pub(crate) fn prune(table: toml::Table) -> toml::Table {
    let pruned = table.into_iter().filter_map(|(key, value)| match value {
        toml::Value::Table(inner) => {
            let inner = prune(inner);
            (!inner.is_empty()).then_some((key, toml::Value::Table(inner)))
        }
        value => Some((key, value)),
    });
    pruned.collect()
}

/// Where headers of this item and of those in it begin.
pub(crate) fn first_header(item: &Item) -> Option<usize> {
    let of = |table: &Table| {
        let own = (!table.is_implicit() && !table.is_dotted()).then(|| table.span()).flatten();
        let inner = table.iter().filter_map(|(_, item)| first_header(item)).min();
        own.map(|span| span.start).into_iter().chain(inner).min()
    };
    match item {
        Item::Table(table) => of(table),
        Item::ArrayOfTables(tables) => tables.iter().filter_map(of).min(),
        _ => None,
    }
}

/// The lines of a table with header, with its tables in it if they follow at once.
pub(crate) fn lines(text: &str, table: &Table) -> Option<Range<usize>> {
    let start = line_start(text, table.span()?.start);
    Some(start..line_end(text, end(table)))
}

/// The line of a key with its value.
pub(crate) fn line(text: &str, table: &dyn TableLike, key: &str) -> Option<Range<usize>> {
    let (key, value) = table.get_key_value(key)?;
    Some(line_start(text, key.span()?.start)..line_end(text, value.span()?.end))
}

/// Where the last thing of a table ends.
fn end(table: &Table) -> usize {
    let own = table.span().map_or(0, |span| span.end);
    let inner = table.iter().map(|(_, item)| match item {
        Item::Table(table) => end(table),
        Item::ArrayOfTables(tables) => tables.iter().map(end).max().unwrap_or(0),
        item => item.span().map_or(0, |span| span.end),
    });
    inner.chain([own]).max().unwrap_or(own)
}

/// The start of the line, and of the comments right above it.
pub(crate) fn above_comments(text: &str, at: usize) -> usize {
    let mut start = line_start(text, at);
    while let Some(head) = text.get(..start).filter(|head| !head.is_empty()) {
        let above = line_start(head, head.len() - 1);
        if !head.get(above..).is_some_and(|line| line.trim_start().starts_with('#')) {
            break;
        }
        start = above;
    }
    start
}

pub(crate) fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|head| head.rfind('\n')).map_or(0, |newline| newline + 1)
}

pub(crate) fn line_end(text: &str, at: usize) -> usize {
    text.get(at..).and_then(|rest| rest.find('\n')).map_or(text.len(), |newline| at + newline + 1)
}

/// What goes between a text and a block behind it.
pub(crate) fn gap(text: &str) -> &'static str {
    match text {
        "" => "",
        text if text.ends_with("\n\n") => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    }
}

/// The text with `new` in place of `old`, which must stand in it once.
pub(crate) fn swap_once(text: &str, old: &str, new: &str) -> Option<String> {
    let mut found = text.match_indices(old);
    let once = !old.is_empty() && found.next().is_some() && found.next().is_none();
    once.then(|| text.replacen(old, new, 1))
}

/// The text without a range of it.
pub(crate) fn cut(text: &str, range: &Range<usize>) -> Option<String> {
    Some(format!("{}{}", text.get(..range.start)?, text.get(range.end..)?))
}

/// A string as TOML writes it.
pub(crate) fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
