// SPDX-License-Identifier: Apache-2.0
//! Moving bytes between sockets: by a pipe inside the kernel, or through memory.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, splice};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::{pipe2, read};

/// What fits a pipe of the kernel's default size (pipe(7)): 16 pages.
const CAPACITY: usize = 64 * 1024;

/// The largest datagram there is.
const BUFFER: usize = 64 * 1024;

thread_local! {
    /// One per thread and not one per connection: an idle connection holds no memory.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// Lends out this thread's buffer. Not to be called by what it calls.
pub(super) fn with_scratch<T>(body: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|buffer| body(buffer))
}

/// Reads once from one socket and sends that to another one. Returns what was read, 0 at the end of the stream, and what
/// the other socket had no room for.
pub(super) fn copy(from: &impl AsFd, to: &impl AsFd) -> io::Result<(usize, Vec<u8>)> {
    with_scratch(|buffer| {
        let length = read(from, buffer)?;
        let bytes = buffer.get(..length).unwrap_or_default();
        let sent = match offer(to, bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        Ok((length, bytes.get(sent..).unwrap_or_default().to_vec()))
    })
}

/// Sends what there is room for.
pub(super) fn offer(to: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    if bytes.is_empty() {
        return Ok(0);
    }
    Ok(send(to.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)?)
}

/// A pipe, for bytes that never come to user space. It is emptied before it is filled again, so that a call that would
/// block says which of the two sockets it waits for.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty pipe.
    ///
    /// # Errors
    /// Too many open files, or the user's pages for pipes are used up.
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        Ok(Self { read, write, held: 0 })
    }

    /// Whether it holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes in what the socket has. 0 at the end of the stream.
    pub(super) fn fill(&mut self, from: &impl AsFd) -> io::Result<usize> {
        self.held += step(from, &self.write, CAPACITY)?;
        Ok(self.held)
    }

    /// Gives out what the socket has room for.
    pub(super) fn drain(&mut self, to: &impl AsFd) -> io::Result<()> {
        let moved = step(&self.read, to, self.held)?;
        if moved == 0 {
            return Err(Errno::EPIPE.into());
        }
        self.held -= moved.min(self.held);
        Ok(())
    }
}

fn step(from: &impl AsFd, to: &impl AsFd, length: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    Ok(splice(from, None, to, None, length, flags)?)
}
