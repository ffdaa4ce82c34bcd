//! OSTree's remotes, in `remotes.d` or a repository's `config`: key files, where `contenturl` of a remote says where
//! objects and deltas are asked for, while summary, signatures and configuration stay with `url`.

use std::collections::BTreeMap;

use crate::part::{EditError, Edited};

const KEY: &str = "contenturl";

/// What a file says: of each group its keys and values.
type Groups = BTreeMap<String, BTreeMap<String, String>>;

/// A remote of OSTree, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OstreeRemote {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Where its content is asked for, if that is somewhere else.
    pub content: Option<String>,
    /// Whether all that it asks goes through a proxy.
    pub proxied: bool,
}

/// The remotes of a file that have a URL.
pub(crate) fn remotes(text: &str) -> Result<Vec<OstreeRemote>, EditError> {
    let groups = groups(text)?;
    let remote = |(group, keys): (&String, &BTreeMap<String, String>)| {
        let name = group.strip_prefix("remote \"")?.strip_suffix('"')?.to_owned();
        let content = keys.get(KEY).cloned();
        Some(OstreeRemote {
            name,
            url: keys.get("url")?.clone(),
            content,
            proxied: keys.contains_key("proxy"),
        })
    };
    Ok(groups.iter().filter_map(remote).collect())
}

/// Sets where content is asked for; `None` if all remotes have that.
pub(crate) fn insert(text: &str, urls: &BTreeMap<String, String>) -> Result<Option<Edited>, EditError> {
    let known = groups(text)?;
    let mut missing = BTreeMap::new();
    for (name, url) in urls {
        let keys = known
            .get(&group(name))
            .ok_or_else(|| EditError::Form(format!("there is no remote {name} in it any more")))?;
        match keys.get(KEY) {
            None => drop(missing.insert(group(name), url)),
            Some(set) if same(set, url) => {}
            Some(set) => {
                return Err(EditError::Conflict(format!("{KEY} of {name} is set to {set} there already")));
            }
        }
    }
    let (mut new, mut first, mut last) = (String::with_capacity(text.len()), None, 0);
    for line in text.split_inclusive('\n') {
        new.push_str(line);
        if let Some(url) = header(line).and_then(|name| missing.remove(name)) {
            let newline = if line.ends_with('\n') { "" } else { "\n" };
            first.get_or_insert(new.len());
            new.push_str(&format!("{newline}{KEY}={url}\n"));
            last = new.len();
        }
    }
    Ok(first.map(|first| {
        let rest = new.len() - last;
        let added = new.get(first..last).unwrap_or_default().to_owned();
        Edited::replace(text, first, text.len() - rest, added)
    }))
}

/// Takes our lines out.
pub(crate) fn remove(text: &str, urls: &BTreeMap<String, String>) -> Result<String, EditError> {
    groups(text)?;
    let mut within = None;
    let kept = text.split_inclusive('\n').filter(|line| {
        within = header(line).map(str::to_owned).or(within.take());
        let ours = urls.iter().find(|(name, _)| within.as_deref() == Some(&group(name)));
        let value = pair(line).filter(|(key, _)| *key == KEY).map(|(_, value)| value);
        !matches!((ours, value), (Some((_, url)), Some(value)) if same(value, url))
    });
    Ok(kept.collect())
}

/// Whether any of the remotes asks for content where we said.
pub(crate) fn is_named(text: &str, urls: &BTreeMap<String, String>) -> Result<bool, EditError> {
    let groups = groups(text)?;
    let set = |name| groups.get(&group(name)).and_then(|keys| keys.get(KEY));
    Ok(urls.iter().any(|(name, url)| set(name).is_some_and(|set| same(set, url))))
}

/// What it says besides.
pub(crate) fn rest(text: &str, urls: &BTreeMap<String, String>) -> Result<Groups, EditError> {
    let mut groups = groups(text)?;
    for (name, url) in urls {
        if let Some(keys) = groups.get_mut(&group(name)) {
            keys.retain(|key, value| key != KEY || !same(value, url));
        }
    }
    Ok(groups)
}

fn groups(text: &str) -> Result<Groups, EditError> {
    let (mut groups, mut within) = (Groups::new(), None);
    for (number, line) in text.lines().enumerate() {
        let wrong = |what: &str| EditError::Syntax { line: number + 1, what: what.to_owned() };
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
        } else if let Some(name) = header(line) {
            groups.entry(name.to_owned()).or_default();
            within = Some(name.to_owned());
        } else {
            let (key, value) = pair(line).ok_or_else(|| wrong("neither a [group] nor key=value"))?;
            let keys = within.as_ref().and_then(|name| groups.get_mut(name));
            let keys = keys.ok_or_else(|| wrong("a key before the first [group]"))?;
            if keys.insert(key.to_owned(), value.to_owned()).is_some() && key == KEY {
                return Err(EditError::Form(format!("`{KEY}` is in it twice: make it one")));
            }
        }
    }
    Ok(groups)
}

fn header(line: &str) -> Option<&str> {
    line.trim_end().strip_prefix('[')?.strip_suffix(']').filter(|name| !name.contains(['[', ']']))
}

fn pair(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let key = key.trim();
    (!key.is_empty() && !key.starts_with(['#', '['])).then_some((key, value.trim()))
}

fn group(name: &str) -> String {
    format!("remote \"{name}\"")
}

/// OSTree takes a folder with or without a slash.
pub(crate) fn same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: &str = "[core]\nrepo_version=1\nmode=bare\n\n# ours\n[remote \"os\"]\nurl=http://a.test/repo\n\
        gpg-verify=false\n[remote \"other\"]\nurl = http://b.test/\nproxy=http://p\n";

    fn urls() -> BTreeMap<String, String> {
        BTreeMap::from([
            ("os".into(), "http://m/ostree/os".into()),
            ("other".into(), "http://m/ostree/o".into()),
        ])
    }

    #[test]
    fn remotes_are_told_from_the_rest() {
        let found = remotes(CONFIG).expect("good");
        let remote = |name: &str, url: &str, proxied| OstreeRemote {
            name: name.to_owned(),
            url: url.to_owned(),
            content: None,
            proxied,
        };
        let (os, other) =
            (remote("os", "http://a.test/repo", false), remote("other", "http://b.test/", true));
        assert_eq!(found, [os, other]);
    }

    #[test]
    fn lines_go_in_and_come_out_to_the_byte() {
        for text in [CONFIG.to_owned(), CONFIG.trim_end().to_owned(), CONFIG.replace('\n', "\r\n")] {
            let edited = insert(&text, &urls()).expect("good").expect("something");
            assert!(is_named(&edited.text, &urls()).expect("good"));
            assert_eq!(rest(&edited.text, &urls()), rest(&text, &urls()));
            assert_eq!(edited.text.replacen(&edited.added, &edited.replaced, 1), text);
            assert_eq!(remove(&edited.text, &urls()).expect("good"), text);
            assert_eq!(insert(&edited.text, &urls()), Ok(None));
        }
        let bare = "[remote \"os\"]";
        let one = BTreeMap::from([("os".to_owned(), "http://m".to_owned())]);
        let edited = insert(bare, &one).expect("good").expect("something");
        assert_eq!(edited.text, "[remote \"os\"]\ncontenturl=http://m\n");
        assert_eq!(edited.text.replacen(&edited.added, &edited.replaced, 1), bare);
    }

    #[test]
    fn what_others_have_set_is_not_replaced() {
        let set = CONFIG.replace("gpg-verify=false", "contenturl=http://else");
        assert!(matches!(insert(&set, &urls()), Err(EditError::Conflict(_))));
        assert_eq!(remove(&set, &urls()), Ok(set));
        let twice = CONFIG.replace("gpg-verify=false", "contenturl=a\ncontenturl=b");
        assert!(matches!(insert(&twice, &urls()), Err(EditError::Form(_))));
        assert!(matches!(insert("[core]\n", &urls()), Err(EditError::Form(_))));
        assert!(matches!(remotes("a=b"), Err(EditError::Syntax { line: 1, .. })));
        assert!(matches!(remotes("[a]\nwhat"), Err(EditError::Syntax { line: 2, .. })));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_keeps_the_rest(
            text in "((\\[remote \"os\"\\]|\\[core\\]|url=x|contenturl=(y|http://m/ostree/os)|#z|)\r?\n){0,8}(\\[remote \"os\"\\])?",
        ) {
            let one = BTreeMap::from([("os".to_owned(), "http://m/ostree/os".to_owned())]);
            if let Ok(Some(edited)) = insert(&text, &one) {
                prop_assert_eq!(rest(&edited.text, &one), rest(&text, &one));
                prop_assert!(is_named(&edited.text, &one).expect("good"));
            }
        }
    }
}
