// SPDX-License-Identifier: Apache-2.0
//! What goes over a connection between replicas: frames of JSON, each behind its length (4 bytes, big endian).
//!
//! Both ends first say who they are. JSON, since messages are small and few, and a capture of them is readable.

use std::io;

use berth_controllers_core::holder::ReplicaId;
use futures::{SinkExt, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::bytes::Bytes;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// Goes up with each change that an older replica would misread.
pub(super) const VERSION: u32 = 1;
/// A welcome lists every hold: 100,000 of them stay below.
const LONGEST_FRAME: usize = 64 * 1024 * 1024;

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Of the protocol.
    pub(super) version: u32,
    /// The Lease that it follows.
    pub(super) lease: String,
    /// Which replica it is.
    pub(super) id: ReplicaId,
}

/// A message as it travels.
pub(super) fn encode<T: Serialize>(message: &T) -> io::Result<Bytes> {
    Ok(Bytes::from(serde_json::to_vec(message)?))
}

/// A connection.
pub(super) struct Wire<S>(Framed<S, LengthDelimitedCodec>);

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        let mut codec = LengthDelimitedCodec::new();
        codec.set_max_frame_length(LONGEST_FRAME);
        Self(Framed::new(stream, codec))
    }

    /// Writes a message, with whatever else was written before.
    pub(super) async fn send(&mut self, message: Bytes) -> io::Result<()> {
        self.0.send(message).await
    }

    /// Writes a message, at the latest with the next that is sent.
    pub(super) async fn feed(&mut self, message: Bytes) -> io::Result<()> {
        self.0.feed(message).await
    }

    /// Writes out what was fed.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        SinkExt::<Bytes>::flush(&mut self.0).await
    }

    /// The next message.
    ///
    /// # Errors
    /// The connection is over, or what came is none of ours.
    pub(super) async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let Some(frame) = self.0.next().await else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        Ok(serde_json::from_slice(&frame?)?)
    }
}
