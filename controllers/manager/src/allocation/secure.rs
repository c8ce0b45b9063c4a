// SPDX-License-Identifier: Apache-2.0
//! Mutual TLS between replicas, with the credentials of the moment.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::admission::{Credentials, replica_name};
use crate::handout::Secure;

/// Certificates of Berth's own authority, on both sides.
pub(super) struct ReplicaTls {
    credentials: watch::Receiver<Option<Arc<Credentials>>>,
}

impl ReplicaTls {
    pub(super) fn new(credentials: watch::Receiver<Option<Arc<Credentials>>>) -> Self {
        Self { credentials }
    }

    fn present(&self) -> io::Result<Arc<Credentials>> {
        let present = self.credentials.borrow().clone();
        present.ok_or_else(|| io::Error::other("this replica has no certificate yet"))
    }
}

impl Secure for ReplicaTls {
    type Stream = TlsStream<TcpStream>;

    async fn client(&self, tcp: TcpStream) -> io::Result<Self::Stream> {
        let connector = TlsConnector::from(self.present()?.replica_client());
        Ok(connector.connect(replica_name(), tcp).await?.into())
    }

    async fn server(&self, tcp: TcpStream) -> io::Result<Self::Stream> {
        let acceptor = TlsAcceptor::from(self.present()?.replica_server());
        Ok(acceptor.accept(tcp).await?.into())
    }
}
