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
        let filter = EnvFilter::try_new(&wanted).map_err(|source| LogError {
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
