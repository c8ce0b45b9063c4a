// SPDX-License-Identifier: Apache-2.0
//! Structured logs on standard error.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// Format of the log lines on standard error
    #[arg(long, env = "BERTH_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,

    /// Level, or a filter such as info,berth_runtime=debug (RUST_LOG wins where it is set)
    #[arg(long, env = "BERTH_LOG_LEVEL", value_name = "FILTER", default_value = "info")]
    pub log_level: String,
}

/// The filter does not parse.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log-level (or RUST_LOG) {filter:?} is no log filter: {source}; write for example info or berth=debug"
)]
pub struct LogError {
    filter: String,
    source: ParseError,
}

/// kube repeats each refused list at level warn; our watches say it once.
fn complete(wanted: &str) -> String {
    if wanted.contains("kube_runtime") {
        wanted.to_owned()
    } else {
        format!("{wanted},kube_runtime::watcher=error")
    }
}

impl LogArgs {
    /// Installs the subscriber for the whole process. A second call changes nothing.
    ///
    /// # Errors
    /// Where the filter does not parse.
    pub fn install(&self) -> Result<(), LogError> {
        let wanted = std::env::var("RUST_LOG")
            .ok()
            .filter(|value| !value.is_empty())
            .unwrap_or_else(|| self.log_level.clone());
        let filter = EnvFilter::try_new(complete(&wanted)).map_err(|source| LogError {
            filter: wanted,
            source,
        })?;
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none());
        let installed = match self.log_format {
            LogFormat::Text => builder.try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
        if let Err(error) = installed {
            tracing::debug!(%error, "logging was already set up");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubes_repetitions_are_silent_unless_asked_for() {
        assert_eq!(complete("info"), "info,kube_runtime::watcher=error");
        assert_eq!(complete("kube_runtime=debug"), "kube_runtime=debug");
    }

    #[test]
    fn a_filter_that_does_not_parse_is_named() {
        let args = LogArgs {
            log_format: LogFormat::Text,
            log_level: "berth=loud".to_owned(),
        };
        // RUST_LOG wins where it is set: then there is nothing to show.
        if std::env::var_os("RUST_LOG").is_none() {
            let text = args.install().unwrap_err().to_string();
            assert!(text.contains("--log-level") && text.contains("loud"), "{text}");
        }
    }
}
