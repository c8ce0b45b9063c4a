// SPDX-License-Identifier: Apache-2.0
//! A proxy on loopback before the real API server that misbehaves as told, while it is told to.
//!
//! In: a control plane, orders. Out: an address that serves the same API with the same certificate, so that any
//! kubeconfig of the control plane works with it; a ledger of what went through. Touches: two TLS connections per client.
//!
//! ```text
//!  client --TLS--> orders: refuse? silence? fail this write? --TLS--> kube-apiserver
//!         <------  valve: cut or hold back watches           <------
//! ```
//!
//! What it can do is what clusters do: write requests are throttled, conflict, fail, or succeed without the client ever
//! hearing of it; watches break; one kind's watch falls behind the others; the server cannot be reached at all.

mod connection;
mod faults;
mod ledger;
mod request;
mod tls;
mod valve;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use faults::{Fault, Told, WriteFaults};
pub use ledger::{Counted, Ledger, Write};
pub use request::{Call, Verb};
pub use valve::Reach;

use crate::controlplane::ControlPlane;
use connection::Upstream;
use faults::Dice;
use valve::Valve;

/// What all connections share with the one who gives orders.
struct Shared {
    dice: Mutex<Option<Dice>>,
    ledger: Mutex<Ledger>,
    /// How many requests are in the ledger.
    entered: watch::Sender<usize>,
    valve: watch::Sender<Valve>,
}

impl Shared {
    fn dice(&self) -> MutexGuard<'_, Option<Dice>> {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a request in the ledger, before its client is told anything.
    fn enter(&self, call: Call, answered: Option<u16>, told: Option<u16>, on_purpose: bool) {
        self.ledger().enter(call, answered, told, on_purpose);
        self.entered.send_modify(|entered| *entered += 1);
    }
}

/// A running interposer; it ends with its handle.
pub struct Interposer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Interposer {
    /// Starts one that passes everything on.
    ///
    /// # Errors
    /// The control plane's certificates cannot be read, or no port can be had.
    pub async fn before(control_plane: &ControlPlane) -> Result<Self> {
        let url: http::Uri = control_plane.url().parse().context("URL of the API server")?;
        let host = url.host().context("URL of the API server")?;
        let upstream = Upstream {
            address: SocketAddr::new(host.trim_matches(['[', ']']).parse()?, control_plane.port()),
            tls: tls::connector(control_plane)?,
        };
        let acceptor = tls::acceptor(control_plane)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            dice: Mutex::default(),
            ledger: Mutex::default(),
            entered: watch::Sender::default(),
            valve: watch::Sender::new(Valve::default()),
        });
        let accepting = tokio::spawn(connection::accept(
            listener,
            acceptor,
            upstream,
            Arc::clone(&shared),
        ));
        Ok(Self {
            address,
            shared,
            accepting,
        })
    }

    /// `https://127.0.0.1:PORT`, in place of the API server's own URL.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A copy of a kubeconfig of the control plane, beside it, that leads here.
    ///
    /// # Errors
    /// It cannot be read, or the copy not be written.
    pub fn kubeconfig(&self, of: &Path) -> Result<PathBuf> {
        let text = std::fs::read_to_string(of).with_context(|| of.display().to_string())?;
        let mut config: serde_json::Value = serde_json::from_str(&text)?;
        config["clusters"][0]["cluster"]["server"] = self.url().into();
        let path = of.with_extension(format!("through-{}", self.address.port()));
        std::fs::write(&path, config.to_string()).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// From now on a share of the writes is answered with faults.
    pub fn fail_writes(&self, faults: WriteFaults) {
        *self.shared.dice() = Some(Dice::new(faults));
    }

    /// Writes are passed on again; yields how many were failed since [`fail_writes`](Self::fail_writes).
    pub fn fail_none(&self) -> usize {
        self.shared.dice().take().map_or(0, |dice| dice.failed())
    }

    /// Breaks every watch that is open now, in the middle of the stream.
    pub fn cut_watches(&self) {
        self.shared.valve.send_modify(|valve| valve.cut += 1);
    }

    /// From now on nothing that a watch of this resource (`services`) says arrives, until [`let_go`](Self::let_go).
    /// Several resources can be held at once.
    pub fn hold_watches(&self, resource: &str) {
        let resource = resource.to_owned();
        self.shared.valve.send_modify(|valve| {
            valve.held.insert(resource);
        });
    }

    /// What was held back arrives now, all of it and in order.
    pub fn let_go(&self) {
        self.shared.valve.send_modify(|valve| valve.held.clear());
    }

    /// Whether clients reach the API server at all.
    pub fn reach(&self, reach: Reach) {
        self.shared.valve.send_modify(|valve| valve.reach = reach);
    }

    /// Waits until so many further requests have been carried out; the clients have not been told yet.
    pub async fn further_requests(&self, count: usize) {
        let mut entered = self.shared.entered.subscribe();
        let goal = *entered.borrow() + count;
        // The sender is ours.
        let _ = entered.wait_for(|entered| *entered >= goal).await;
    }

    /// What went through so far.
    pub fn ledger(&self) -> Ledger {
        self.shared.ledger().clone()
    }
}

impl Drop for Interposer {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reach(Reach::Refused);
    }
}
