//! containerd's `hosts.toml`: the hosts that are asked for a registry, in the order in which they stand there.

use toml_edit::Item;

use crate::{
    part::{EditError, Edited},
    tables,
};

/// Puts our host in front of the others; `None` if it is there.
pub(crate) fn insert(text: &str, url: &str) -> Result<Option<Edited>, EditError> {
    if is_named(text, url)? {
        return Ok(None);
    }
    let block = format!("[host.{}]\ncapabilities = [\"pull\", \"resolve\"]\n", tables::quote(url));
    let document = tables::read(text)?;
    Ok(Some(match document.get("host").and_then(tables::first_header) {
        Some(header) => {
            let at = tables::above_comments(text, header);
            Edited::replace(text, at, at, format!("{block}\n"))
        }
        None => Edited::replace(text, text.len(), text.len(), format!("{}{block}", tables::gap(text))),
    }))
}

/// Takes our host out, with what others have added to it.
pub(crate) fn remove(text: &str, url: &str) -> Result<String, EditError> {
    let document = tables::read(text)?;
    let hosts = document.get("host").and_then(Item::as_table);
    let ours = hosts.and_then(|hosts| hosts.iter().find(|(name, _)| same(name, url)));
    let lines = ours.and_then(|(_, host)| tables::lines(text, host.as_table()?));
    Ok(lines.and_then(|lines| tables::cut(text, &lines)).unwrap_or_else(|| text.to_owned()))
}

/// Whether a `hosts.toml` names the mirror.
///
/// # Errors
/// The text is no TOML.
pub fn is_named(text: &str, url: &str) -> Result<bool, EditError> {
    let values = tables::values(text)?;
    let hosts = values.get("host").and_then(toml::Value::as_table);
    Ok(hosts.is_some_and(|hosts| hosts.keys().any(|name| same(name, url))))
}

/// What it says besides.
pub(crate) fn rest(text: &str, url: &str) -> Result<toml::Table, EditError> {
    let mut values = tables::values(text)?;
    if let Some(hosts) = values.get_mut("host").and_then(toml::Value::as_table_mut) {
        hosts.retain(|name, _| !same(name, url));
    }
    // A table of hosts without any says nothing.
    values.retain(|name, value| name != "host" || value.as_table().is_none_or(|hosts| !hosts.is_empty()));
    Ok(values)
}

fn same(name: &str, url: &str) -> bool {
    name.trim_end_matches('/') == url
}
