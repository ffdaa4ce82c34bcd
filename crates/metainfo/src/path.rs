//! Names from a torrent, made safe for a file system.

use std::collections::HashSet;

/// The longest name of a file, in bytes, with room for a number that tells it from others.
const MAX_COMPONENT: usize = 240;
/// The most files of one torrent that may get a number to tell them from others.
const MAX_DUPLICATES: usize = 100;

/// A name that is one component of a path and no more: no separators, no control characters, not `.` or `..`,
/// UTF-8, of bounded length. `None` where nothing remains.
pub(crate) fn component(raw: &[u8]) -> Option<String> {
    let mut name = String::new();
    for chunk in raw.utf8_chunks() {
        name.extend(chunk.valid().chars().filter(|&c| is_safe(c)));
        if !chunk.invalid().is_empty() {
            name.push('_');
        }
    }
    if name.is_empty() || name == "." || name == ".." {
        return None;
    }
    Some(shorten(name))
}

/// Not a separator on any system, nor a character that hides or turns what is shown.
fn is_safe(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !(c.is_control() || turns || c == '/' || c == '\\')
}

/// Cuts a long name in front of its extension, which says what the file is.
fn shorten(name: String) -> String {
    if name.len() <= MAX_COMPONENT {
        return name;
    }
    let extension = name.rfind('.').and_then(|dot| name.get(dot..)).filter(|e| e.len() <= 16).unwrap_or("");
    let keep = (0..=MAX_COMPONENT - extension.len()).rev().find_map(|end| name.get(..end));
    format!("{}{extension}", keep.unwrap_or(""))
}

/// Makes all paths of a torrent different, also from the folders that hold others.
///
/// First every path is added, then each is settled in the same order.
#[derive(Default)]
pub(crate) struct Distinct {
    folders: HashSet<String>,
    wanted: HashSet<String>,
    taken: HashSet<String>,
    duplicates: usize,
}

impl Distinct {
    /// Notes a path that some file wants.
    pub(crate) fn add(&mut self, path: &[String]) {
        let mut folder = String::new();
        for component in path.iter().take(path.len().saturating_sub(1)) {
            folder.push_str(component);
            if !self.folders.contains(&folder) {
                self.folders.insert(folder.clone());
            }
            folder.push('/');
        }
        self.wanted.insert(path.join("/"));
    }

    /// Gives a file its path, with a number in front of the extension if it must be; the error is the path that too
    /// many files want.
    pub(crate) fn settle(&mut self, path: &mut [String]) -> Result<(), String> {
        let joined = path.join("/");
        if !self.folders.contains(&joined) && self.taken.insert(joined.clone()) {
            return Ok(());
        }
        self.duplicates += 1;
        if self.duplicates > MAX_DUPLICATES {
            return Err(joined);
        }
        let Some((name, folders)) = path.split_last_mut() else { return Err(joined) };
        let folders = folders.join("/");
        let dot = name.rfind('.').filter(|&dot| dot > 0).unwrap_or(name.len());
        let (stem, extension) = name.split_at(dot);
        for number in 1..=2 * MAX_DUPLICATES {
            let candidate = format!("{stem}.{number}{extension}");
            let joined =
                if folders.is_empty() { candidate.clone() } else { format!("{folders}/{candidate}") };
            let free = !self.folders.contains(&joined) && !self.wanted.contains(&joined);
            if free && self.taken.insert(joined) {
                *name = candidate;
                return Ok(());
            }
        }
        Err(joined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_component_and_no_more() {
        for (raw, safe) in [
            ("plain.txt", Some("plain.txt")),
            ("", None),
            (".", None),
            ("..", None),
            ("/", None),
            ("./.", None),
            ("...", Some("...")),
            ("/etc/passwd", Some("etcpasswd")),
            ("..\\..\\x", Some("....x")),
            ("a\0b\nc\u{7f}", Some("abc")),
            ("\u{202e}gpj.exe", Some("gpj.exe")),
            ("naïve", Some("naïve")),
        ] {
            assert_eq!(component(raw.as_bytes()).as_deref(), safe, "{raw:?}");
        }
        assert_eq!(component(b"a\xff\xfeb").as_deref(), Some("a__b"));
    }

    #[test]
    fn long_names_keep_their_extension() {
        let name = component(format!("{}.tar", "ä".repeat(300)).as_bytes()).expect("a name");
        assert!(name.len() <= MAX_COMPONENT && name.ends_with("ä.tar"), "{name}");
        assert_eq!(component(&[b'x'; 1000]).map(|n| n.len()), Some(MAX_COMPONENT));
    }

    fn settle(paths: &[&str]) -> Result<Vec<String>, String> {
        let mut paths: Vec<Vec<String>> =
            paths.iter().map(|p| p.split('/').map(str::to_owned).collect()).collect();
        let mut distinct = Distinct::default();
        paths.iter().for_each(|path| distinct.add(path));
        paths.iter_mut().try_for_each(|path| distinct.settle(path))?;
        Ok(paths.iter().map(|path| path.join("/")).collect())
    }

    #[test]
    fn equal_paths_get_numbers_that_nobody_else_has() {
        let settled = settle(&["a/b.txt", "a/b.txt", "a/b.1.txt", "a/b.txt"]).expect("few");
        assert_eq!(settled, ["a/b.txt", "a/b.2.txt", "a/b.1.txt", "a/b.3.txt"]);
        assert_eq!(settle(&[".x", ".x"]).expect("few"), [".x", ".x.1"]);
        assert!(settle(&["same"; 200]).is_err());
    }

    #[test]
    fn a_file_never_takes_the_name_of_a_folder() {
        assert_eq!(settle(&["a", "a/b", "c/d", "c"]).expect("few"), ["a.1", "a/b", "c/d", "c.1"]);
    }
}
