// SPDX-License-Identifier: Apache-2.0
//! Where Services come from: an API server, or a file.

use std::path::PathBuf;

use berth_runtime::client::{ApiArgs, Connection};
use berth_runtime::exit::{Code, ExitError};
use berth_runtime::watch::WatchMetrics;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::events::Events;
use crate::feed::{self, Event, Selection};
use crate::state_file;

/// Not asked yet.
pub(crate) enum Source {
    /// An API server, and how long it may be away at the start.
    Server(Box<Connection>, ApiArgs),
    /// `--state`.
    File(PathBuf),
}

impl Source {
    /// The file, if there is one, else the API server that `api` names.
    ///
    /// # Errors
    /// What names the API server makes no sense.
    pub(crate) async fn open(file: Option<PathBuf>, api: ApiArgs) -> Result<Self, ExitError> {
        Ok(match file {
            Some(file) => Self::File(file),
            None => Self::Server(Box::new(api.connect().await?), api),
        })
    }

    /// For people.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Server(connection, _) => connection.origin().to_string(),
            Self::File(file) => file.display().to_string(),
        }
    }

    /// Where events about Services go: with a file, nowhere.
    pub(crate) fn publisher(&self, node: &str) -> Events {
        match self {
            Self::Server(connection, _) => Events::start(connection.client(), node),
            Self::File(_) => Events::nowhere(),
        }
    }

    /// Starts to read.
    ///
    /// # Errors
    /// The API server does not answer (4), the file cannot be read (2).
    pub(crate) async fn read(
        &self,
        selection: &Selection,
        metrics: WatchMetrics,
        stop: &CancellationToken,
    ) -> Result<mpsc::Receiver<Event>, ExitError> {
        match self {
            Self::Server(connection, api) => {
                connection.contact(api.patience(), stop).await?;
                Ok(feed::start(&connection.client(), selection, metrics))
            }
            Self::File(file) => {
                state_file::start(file, selection).map_err(|error| ExitError::new(Code::Usage, error))
            }
        }
    }
}
