//! What the user sees: progress bars and lines. Bars only on a terminal; JSON lines where a script asks for them.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    sync::LazyLock,
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
    // Draws nothing where standard error is no terminal.
    MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10))
});

/// All bars of this process.
pub(crate) fn bars() -> &'static MultiProgress {
    &BARS
}

/// A bar over `total` bytes, hidden if `quiet`.
pub(crate) fn byte_bar(what: &str, total: u64, quiet: bool) -> ProgressBar {
    const TEMPLATE: &str =
        "{prefix} {wide_bar:.cyan/blue} {percent:>3}% {binary_bytes}/{binary_total_bytes} {msg}";
    bar(ProgressBar::new(total), TEMPLATE, what, quiet)
}

/// A line that turns, hidden if `quiet`.
pub(crate) fn spinner(what: &str, quiet: bool) -> ProgressBar {
    bar(ProgressBar::no_length(), "{spinner} {prefix} {msg}", what, quiet)
}

fn bar(bar: ProgressBar, template: &str, what: &str, quiet: bool) -> ProgressBar {
    let bar = if quiet { ProgressBar::hidden() } else { BARS.add(bar) };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    if !quiet {
        bar.enable_steady_tick(Duration::from_millis(200));
    }
    bar
}

/// Prints a line of the command's result. A reader who has gone away is no error.
pub(crate) fn say(line: &str) {
    BARS.suspend(|| {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    });
}

/// Prints a line that is no part of the result.
pub(crate) fn note(line: &str) {
    BARS.suspend(|| {
        let _ = writeln!(io::stderr().lock(), "{line}");
    });
}

/// Prints an error.
pub(crate) fn complain(text: &str) {
    note(text);
}

/// Prints a value as one line of JSON.
pub(crate) fn say_json(value: &serde_json::Value) {
    say(&value.to_string());
}

/// Pairs of label and value, in a column each.
pub(crate) fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (label, value) in rows {
        let _ = writeln!(text, "{label:>width$}  {value}");
    }
    text.trim_end().to_owned()
}
