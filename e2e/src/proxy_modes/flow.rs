// SPDX-License-Identifier: Apache-2.0
//! A UDP client that keeps its port, so that all that it sends is one flow, which conntrack remembers as long as it sends;
//! and clients that come one after the other all the time.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use berth_testkit::wait::eventually;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::expect::To;
use crate::cluster::PATIENCE;
use crate::proxy_peer::answer::{Outcomes, Protocol, clients};
use crate::proxy_peer::world::{Origin, World};

/// An answer that is not there by then is lost.
const ANSWER: Duration = Duration::from_millis(500);

/// The client.
#[derive(Debug)]
pub struct Flow {
    socket: UdpSocket,
    what: String,
}

impl Flow {
    /// Opens a client; nothing is sent yet.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn open(world: &World, from: Origin, to: To, ipv6: bool) -> Result<Self> {
        let any: IpAddr = if ipv6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let socket = world.origin(from).run(|| std::net::UdpSocket::bind((any, 0)))??;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        socket.connect(to.address(ipv6)).await?;
        let what = format!("{from:?} to {to:?} {}", to.address(ipv6));
        Ok(Self { socket, what })
    }

    /// Sends until this endpoint (`NAME:PORT`) answers, and a few times more, which it has to answer as well.
    ///
    /// # Errors
    /// Another one goes on answering, or none does.
    pub async fn is_answered_by(&self, endpoint: &str) -> Result<()> {
        let by = || async {
            let met = self.once().await?;
            ensure!(met == endpoint, "{met:?}");
            anyhow::Ok(())
        };
        eventually(format!("{} answered by {endpoint}", self.what), PATIENCE, by).await?;
        for _ in 0..3 {
            let met = self.once().await?;
            // One may be lost on a busy machine.
            let fits = met == endpoint || met.is_empty();
            ensure!(fits, "{}: {met:?} once {endpoint} had answered", self.what);
        }
        Ok(())
    }

    /// Sends until it is refused.
    ///
    /// # Errors
    /// It goes on being answered.
    pub async fn is_refused(&self) -> Result<()> {
        let refused = || async {
            let met = self.once().await?;
            ensure!(met == "refused", "{met:?}");
            anyhow::Ok(())
        };
        Ok(eventually(format!("{} refused", self.what), PATIENCE, refused).await?)
    }

    /// Who answered one datagram; `refused`; nothing.
    async fn once(&self) -> Result<String> {
        let exchanged = async {
            self.socket.send(b"who").await?;
            let mut answer = [0; 128];
            let length = self.socket.recv(&mut answer).await?;
            std::io::Result::Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
        };
        match tokio::time::timeout(ANSWER, exchanged).await {
            Ok(Ok(answer)) => Ok(answer.split(' ').next().unwrap_or_default().to_owned()),
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Ok("refused".to_owned()),
            Ok(Err(error)) => Err(error.into()),
            Err(_elapsed) => Ok(String::new()),
        }
    }
}

/// Between two clients of [`Traffic`].
const PACE: Duration = Duration::from_millis(2);

/// New connections, one after the other, until it is asked how they went.
#[derive(Debug)]
pub struct Traffic {
    over: Arc<AtomicBool>,
    clients: JoinHandle<Result<(usize, Outcomes)>>,
}

impl Traffic {
    /// Begins.
    pub fn start(world: &World, from: Origin, to: To) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (netns, told) = (world.origin(from).clone(), Arc::clone(&over));
        let clients = tokio::spawn(async move {
            let (mut count, mut others) = (0, Outcomes::new());
            while !told.load(Ordering::Relaxed) {
                for client in clients(&netns, Protocol::Tcp, None, false, 1)? {
                    let outcome = client.ask(to.address(false)).await;
                    others.extend(Some(outcome).filter(|outcome| !outcome.is_answer()));
                    count += 1;
                }
                tokio::time::sleep(PACE).await;
            }
            Ok((count, others))
        });
        Self { over, clients }
    }

    /// Ends it, and says how many clients there were.
    ///
    /// # Errors
    /// One of them was not answered.
    pub async fn all_answered(self) -> Result<usize> {
        self.over.store(true, Ordering::Relaxed);
        let (count, others) = self.clients.await??;
        ensure!(others.is_empty(), "of {count} clients some met {others:?}");
        Ok(count)
    }
}
