//! Docker's `daemon.json`: the list `registry-mirrors`.

use std::{fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::part::{EditError, Edited};

pub(crate) const KEY: &str = "registry-mirrors";

/// Puts the mirror in front of the list; `None` if it is in it.
pub(crate) fn insert(text: &str, url: &str) -> Result<Option<Edited>, EditError> {
    let quoted = Value::from(url).to_string();
    let Some(members) = members(text)? else {
        return Ok(Some(Edited::replace(text, 0, text.len(), format!("{{ \"{KEY}\": [{quoted}] }}\n"))));
    };
    let Some(member) = mirrors(&members)? else {
        let open = text.find('{').map_or(0, |brace| brace + 1);
        return Ok(Some(match members.first() {
            Some(first) => before(text, open, first.key.start, &format!("\"{KEY}\": [{quoted}]")),
            None => Edited::replace(text, open, open, format!(" \"{KEY}\": [{quoted}] ")),
        }));
    };
    let list = list(text, member)?;
    if list.iter().any(|(name, _)| same(name, url)) {
        return Ok(None);
    }
    let open = member.value.start + 1;
    Ok(Some(match list.first() {
        Some((_, first)) => before(text, open, first.start, &quoted),
        None => Edited::replace(text, open, open, quoted),
    }))
}

/// Takes the mirror out of the list, and an empty list that was `our_list` with it.
pub(crate) fn remove(text: &str, url: &str, our_list: bool) -> Result<String, EditError> {
    let members = members(text)?.unwrap_or_default();
    let Some(member) = mirrors(&members)? else { return Ok(text.to_owned()) };
    let list = list(text, member)?;
    let Some(place) = list.iter().position(|(name, _)| same(name, url)) else { return Ok(text.to_owned()) };
    let cut = if our_list && list.len() == 1 {
        let spans: Vec<_> = members.iter().map(|m| m.key.start..m.value.end).collect();
        let place = members.iter().position(|m| m.key == member.key).unwrap_or(0);
        without(&spans, place)
    } else {
        without(&list.into_iter().map(|(_, span)| span).collect::<Vec<_>>(), place)
    };
    Ok(Edited::replace(text, cut.start, cut.end, String::new()).text)
}

pub(crate) fn is_named(text: &str, url: &str) -> Result<bool, EditError> {
    let members = members(text)?.unwrap_or_default();
    let Some(member) = mirrors(&members)? else { return Ok(false) };
    Ok(list(text, member)?.iter().any(|(name, _)| same(name, url)))
}

/// What it says besides. An empty list of mirrors says nothing.
pub(crate) fn rest(text: &str, url: &str) -> Result<Value, EditError> {
    let members = members(text)?.unwrap_or_default();
    mirrors(&members)?;
    let mut rest = serde_json::Map::new();
    for member in &members {
        let mut value: Value = serde_json::from_str(slice(text, &member.value)).map_err(syntax)?;
        if let (KEY, Some(list)) = (member.name.as_str(), value.as_array_mut()) {
            list.retain(|name| !name.as_str().is_some_and(|name| same(name, url)));
            if list.is_empty() {
                continue;
            }
        }
        rest.insert(member.name.clone(), value);
    }
    Ok(Value::Object(rest))
}

pub(crate) fn is_nothing(text: &str) -> bool {
    members(text).is_ok_and(|members| members.is_none_or(|members| members.is_empty()))
}

/// A member of the outermost object, and where it stands.
struct Member {
    name: String,
    key: Range<usize>,
    value: Range<usize>,
}

/// The members of a whole text; `None` where it is empty, which Docker takes for an object without any.
fn members(text: &str) -> Result<Option<Vec<Member>>, EditError> {
    // Docker passes over a byte order mark.
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    if body.trim().is_empty() {
        return Ok(None);
    }
    let object: Object<'_> = serde_json::from_str(body).map_err(syntax)?;
    let members = object.0.into_iter().map(|(key, value)| {
        let name = serde_json::from_str(key.get()).map_err(syntax)?;
        Ok(Member { name, key: span(text, key), value: span(text, value) })
    });
    members.collect::<Result<_, _>>().map(Some)
}

/// The member with the mirrors, if there is one.
fn mirrors(members: &[Member]) -> Result<Option<&Member>, EditError> {
    let mut found = members.iter().filter(|member| member.name == KEY);
    match (found.next(), found.next()) {
        (first, None) => Ok(first),
        _ => Err(EditError::Form(format!("`{KEY}` is in it twice: make it one"))),
    }
}

/// The mirrors of the list, each with its place.
fn list(text: &str, member: &Member) -> Result<Vec<(String, Range<usize>)>, EditError> {
    let form = |_| EditError::Form(format!("`{KEY}` is not a list of strings there"));
    let list: Vec<&RawValue> = serde_json::from_str(slice(text, &member.value)).map_err(form)?;
    let item = |raw: &RawValue| Ok((serde_json::from_str(raw.get()).map_err(form)?, span(text, raw)));
    list.into_iter().map(item).collect()
}

/// Puts something in front of the first of a list, which is at `first` behind a bracket that ends at `open`, as far
/// from it as that is from the bracket.
fn before(text: &str, open: usize, first: usize, what: &str) -> Edited {
    let blank = text.get(open..first).filter(|blank| blank.contains('\n')).unwrap_or(" ");
    Edited::replace(text, first, first, format!("{what},{blank}"))
}

/// What goes with one of several that have commas between.
fn without(spans: &[Range<usize>], place: usize) -> Range<usize> {
    let this = spans.get(place).cloned().unwrap_or_default();
    let before = place.checked_sub(1).and_then(|before| spans.get(before));
    match (before, spans.get(place + 1)) {
        (_, Some(next)) => this.start..next.start,
        (Some(last), None) => last.end..this.end,
        (None, None) => this,
    }
}

/// Docker adds the slash itself.
fn same(name: &str, url: &str) -> bool {
    name.trim_end_matches('/') == url
}

fn slice<'a>(text: &'a str, span: &Range<usize>) -> &'a str {
    text.get(span.clone()).unwrap_or_default()
}

/// Where a piece of the text stands in it.
fn span(text: &str, raw: &RawValue) -> Range<usize> {
    let start = (raw.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + raw.get().len()
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn syntax(error: serde_json::Error) -> EditError {
    let words = error.to_string();
    let what = words.split(" at line ").next().unwrap_or_default().to_owned();
    EditError::Syntax { line: error.line(), what }
}

/// An object as it is written, members of one name twice included.
struct Object<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(&'de RawValue, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, { … }")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        from.deserialize_map(Members).map(Self)
    }
}
