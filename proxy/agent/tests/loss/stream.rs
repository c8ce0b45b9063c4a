// SPDX-License-Identifier: Apache-2.0
//! Requests one behind the other, with hardly a pause, from some threads: short TCP connections, and UDP exchanges, of which each is a flow of
//! its own: no two of them come from the same address and port.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use berth_testkit::netns::Netns;
use berth_testkit::wait::eventually_blocking;
use nix::sys::socket::{setsockopt, sockopt};

/// How long an answer is waited for. Longer than the kernel waits before it sends a SYN again (1 s), three times.
const PATIENCE: Duration = Duration::from_secs(8);
/// After a failure, so that failures do not take the machine from whoever repairs.
const PAUSE: Duration = Duration::from_millis(1);
/// After any request. Each leaves a flow behind that the kernel remembers for some seconds; where its table is full, it
/// gives up flows that are in use, and answers are lost under any proxy.
const BREATH: Duration = Duration::from_micros(300);
/// Addresses that datagrams come from.
pub(crate) const CLIENTS: &str = "10.244.128.0/17";
/// Threads of each transport.
const THREADS: usize = 3;
/// No thread makes more requests.
const MOST: usize = 200_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// What became of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) transport: Transport,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    /// Who answered.
    pub(crate) answer: Result<u16, ErrorKind>,
}

pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<Request>>>,
}

impl Stream {
    pub(crate) fn start(client: &Netns, to: SocketAddr) -> anyhow::Result<Self> {
        let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let spawn = |(number, transport)| {
            let (stop, ended) = (Arc::clone(&stop), Arc::clone(&ended));
            let run = move || requests(transport, number, to, &stop, &ended);
            // Threads inherit the namespace of the one that starts them.
            Ok(client.run(|| std::thread::spawn(run))?)
        };
        let transports = [Transport::Tcp, Transport::Udp].into_iter();
        let transports = transports.flat_map(|transport| (0..).zip([transport; THREADS]));
        let threads = transports.map(spawn);
        let threads = threads.collect::<anyhow::Result<_>>()?;
        Ok(Self { stop, ended, threads })
    }

    /// Waits until so many more requests have ended.
    pub(crate) fn more(&self, requests: usize) -> anyhow::Result<()> {
        let wanted = self.ended.load(Ordering::Relaxed) + requests;
        eventually_blocking("requests", Duration::from_secs(60), || {
            match self.ended.load(Ordering::Relaxed) {
                ended if ended >= wanted => Ok(()),
                ended => Err(format!("{ended} of {wanted}")),
            }
        })?;
        Ok(())
    }

    pub(crate) fn finish(self) -> anyhow::Result<Vec<Request>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            let requests = thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
            all.extend(requests);
        }
        all.sort_by_key(|request| request.begun);
        all.first().context("no request at all")?;
        Ok(all)
    }
}

fn requests(
    transport: Transport,
    thread: u8,
    to: SocketAddr,
    stop: &AtomicBool,
    ended: &AtomicUsize,
) -> Vec<Request> {
    let mut sources = sources(thread);
    let mut requests = Vec::new();
    while !stop.load(Ordering::Relaxed) && requests.len() < MOST {
        let begun = Instant::now();
        let answer = match transport {
            Transport::Tcp => tcp(to),
            Transport::Udp => udp(sources.next().unwrap(), to),
        };
        let answer = answer.map_err(|error| error.kind());
        requests.push(Request {
            transport,
            begun,
            ended: Instant::now(),
            answer,
        });
        ended.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(if answer.is_err() { PAUSE } else { BREATH });
    }
    requests
}

fn number(text: &str) -> std::io::Result<u16> {
    text.trim().parse().map_err(|_| ErrorKind::InvalidData.into())
}

fn tcp(to: SocketAddr) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    // Ended by a reset, since the pod's side would otherwise remember thousands of connections.
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &linger)?;
    number(&answer)
}

/// Addresses and ports of a thread's own, out of [`CLIENTS`].
fn sources(thread: u8) -> impl Iterator<Item = SocketAddr> {
    let address = move |n: u8| Ipv4Addr::new(10, 244, 128 + thread, n);
    (1..=254).flat_map(move |n| (10_000..60_000).map(move |port| (address(n), port).into()))
}

fn udp(from: SocketAddr, to: SocketAddr) -> std::io::Result<u16> {
    let socket = UdpSocket::bind(from)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    let mut buffer = [0; 16];
    let length = socket.recv(&mut buffer)?;
    number(&String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()))
}
