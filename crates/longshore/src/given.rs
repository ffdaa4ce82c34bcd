//! By what a value was given: where that is a variable of the environment, an error names it, and not its flag.

use std::env;

use clap::{
    Arg, Command,
    error::{ContextKind, ContextValue},
};

/// An error of the command line, with the variable in place of the flag where it was by that.
pub(crate) fn explain(mut error: clap::Error, command: &Command) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let (shown, value) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue));
    let mut command = command.clone();
    command.build();
    let called = command.get_subcommands().find(|sub| words().any(|word| word == sub.get_name()));
    let arguments = called.into_iter().flat_map(Command::get_arguments);
    let given = arguments.filter(|argument| argument.to_string() == shown).find_map(variable);
    if let Some((name, held)) = given
        && (held == value || held.split(',').any(|part| part == value))
    {
        error.insert(ContextKind::InvalidArg, ContextValue::String(name));
    }
    error
}

/// The variable by which an argument is given, and what it holds.
fn variable(argument: &Arg) -> Option<(String, String)> {
    let name = argument.get_env()?.to_str()?;
    let flags = argument.get_long().map(|long| format!("--{long}"));
    let flags = flags.into_iter().chain(argument.get_short().map(|short| format!("-{short}")));
    is_by_variable(&flags.collect::<Vec<_>>(), name).map(|held| (name.to_owned(), held))
}

/// What a variable holds, where none of the flags that stand above it is given.
#[allow(clippy::disallowed_methods, reason = "the environment is what the user set")]
pub(crate) fn is_by_variable(flags: &[String], name: &str) -> Option<String> {
    let is_given = |word: String| {
        flags.iter().any(|flag| {
            let rest = word.strip_prefix(flag.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('=') || !flag.starts_with("--"))
        })
    };
    if words().any(is_given) { None } else { env::var(name).ok().filter(|held| !held.is_empty()) }
}

/// The command line.
fn words() -> impl Iterator<Item = String> {
    env::args_os().map(|word| word.to_string_lossy().into_owned())
}
