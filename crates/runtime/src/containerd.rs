//! containerd's `config.toml`: where the plugin for Kubernetes finds the folder with `hosts.toml`.

use toml_edit::{Item, Table};

use crate::{
    part::{EditError, Edited},
    tables,
};

const KEY: &str = "config_path";

/// The plugin's names, as configurations of version 1, 2 and 3 know it.
const PLUGINS: [&str; 3] = ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"];

/// Sets the folder where none is set; `None` if it is set to this one.
pub(crate) fn insert(text: &str, folder: &str) -> Result<Option<Edited>, EditError> {
    if is_named(text, folder)? {
        return Ok(None);
    }
    let values = tables::values(text)?;
    if let Some(set) = folder_of(&values) {
        return Err(EditError::Conflict(format!("{KEY} is set to {set} there already")));
    }
    let fresh = values.is_empty();
    let plugin = plugin(&values)?;
    if let Some(old) = registry(&values, plugin)
        && let Some(key) = ["mirrors", "configs"].into_iter().find(|key| old.get(*key).is_some_and(is_set))
    {
        return Err(EditError::Conflict(format!(
            "the registry has `{key}` there, which containerd refuses beside {KEY}: move that to files hosts.toml in \
             {folder} first"
        )));
    }
    let line = format!("{KEY} = {}\n", tables::quote(folder));
    let document = tables::read(text)?;
    let table = item(&document, plugin);
    if let Some(table) = table {
        if let Some(range) = table.as_table_like().and_then(|table| tables::line(text, table, KEY)) {
            // It is there and empty.
            let indent = indent(text, range.start);
            return Ok(Some(Edited::replace(text, range.start, range.end, format!("{indent}{line}"))));
        }
        if let Some(header) = table.as_table().filter(|table| !table.is_implicit()) {
            let start = header.span().map_or(0, |span| span.start);
            let at = tables::line_end(text, start);
            let newline = if text.get(..at).is_some_and(|head| head.ends_with('\n')) { "" } else { "\n" };
            let indent = indent(text, tables::line_start(text, start));
            return Ok(Some(Edited::replace(text, at, at, format!("{newline}{indent}{line}"))));
        }
    }
    let version = if fresh { "version = 2\n\n" } else { "" };
    let name = if plugin == "cri" { plugin.to_owned() } else { tables::quote(plugin) };
    let block = format!("{}{version}[plugins.{name}.registry]\n{line}", tables::gap(text));
    Ok(Some(Edited::replace(text, text.len(), text.len(), block)))
}

/// Takes the line out.
pub(crate) fn remove(text: &str, folder: &str) -> Result<String, EditError> {
    let document = tables::read(text)?;
    for plugin in PLUGINS {
        let Some(table) = item(&document, plugin) else { continue };
        if table.get(KEY).and_then(Item::as_str).is_some_and(|set| holds(set, folder))
            && let Some(range) = table.as_table_like().and_then(|table| tables::line(text, table, KEY))
        {
            return Ok(tables::cut(text, &range).unwrap_or_else(|| text.to_owned()));
        }
    }
    Ok(text.to_owned())
}

pub(crate) fn is_named(text: &str, folder: &str) -> Result<bool, EditError> {
    Ok(folder_of(&tables::values(text)?).is_some_and(|set| holds(&set, folder)))
}

/// What it says besides. Tables that hold nothing, and the version where it stands alone, say nothing.
pub(crate) fn rest(text: &str, folder: &str) -> Result<toml::Table, EditError> {
    let mut values = tables::values(text)?;
    if let Some(plugins) = values.get_mut("plugins").and_then(toml::Value::as_table_mut) {
        for name in PLUGINS {
            let registry = plugins.get_mut(name).and_then(|plugin| plugin.get_mut("registry"));
            if let Some(registry) = registry.and_then(toml::Value::as_table_mut) {
                registry.retain(|key, value| {
                    key != KEY || value.as_str().is_some_and(|set| !set.is_empty() && !holds(set, folder))
                });
            }
        }
    }
    let mut values = tables::prune(values);
    if values.len() == 1 {
        values.remove("version");
    }
    Ok(values)
}

/// The folders that a configuration names, as it has them: with colons between.
pub(crate) fn folder_of(values: &toml::Table) -> Option<String> {
    let set = |plugin| registry(values, plugin)?.get(KEY)?.as_str().filter(|set| !set.is_empty());
    PLUGINS.into_iter().find_map(set).map(str::to_owned)
}

/// Whether a configuration of containerd has the plugin for Kubernetes switched off, so that no folder is needed.
pub fn is_off(values: &toml::Table) -> bool {
    let off = values.get("disabled_plugins").and_then(toml::Value::as_array);
    off.is_some_and(|off| off.iter().filter_map(toml::Value::as_str).any(|name| PLUGINS.contains(&name)))
}

/// The plugin's name in a configuration of this version.
fn plugin(values: &toml::Table) -> Result<&'static str, EditError> {
    let [first, second, third] = PLUGINS;
    match values.get("version").map(toml::Value::as_integer) {
        None if values.is_empty() => Ok(second),
        None | Some(Some(1)) => Ok(first),
        Some(Some(2)) => Ok(second),
        Some(Some(3 | 4)) => Ok(third),
        Some(_) => {
            Err(EditError::Form("its version is none of 1, 2, 3 and 4, which Longshore knows".to_owned()))
        }
    }
}

fn registry<'a>(values: &'a toml::Table, plugin: &str) -> Option<&'a toml::Table> {
    values.get("plugins")?.get(plugin)?.get("registry")?.as_table()
}

fn item<'a>(document: &'a Table, plugin: &str) -> Option<&'a Item> {
    let plugin = document.get("plugins")?.as_table_like()?.get(plugin)?.as_table_like()?;
    plugin.get("registry")
}

fn is_set(value: &toml::Value) -> bool {
    value.as_table().is_none_or(|table| !table.is_empty())
}

fn holds(set: &str, folder: &str) -> bool {
    set.split(':').any(|one| one.trim_end_matches('/') == folder.trim_end_matches('/'))
}

/// The blanks at the start of a line.
fn indent(text: &str, start: usize) -> &str {
    let line = text.get(start..).unwrap_or_default();
    let rest = line.trim_start_matches([' ', '\t']);
    line.get(..line.len() - rest.len()).unwrap_or_default()
}
