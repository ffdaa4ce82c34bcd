//! How a command fails: words for people, a hint where there is one, an exit code.

use std::{fmt, process::ExitCode};

use crate::screen;

/// A failure that says what to do about it. Stands anywhere in an error's chain.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// It could not be done: exit code 1.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None, code: 1 }
    }

    /// What was given cannot be used: exit code 2.
    pub(crate) fn bad_input(what: impl Into<String>) -> Self {
        Self { code: 2, ..Self::new(what) }
    }

    /// With a line on what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// Prints the error with its causes, and gives its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let failure = error.downcast_ref::<Failure>();
    screen::complain(&message(error, failure.and_then(|failure| failure.hint.as_deref())));
    ExitCode::from(failure.map_or(1, |failure| failure.code))
}

/// The error with its causes, on one line.
pub(crate) fn in_one_line(error: &anyhow::Error) -> String {
    told(error).join(": ")
}

/// What happened, and each cause that says something new: many errors quote theirs.
fn told(error: &anyhow::Error) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    let mut last = String::new();
    for cause in error.chain().map(|cause| cause.to_string().trim_end().to_owned()) {
        if !last.contains(&cause) {
            told.push(cause.clone());
        }
        last = cause;
    }
    told
}

/// `error: what`, then a line for each cause, then the hint.
fn message(error: &anyhow::Error, hint: Option<&str>) -> String {
    let mut text = format!("error: {}", told(error).join("\n  because: "));
    if let Some(hint) = hint {
        text.push_str(&format!("\n  hint: {hint}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn causes_are_told_once_and_the_hint_last() {
        let system = std::io::Error::from(std::io::ErrorKind::NotFound);
        let words = system.to_string();
        let error = Err::<(), _>(system)
            .context(format!("cannot read x: {words}"))
            .context(Failure::bad_input("no torrent").hint("make one"))
            .expect_err("an error");
        let failure = error.downcast_ref::<Failure>().expect("kept");
        assert_eq!(failure.code, 2);
        let text = message(&error, failure.hint.as_deref());
        assert_eq!(text, format!("error: no torrent\n  because: cannot read x: {words}\n  hint: make one"));
        assert_eq!(in_one_line(&error), format!("no torrent: cannot read x: {words}"));
    }
}
