//! Checks of this repository that no compiler makes: `cargo run -q -p longshore-xtask -- imports deps words`.
//!
//! [`imports`] holds the crates to the map of ARCHITECTURE.md, [`deps`] what we depend on to `deny.toml`; [`words`] holds the files to the house rules that
//! a search can find. Each check is a plain function from what it is given to what it found; this file alone runs
//! programs and prints. It changes nothing, and asks nothing of the network.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod deps;
mod imports;
mod words;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const USAGE: &str = "usage: cargo run -q -p longshore-xtask -- [imports] [deps] [words]";

fn main() -> ExitCode {
    let tasks: Vec<String> = std::env::args().skip(1).collect();
    if tasks.is_empty() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let mut good = true;
    for task in &tasks {
        let findings = match task.as_str() {
            "imports" => metadata().and_then(|metadata| imports::check(&metadata)),
            "deps" => {
                metadata().and_then(|metadata| deps::check(&metadata, &text(&top()?.join("deny.toml"))?))
            }
            "words" => files().map(|files| words::check(&files)),
            other => Err(format!("unknown check `{other}`; {USAGE}")),
        };
        match findings {
            Ok(findings) if findings.is_empty() => println!("{task}: ok"),
            Ok(findings) => {
                good = false;
                findings.iter().for_each(|finding| eprintln!("{task}: {finding}"));
            }
            Err(error) => {
                good = false;
                eprintln!("{task}: {error}");
            }
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn metadata() -> Result<serde_json::Value, String> {
    let text = output(Command::new("cargo").args(["metadata", "--format-version=1", "--locked"]))?;
    serde_json::from_slice(&text).map_err(|error| format!("cargo metadata: {error}"))
}

/// Every file that git tracks or would track, by its path from the top of the checkout. What is not text has no words.
fn files() -> Result<Vec<(String, String)>, String> {
    let top = top()?;
    let mut list = Command::new("git");
    list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&top);
    let list = output(&mut list)?;
    let paths = list.split(|byte| *byte == 0).filter_map(|path| std::str::from_utf8(path).ok());
    // One that is gone is none.
    let read = |path: &str| {
        let bytes = std::fs::read(top.join(path)).ok()?;
        Some((path.to_owned(), String::from_utf8(bytes).unwrap_or_default()))
    };
    Ok(paths.filter(|path| !path.is_empty()).filter_map(read).collect())
}

fn top() -> Result<PathBuf, String> {
    let top = output(Command::new("git").args(["rev-parse", "--show-toplevel"]))?;
    Ok(PathBuf::from(String::from_utf8_lossy(&top).trim()))
}

fn text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
