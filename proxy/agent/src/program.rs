// SPDX-License-Identifier: Apache-2.0
//! Programs that take their work from standard input: the only interface that iptables has in both its variants.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Error;

/// How many lines of what a program says are quoted at most.
const QUOTED: usize = 4;

/// A program that is installed.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    file: PathBuf,
}

impl Program {
    /// Looks for it in the folders of `path`, a value of PATH; `package` is what Debian has it in.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn find(path: &OsStr, name: &str, package: &str) -> Result<Self, Error> {
        let mut files = std::env::split_paths(path).map(|folder| folder.join(name));
        match files.find(|file| file.is_file()) {
            Some(file) => Ok(Self { file }),
            None => Err(Error::Missing {
                what: format!("{name} is not in PATH"),
                way_out: format!(
                    "install it (Debian: apt-get install {package}), or use --proxy-mode=nftables, which needs no program"
                ),
            }),
        }
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) async fn output(&self, arguments: &[&str], input: &str) -> Result<Output, Error> {
        let cannot = |source| Error::Program {
            program: self.file.clone(),
            source,
        };
        let mut child = Command::new(&self.file)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot)?;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program that stops reading says why itself.
                if let Err(error) = stdin.write_all(input.as_bytes()).await {
                    tracing::debug!(program = %self.file.display(), %error, "input not read to its end");
                }
            }
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), feed);
        output.map_err(cannot)
    }

    /// Runs it to its end and yields what it printed.
    ///
    /// # Errors
    /// It cannot be started, or it failed: for want of a privilege, or for what it says.
    pub(crate) async fn run(&self, arguments: &[&str], input: &str) -> Result<String, Error> {
        let output = self.output(arguments, input).await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(self.refused(arguments, &output, input))
    }

    fn refused(&self, arguments: &[&str], output: &Output, input: &str) -> Error {
        let all = String::from_utf8_lossy(&output.stderr);
        let said = all.lines().map(str::trim).filter(|line| !line.is_empty());
        let said: Vec<&str> = said.take(QUOTED).collect();
        let said = said.join("; ");
        let mut command = self.file.display().to_string();
        for argument in arguments {
            command.push(' ');
            command.push_str(argument);
        }
        if said.contains("Permission denied") || said.contains("Operation not permitted") {
            return Error::Privilege { what: command };
        }
        Error::Refused {
            command,
            status: output.status.to_string(),
            lines: named_lines(&all, input),
            said,
        }
    }
}

/// The lines of its input that a program named, one in each line that it said at most.
fn named_lines(said: &str, input: &str) -> Vec<String> {
    let numbers: BTreeSet<usize> = said.lines().filter_map(named_line).collect();
    if numbers.is_empty() {
        return Vec::new();
    }
    let lines = (1..).zip(input.lines());
    let named = lines.filter(|(number, _)| numbers.contains(number));
    named.map(|(_, line)| line.to_owned()).collect()
}

fn named_line(said: &str) -> Option<usize> {
    let rest = said.split("line").find_map(|rest| {
        let rest = rest.strip_prefix(':').unwrap_or(rest).strip_prefix(' ')?;
        rest.starts_with(|symbol: char| symbol.is_ascii_digit())
            .then_some(rest)
    })?;
    let digits = rest.split(|symbol: char| !symbol.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(program: &str, arguments: &[&str], input: &str) -> Result<String, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = Program::find(&path, program, "some-package")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(program.run(arguments, input))
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
    fn a_program_that_fails_is_quoted_with_its_status_and_the_line_that_it_names() {
        assert_eq!(ran("cat", &[], "in and out").unwrap(), "in and out");
        for complaint in ["because of line 2", "no newline. Error occurred at line: 2"] {
            let script = format!("echo '{complaint}' >&2; exit 3");
            let said = ran("sh", &["-c", &script], "first\nsecond\n")
                .unwrap_err()
                .to_string();
            for part in [complaint, "3", "the line: second"] {
                assert!(said.contains(part), "{said}");
            }
        }
    }

    #[test]
    fn all_lines_that_are_named_are_known() {
        let script = "for n in 1 2 3 4 5 7; do echo \"line $n: RULE_APPEND failed\" >&2; done; exit 4";
        let refused = ran("sh", &["-c", script], "a\nb\nc\nd\ne\nf\n").unwrap_err();
        let Error::Refused { lines, .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!(lines, ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn a_missing_privilege_is_told_from_other_failures() {
        let denied = ran("sh", &["-c", "echo Permission denied >&2; exit 1"], "");
        assert!(matches!(denied, Err(Error::Privilege { .. })), "{denied:?}");
    }
}
