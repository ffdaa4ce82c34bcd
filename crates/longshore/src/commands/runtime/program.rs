//! Programs of others, run with a deadline.

use std::{process::Stdio, time::Duration};

use tokio::process::Command;

/// Runs it to its end and gives its output, or in words why there is none.
pub(super) async fn run(command: &mut Command, deadline: Duration) -> Result<String, String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(deadline, command.output()).await {
        Err(_) => return Err(format!("{name} has not come to an end in {} s", deadline.as_secs())),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!("there is no program {name} here"));
        }
        Ok(Err(error)) => return Err(format!("{name} cannot be started: {error}")),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = words.lines().rev().map(str::trim).find(|line| !line.is_empty());
    Err(format!("{name} says: {}", last.unwrap_or("nothing, but it failed")))
}
