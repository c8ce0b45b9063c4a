// SPDX-License-Identifier: Apache-2.0
//! Two TCP connections made one: bytes, ends and resets of each side are passed on to the other.

use std::io;
use std::pin::pin;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::pipe::{self, Pipe};

/// What a direction moves through memory before it gets a pipe: most connections are short, and a pipe costs two
/// descriptors and three system calls.
const SPLICE_AFTER: usize = 64 * 1024;

/// A peer that is gone without a word is noticed after 60 s + 4 * 15 s: a dead connection holds descriptors. (In the
/// kernel's modes it is an entry of conntrack, for 24 h.)
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;

/// How two joined connections ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Each side said all that it had to say.
    Closed,
    /// One side was reset or went away; so was the other one, then.
    Reset,
}

/// Passes everything on between two connections until both directions have ended.
///
/// * The end of one direction is passed on as such (FIN); the other direction goes on.
/// * A reset of either side, also of one whose direction has ended, resets the other side.
/// * Bytes go through memory at first, and through a pipe inside the kernel (`splice(2)`) once there are many. Where there
///   is no pipe to be had, they go on through memory.
pub async fn join(client: TcpStream, server: TcpStream) -> Ended {
    let outcome = {
        let mut up = pin!(pump(&client, &server));
        let mut down = pin!(pump(&server, &client));
        tokio::select! {
            first = &mut up => match first {
                Ok(()) => rest(down, &client).await,
                Err(error) => Err(error),
            },
            first = &mut down => match first {
                Ok(()) => rest(up, &server).await,
                Err(error) => Err(error),
            },
        }
    };
    match outcome {
        Ok(()) => Ended::Closed,
        Err(error) => {
            tracing::trace!(%error, "connection reset");
            reset(client);
            reset(server);
            Ended::Reset
        }
    }
}

/// Closes a connection by RST.
pub(super) fn reset(stream: TcpStream) {
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    if let Err(error) = setsockopt(&stream, sockopt::Linger, &at_once) {
        tracing::debug!(%error, "closed without a reset");
    }
    drop(stream);
}

/// Sets what both sides have: no waiting for full segments, since whoever wants that does it himself, and keepalive.
pub(super) fn tune(socket: &impl std::os::fd::AsFd) -> nix::Result<()> {
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &seconds(KEEPALIVE_IDLE))?;
    setsockopt(socket, sockopt::TcpKeepInterval, &seconds(KEEPALIVE_INTERVAL))?;
    setsockopt(socket, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)
}

/// The direction that is left. Nobody reads from the side whose own has ended, so its reset is watched for.
async fn rest(last: impl Future<Output = io::Result<()>>, ended: &TcpStream) -> io::Result<()> {
    tokio::select! {
        biased;
        outcome = last => outcome,
        error = failure(ended) => Err(error),
    }
}

async fn failure(of: &TcpStream) -> io::Error {
    let failed = of.async_io(Interest::ERROR, || match of.take_error()? {
        Some(error) => Ok(error),
        None => Err(io::ErrorKind::WouldBlock.into()),
    });
    failed.await.unwrap_or_else(|error| error)
}

/// Moves one direction to its end.
async fn pump(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let mut moved = 0;
    let mut pipe = None;
    loop {
        let length = match &mut pipe {
            None => through_memory(from, to).await?,
            Some(pipe) => through_pipe(from, to, pipe).await?,
        };
        if length == 0 {
            return finish(to);
        }
        moved += length;
        if pipe.is_none() && moved >= SPLICE_AFTER {
            pipe = Pipe::new().ok();
            // Without one, it is asked for again after as much.
            moved = 0;
        }
    }
}

async fn through_memory(from: &TcpStream, to: &TcpStream) -> io::Result<usize> {
    let (length, left) = from.async_io(Interest::READABLE, || pipe::copy(from, to)).await?;
    let mut left = left.as_slice();
    while !left.is_empty() {
        let sent = to.async_io(Interest::WRITABLE, || pipe::offer(to, left)).await?;
        left = left.get(sent..).unwrap_or_default();
    }
    Ok(length)
}

async fn through_pipe(from: &TcpStream, to: &TcpStream, pipe: &mut Pipe) -> io::Result<usize> {
    let length = from.async_io(Interest::READABLE, || pipe.fill(from)).await?;
    while !pipe.is_empty() {
        to.async_io(Interest::WRITABLE, || pipe.drain(to)).await?;
    }
    Ok(length)
}

/// Passes the end of a direction on.
fn finish(to: &TcpStream) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    match shutdown(to.as_raw_fd(), Shutdown::Write) {
        // It is gone altogether: there is nobody to tell.
        Ok(()) | Err(Errno::ENOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
