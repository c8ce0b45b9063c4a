// SPDX-License-Identifier: Apache-2.0
//! Programs that take their work from standard input.

use std::io;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Error;

/// Runs a program of a Debian package to its end and returns its output.
///
/// # Errors
/// It is not there, or it failed.
pub(super) async fn run(
    program: &str,
    arguments: &[&str],
    input: &str,
    package: &str,
) -> Result<String, Error> {
    let failed = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            Error::Missing {
                what: format!("program {program} is not on the PATH"),
                way_out: format!(
                    "install it (Debian: apt-get install {package}), or use --proxy-mode=nftables"
                ),
            }
        } else {
            Error::ProgramFailed {
                command: format!("{program} {}", arguments.join(" ")),
                said: error.to_string(),
            }
        }
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // Where it stopped reading, its own message says more.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output.map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("Permission denied") || said.contains("Operation not permitted") {
        return Err(Error::Privilege {
            what: program.to_owned(),
        });
    }
    Err(Error::ProgramFailed {
        command: format!("{program} {} ({})", arguments.join(" "), output.status),
        said,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(program: &str, arguments: &[&str], input: &str) -> Result<String, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .unwrap()
            .block_on(run(program, arguments, input, "some-package"))
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let said = ran("berth-no-such-program", &[], "").unwrap_err().to_string();
        for part in [
            "berth-no-such-program",
            "apt-get install some-package",
            "--proxy-mode=nftables",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        assert_eq!(ran("cat", &[], "in and out").unwrap(), "in and out");
        let said = ran("sh", &["-c", "echo because >&2; exit 3"], "")
            .unwrap_err()
            .to_string();
        assert!(said.contains("because") && said.contains('3'), "{said}");
        assert!(matches!(
            ran("sh", &["-c", "echo Permission denied >&2; exit 1"], ""),
            Err(Error::Privilege { .. })
        ));
    }
}
