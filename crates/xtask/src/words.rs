//! House rules that a search can find: nothing left half done, no file too long, a front page for every crate,
//! no link into nowhere.

use std::collections::BTreeSet;

/// Lines of a source file, its tests aside.
const MAX_LINES: usize = 800;

/// Files that may be longer, each with the reason.
const MAY_BE_LONG: [(&str, &str); 0] = [];

/// What must not be left behind in code. Written in two parts, so that this file does not hold them.
const LEFT_BEHIND: [&str; 4] =
    [concat!("to", "do!("), concat!("unimp", "lemented!("), concat!("db", "g!("), concat!("#[ig", "nore")];

/// The one good reason for a test that does not run: another test runs it.
const RUN_BY_ANOTHER: &str = concat!("#[ig", "nore = \"run as a child process by");

/// What must not be left behind anywhere, as words.
const MARKS: [&str; 4] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];

/// What is wrong in the files, given as path and text.
pub(crate) fn check(files: &[(String, String)]) -> Vec<String> {
    let paths: BTreeSet<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    let mut findings = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| !path.ends_with(".lock")) {
        left_behind(path, text, &mut findings);
        if path.ends_with(".rs") {
            length(path, text, &mut findings);
            front_page(path, text, &mut findings);
        }
        if path.ends_with(".md") {
            links(path, text, &paths, &mut findings);
        }
    }
    findings
}

fn left_behind(path: &str, text: &str, findings: &mut Vec<String>) {
    let code = path.ends_with(".rs");
    for (number, line) in (1..).zip(text.lines()) {
        let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        let mark = words.into_iter().find(|word| MARKS.contains(word));
        let code = code && !line.contains(RUN_BY_ANOTHER);
        let code = LEFT_BEHIND.iter().find(|part| code && line.contains(**part)).copied();
        if let Some(what) = mark.or(code) {
            findings.push(format!("{path}:{number}: `{what}`: do it, or open an issue and say so there"));
        }
    }
}

fn length(path: &str, text: &str, findings: &mut Vec<String>) {
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    let source = path.starts_with("crates/") && path.contains("/src/");
    let excused = MAY_BE_LONG.iter().any(|(long, _)| *long == path);
    if source && lines > MAX_LINES && !excused {
        findings.push(format!("{path}: {lines} lines before its tests: past {MAX_LINES} it wants to be two"));
    }
}

fn front_page(path: &str, text: &str, findings: &mut Vec<String>) {
    let root = ["/src/lib.rs", "/src/main.rs"].iter().any(|end| path.ends_with(end));
    if root && path.starts_with("crates/") && !text.starts_with("//!") {
        findings
            .push(format!("{path}: begin with a front page (`//!`): what it does, and what it never does"));
    }
}

/// The path of `target` as a link in a document of `folder` means it.
fn joined(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Links of the form `](path)` to files beside the document.
fn links(path: &str, text: &str, paths: &BTreeSet<&str>, findings: &mut Vec<String>) {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    for (number, line) in (1..).zip(text.lines()) {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        for target in targets.map(|(target, _)| target.split_once('#').map_or(target, |(file, _)| file)) {
            let there = || {
                let full = joined(folder, target);
                let inside = format!("{full}/");
                paths.contains(full.as_str()) || paths.iter().any(|path| path.starts_with(&inside))
            };
            if !target.is_empty() && !target.contains("://") && !there() {
                findings.push(format!("{path}:{number}: the link to {target} leads nowhere"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        check(&[(path.to_owned(), text.to_owned())])
    }

    #[test]
    fn each_word_is_found_where_it_stands() {
        for part in LEFT_BEHIND {
            let found = findings("crates/a/src/b.rs", &format!("fn f() {{}}\n    {part})"));
            assert!(matches!(&found[..], [one] if one.starts_with("crates/a/src/b.rs:2: ")), "{found:?}");
        }
        for mark in MARKS {
            assert_eq!(findings("Makefile", &format!("# {mark}: later")).len(), 1);
            assert!(findings("Makefile", &format!("# {mark}S and A{mark}")).is_empty(), "not words");
        }
        assert!(findings("NOTES.txt", LEFT_BEHIND[0]).is_empty(), "a macro's name in a text is fine");
        assert!(findings("Cargo.lock", MARKS[0]).is_empty());
    }

    #[test]
    fn long_files_are_found_and_tests_do_not_count() {
        let long = "// line\n".repeat(MAX_LINES + 1);
        assert_eq!(findings("crates/a/src/b.rs", &long).len(), 1);
        assert!(findings("crates/a/tests/b.rs", &long).is_empty());
        assert!(findings("crates/a/src/b.rs", &format!("#[cfg(test)]\nmod tests {{}}\n{long}")).is_empty());
    }

    #[test]
    fn a_crate_without_a_front_page_is_found() {
        assert_eq!(findings("crates/a/src/lib.rs", "mod b;\n").len(), 1);
        assert!(findings("crates/a/src/lib.rs", "//! Does a.\n").is_empty());
        assert!(findings("crates/a/src/b.rs", "fn f() {}\n").is_empty());
    }

    #[test]
    fn a_link_into_nowhere_is_found() {
        let text = "[a](A.md#top) [b](https://b.example/) [c](docs/) [d](docs/missing.md) [e](#here)";
        let files = [("A.md", text), ("docs/c.md", "[up](../A.md) [beside](./c.md)")];
        let files = files.map(|(path, text)| (path.to_owned(), text.to_owned()));
        assert_eq!(check(&files), ["A.md:1: the link to docs/missing.md leads nowhere"]);
    }
}
