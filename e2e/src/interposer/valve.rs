// SPDX-License-Identifier: Apache-2.0
//! What connections have to know while they run.

use std::collections::BTreeSet;

use tokio::sync::watch;

/// Whether clients reach the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// They do.
    #[default]
    Open,
    /// Connections are closed, new ones at once.
    Refused,
    /// Nothing is answered, as when packets are lost. What hangs when this ends is closed and never passed on.
    Silent,
}

/// The state that orders change.
#[derive(Clone, Debug, Default)]
pub(super) struct Valve {
    pub(super) reach: Reach,
    /// Goes up by one each time all watches are to break.
    pub(super) cut: u64,
    /// Resources whose watches are held back.
    pub(super) held: BTreeSet<String>,
}

/// The connection is to be closed.
#[derive(Debug, thiserror::Error)]
#[error("cut by the interposer")]
pub(super) struct Cut;

/// Goes on where the server is within reach. In silence it waits for the end of it, and then fails.
pub(super) async fn passable(valve: &mut watch::Receiver<Valve>) -> Result<(), Cut> {
    let reach = valve.borrow_and_update().reach;
    match reach {
        Reach::Open => Ok(()),
        Reach::Refused => Err(Cut),
        Reach::Silent => {
            // An error means that the interposer has ended: the same.
            let _ = valve.wait_for(|valve| valve.reach != Reach::Silent).await;
            Err(Cut)
        }
    }
}

/// Returns once connections are refused.
pub(super) async fn refused(valve: &mut watch::Receiver<Valve>) {
    // An error means that the interposer has ended: the same.
    let _ = valve.wait_for(|valve| valve.reach == Reach::Refused).await;
}
