// SPDX-License-Identifier: Apache-2.0
//! The Pod's two servers, and the clients that use them for a while.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use berth_testkit::netns::Netns;
use socket2::SockRef;

/// What a Pod listens on: answers each connection with a byte.
pub(super) const ANSWERS: u16 = 9_000;
/// What a Pod listens on: reads a connection to its end, and says how much that was.
pub(super) const READS: u16 = 9_001;
/// Of clients that connect.
pub(super) const THREADS: usize = 4;
/// Read or written at once.
const CHUNK: usize = 256 << 10;
/// For a handshake. A SYN that was lost comes again after 1 s and 3 s.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of so many connections one may fail, and is told of: through iptables-nft a connection left the node untranslated now and
/// then, by Berth's rules and by kube-proxy's, for a reason not found yet.
const SELDOM: u32 = 1_000;

/// Serves on both ports in a Pod's namespace; ends with the process.
pub(super) fn serve(pod: &Netns) -> Result<()> {
    let listen = |port| pod.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
    let (answers, reads) = (listen(ANSWERS)??, listen(READS)??);
    thread::spawn(move || {
        for mut stream in answers.incoming().flatten() {
            let _gone = stream.write_all(b"!");
        }
    });
    thread::spawn(move || {
        for stream in reads.incoming().flatten() {
            thread::spawn(move || read_to_end(stream));
        }
    });
    Ok(())
}

fn read_to_end(mut stream: TcpStream) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut total: u64 = 0;
    loop {
        match stream.read(&mut chunk)? {
            0 => return stream.write_all(&total.to_be_bytes()),
            read => total += read as u64,
        }
    }
}

/// What became of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Connections {
    /// Answered, a second.
    pub(super) rate: f64,
    /// That could not be made, all in all.
    pub(super) failed: u32,
}

/// Connects for so long, from some threads. Blocks.
///
/// # Errors
/// More than one in [`SELDOM`] is not made; one that was made is not answered.
pub(super) fn connections(client: &Netns, to: SocketAddr, duration: Duration) -> Result<Connections> {
    let started = Instant::now();
    let threads: Result<Vec<_>> = (0..THREADS)
        .map(|_| Ok(client.run(|| thread::spawn(move || connect_until(to, started + duration)))?))
        .collect();
    let (mut made, mut failed) = (0, 0);
    for thread in threads? {
        let counted = thread.join().map_err(|_| anyhow!("a client panicked"))??;
        made += counted.0;
        failed += counted.1;
    }
    ensure!(
        failed <= made / SELDOM,
        "{to}: {failed} connections failed beside {made}"
    );
    Ok(Connections {
        rate: f64::from(made) / started.elapsed().as_secs_f64(),
        failed,
    })
}

/// How many were made, and how many not.
fn connect_until(to: SocketAddr, end: Instant) -> Result<(u32, u32)> {
    let (mut made, mut failed) = (0, 0);
    while Instant::now() < end {
        let Ok(stream) = TcpStream::connect_timeout(&to, PATIENCE) else {
            failed += 1;
            continue;
        };
        answered(stream).with_context(|| format!("{to}"))?;
        made += 1;
    }
    Ok((made, failed))
}

/// One connection, answered. Blocks.
///
/// # Errors
/// It is not made, or not answered.
pub(super) fn connect(to: SocketAddr) -> std::io::Result<()> {
    answered(TcpStream::connect_timeout(&to, PATIENCE)?)
}

fn answered(mut stream: TcpStream) -> std::io::Result<()> {
    // Ended by a reset: neither side remembers it.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0])
}

/// Writes to one connection for so long, and says how many Gbit a second arrived. Blocks.
///
/// # Errors
/// The connection breaks.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn throughput(client: &Netns, to: SocketAddr, duration: Duration) -> Result<f64> {
    let mut stream = client.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    let chunk = vec![0; CHUNK];
    let started = Instant::now();
    while started.elapsed() < duration {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut arrived = [0; 8];
    stream.read_exact(&mut arrived)?;
    let bits = 8.0 * u64::from_be_bytes(arrived) as f64;
    Ok(bits / 1e9 / started.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_told_at_the_end() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || read_to_end(listener.accept().unwrap().0));
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&vec![7; CHUNK + 3]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut told = [0; 8];
        stream.read_exact(&mut told).unwrap();
        assert_eq!(u64::from_be_bytes(told), CHUNK as u64 + 3);
        server.join().unwrap().unwrap();
    }
}
