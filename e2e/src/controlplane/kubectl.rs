// SPDX-License-Identifier: Apache-2.0
//! kubectl, run against the test cluster and nothing else.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::error::ControlPlaneError;

/// Longer than any command of ours waits by itself (`kubectl wait --timeout`).
const DEADLINE: Duration = Duration::from_secs(300);

/// The machine's proxies are for the outside; the test cluster is not there.
const PROXIES: [&str; 6] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// kubectl with one kubeconfig. Its caches stay in the control plane's folder: nothing in HOME is touched.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: Option<PathBuf>,
    kubeconfig: PathBuf,
    cache: PathBuf,
    /// Besides those of this process.
    variables: Vec<(String, OsString)>,
}

impl Kubectl {
    pub(super) fn new(program: Option<PathBuf>, kubeconfig: PathBuf, cache: PathBuf) -> Self {
        Self {
            program,
            kubeconfig,
            cache,
            variables: Vec::new(),
        }
    }

    /// The same, with another environment variable.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Where it is, if there is one.
    pub fn program(&self) -> Option<&Path> {
        self.program.as_deref()
    }

    /// Runs it and returns its stdout; the error carries its stderr.
    pub async fn run<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String, ControlPlaneError> {
        self.run_with_input(arguments, "").await
    }

    /// As [`Kubectl::run`], with `input` on stdin (`apply -f -`).
    pub async fn run_with_input<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &str,
    ) -> Result<String, ControlPlaneError> {
        let arguments: Vec<OsString> = arguments.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let failed = |why: String| ControlPlaneError::Kubectl {
            arguments: arguments.join(OsStr::new(" ")).to_string_lossy().into_owned(),
            why,
        };
        let program = self.program.as_deref().ok_or_else(|| {
            failed(
                "no kubectl in KUBEBUILDER_ASSETS nor on PATH: add one, or unset KUBEBUILDER_ASSETS"
                    .to_owned(),
            )
        })?;
        let output = tokio::time::timeout(DEADLINE, self.output(program, &arguments, input))
            .await
            .map_err(|_| failed(format!("did not end within {DEADLINE:?}")))?
            .map_err(|error| failed(format!("{}: {error}", program.display())))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(failed(format!(
                "{}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            )))
        }
    }

    async fn output(
        &self,
        program: &Path,
        arguments: &[OsString],
        input: &str,
    ) -> std::io::Result<std::process::Output> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", &self.cache)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        for proxy in PROXIES {
            command.env_remove(proxy);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A kubectl that ends before it read everything says why on stderr.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        output
    }
}
