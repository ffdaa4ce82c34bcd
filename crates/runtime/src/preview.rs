//! What would change, for people.

use std::path::Path;

/// Lines around a change that are shown.
const AROUND: usize = 3;

/// The change of a file, as `diff -u` shows it. Changes here are of one stretch of lines.
pub fn preview(path: &Path, old: Option<&str>, new: Option<&str>) -> String {
    let name =
        |text: Option<&str>| if text.is_some() { path.display().to_string() } else { "/dev/null".into() };
    let mut shown = format!("--- {}\n+++ {}\n", name(old), name(new));
    let lines =
        |text: Option<&'_ str>| text.unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    let (old, new) = (lines(old), lines(new));
    let head = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let most = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev()).take(most).take_while(|(old, new)| old == new).count();
    let from = head.saturating_sub(AROUND);
    let mut show = |mark: char, lines: &[String], from: usize, to: usize| {
        for line in lines.iter().take(to).skip(from) {
            shown.push_str(&format!("{mark}{line}\n"));
        }
    };
    show(' ', &old, from, head);
    show('-', &old, head, old.len() - tail);
    show('+', &new, head, new.len() - tail);
    show(' ', &old, old.len() - tail, (old.len() - tail).saturating_add(AROUND));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_lines_are_shown_with_those_around() {
        let shown = preview(Path::new("/f"), Some("1\n2\n3\n4\n5\n"), Some("1\n2\n3\n4\nx\n5\n"));
        assert_eq!(shown, "--- /f\n+++ /f\n 2\n 3\n 4\n+x\n 5\n");
        assert_eq!(preview(Path::new("/f"), None, Some("a\n")), "--- /dev/null\n+++ /f\n+a\n");
        assert_eq!(preview(Path::new("/f"), Some("a\na\n"), Some("a\n")), "--- /f\n+++ /f\n a\n-a\n");
        assert_eq!(preview(Path::new("/f"), Some("a\n"), None), "--- /f\n+++ /dev/null\n-a\n");
    }
}
