//! A file of `registries.conf.d`, which Podman, skopeo, Buildah and CRI-O read.

use toml::Value;
use toml_edit::Item;

use crate::{
    part::{EditError, Edited},
    tables,
};

/// Adds a block for each registry that has none; `None` if all have.
pub(crate) fn insert(text: &str, mirror: &str, names: &[String]) -> Result<Option<Edited>, EditError> {
    let values = tables::values(text)?;
    let mut added = String::new();
    for name in names {
        match claim(&values, mirror, name) {
            Claim::Ours => {}
            Claim::Others => {
                return Err(EditError::Conflict(format!(
                    "there is a block for {name} already: add a [[registry.mirror]] with `location = {}` \
                     to it by hand, or leave {name} out",
                    tables::quote(&location(mirror, name))
                )));
            }
            Claim::None => {
                let gap = if added.is_empty() { tables::gap(text) } else { "\n" };
                added.push_str(gap);
                added.push_str(&block(mirror, name));
            }
        }
    }
    Ok((!added.is_empty()).then(|| Edited::replace(text, text.len(), text.len(), added)))
}

/// Takes our blocks out, and where others have changed one, the mirror.
pub(crate) fn remove(text: &str, mirror: &str, names: &[String]) -> Result<String, EditError> {
    let mut text = text.to_owned();
    for name in names {
        let block = block(mirror, name);
        let whole =
            [format!("{block}\n"), block].iter().find_map(|block| tables::swap_once(&text, block, ""));
        let expected = rest(&text, mirror, names)?;
        if let Some(cut) = whole.filter(|cut| rest(cut, mirror, names).is_ok_and(|rest| rest == expected)) {
            text = cut;
            continue;
        }
        let document = tables::read(&text)?;
        let registries = document.get("registry").and_then(Item::as_array_of_tables);
        let mirrors = registries.into_iter().flatten().filter_map(|r| r.get("mirror")?.as_array_of_tables());
        let ours = mirrors
            .flatten()
            .find(|m| m.get("location").and_then(Item::as_str) == Some(location(mirror, name).as_str()));
        let lines = ours.and_then(|table| tables::lines(&text, table));
        if let Some(cut) = lines.and_then(|lines| tables::cut(&text, &lines)) {
            text = cut;
        }
    }
    Ok(text)
}

/// Whether it names the mirror for any of them.
pub(crate) fn is_named(text: &str, mirror: &str, names: &[String]) -> Result<bool, EditError> {
    let values = tables::values(text)?;
    Ok(names.iter().any(|name| matches!(claim(&values, mirror, name), Claim::Ours)))
}

/// What it says besides. A block that only says where a registry answers under its own name says nothing.
pub(crate) fn rest(text: &str, mirror: &str, names: &[String]) -> Result<toml::Table, EditError> {
    let mut values = tables::values(text)?;
    if let Some(Value::Array(registries)) = values.get_mut("registry") {
        for registry in registries.iter_mut().filter_map(Value::as_table_mut) {
            if let Some(Value::Array(mirrors)) = registry.get_mut("mirror") {
                mirrors.retain(|m| !names.iter().any(|name| is_at(m, &location(mirror, name))));
            }
            registry.retain(|key, value| key != "mirror" || value.as_array().is_none_or(|m| !m.is_empty()));
        }
        registries.retain(|registry| {
            let plain =
                registry.as_table().is_some_and(|r| r.keys().all(|k| k == "prefix" || k == "location"));
            !(plain && registry.get("prefix") == registry.get("location"))
        });
    }
    values.retain(|key, value| key != "registry" || value.as_array().is_none_or(|r| !r.is_empty()));
    Ok(values)
}

/// Whose block a registry has in a file.
pub(crate) enum Claim {
    /// It has none.
    None,
    /// One that names the mirror.
    Ours,
    /// One that does not.
    Others,
}

/// Whose block a registry has here. Where several files have one, the last of them counts alone.
pub(crate) fn claim(values: &toml::Table, mirror: &str, name: &str) -> Claim {
    let registries = values.get("registry").and_then(Value::as_array).into_iter().flatten();
    let prefix =
        |r: &Value| r.get("prefix").or_else(|| r.get("location")).and_then(Value::as_str).map(str::to_owned);
    let mut claim = Claim::None;
    for registry in registries.filter(|registry| prefix(registry).as_deref() == Some(name)) {
        let mut mirrors = registry.get("mirror").and_then(Value::as_array).into_iter().flatten();
        claim = if mirrors.any(|m| is_at(m, &location(mirror, name))) { Claim::Ours } else { Claim::Others };
    }
    claim
}

fn is_at(mirror: &Value, location: &str) -> bool {
    mirror.get("location").and_then(Value::as_str) == Some(location)
}

fn location(mirror: &str, name: &str) -> String {
    format!("{mirror}/{name}")
}

fn block(mirror: &str, name: &str) -> String {
    let (quoted, location) = (tables::quote(name), tables::quote(&location(mirror, name)));
    format!(
        "[[registry]]\nprefix = {quoted}\nlocation = {quoted}\n\n\
         [[registry.mirror]]\nlocation = {location}\ninsecure = true\n"
    )
}
