// SPDX-License-Identifier: Apache-2.0
//! Asks an address who answers there, from any namespace, and says how it failed.
//!
//! Every function here uses the namespace of the calling thread; [`Probe`] does the same from a namespace given.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::Error;
use crate::netns::Netns;

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    /// The Pod's name.
    pub pod: String,
    /// The client's address as the Pod saw it: a node's after masquerading.
    pub client: IpAddr,
}

/// How an attempt failed, as the client could see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum ProbeError {
    /// A TCP reset, or an ICMP port unreachable message.
    #[error("refused")]
    Refused,
    /// No answer in time.
    #[error("timeout")]
    Timeout,
    /// No route, no neighbour, or an ICMP host or net unreachable message.
    #[error("unreachable")]
    Unreachable,
    /// The connection was made and then broken.
    #[error("reset")]
    Reset,
    /// An answer of another form than `berth-testpod`'s.
    #[error("not an answer of berth-testpod: {0:?}")]
    Garbled(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl ProbeError {
    pub(crate) fn from_io(error: &io::Error) -> Self {
        // std has about 40 kinds and adds to them: those not of interest are told by their text.
        let kind = error.kind();
        if kind == ErrorKind::ConnectionRefused {
            Self::Refused
        } else if matches!(kind, ErrorKind::TimedOut | ErrorKind::WouldBlock) {
            Self::Timeout
        } else if matches!(
            kind,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown
        ) {
            Self::Unreachable
        } else if matches!(
            kind,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof
        ) {
            Self::Reset
        } else {
            Self::Other(error.to_string())
        }
    }
}

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// One TCP connection with the line protocol.
    Tcp,
    /// One TCP connection with HTTP.
    Http,
    /// One datagram from a new port.
    Udp,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Udp => "udp",
        })
    }
}

/// Asks once.
///
/// # Errors
/// How it failed.
pub fn ask(how: How, address: SocketAddr, timeout: Duration) -> Result<Answer, ProbeError> {
    match how {
        How::Tcp => tcp(address, timeout),
        How::Http => http(address, timeout),
        How::Udp => udp(address, timeout),
    }
}

/// Asks by a new TCP connection.
///
/// # Errors
/// How it failed.
pub fn tcp(address: SocketAddr, timeout: Duration) -> Result<Answer, ProbeError> {
    parse(&exchange(address, "who\n", timeout).map_err(|error| ProbeError::from_io(&error))?)
}

/// Asks by HTTP.
///
/// # Errors
/// How it failed; another status than 200 is garbled.
pub fn http(address: SocketAddr, timeout: Duration) -> Result<Answer, ProbeError> {
    let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let response = exchange(address, &request, timeout).map_err(|error| ProbeError::from_io(&error))?;
    match response.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => parse(body),
        _ => Err(ProbeError::Garbled(response)),
    }
}

/// Asks by one datagram from a new port; it is not repeated.
///
/// # Errors
/// How it failed; a port unreachable message is `Refused`.
pub fn udp(address: SocketAddr, timeout: Duration) -> Result<Answer, ProbeError> {
    let exchange = || -> io::Result<String> {
        let socket = udp_socket(address)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.send(b"who\n")?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    parse(&exchange().map_err(|error| ProbeError::from_io(&error))?)
}

/// A socket with a port of its own, connected so that ICMP errors come back to it.
pub(crate) fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if address.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(address)?;
    Ok(socket)
}

/// A socket that the kernel closes by an ICMP error is for a moment closed without its error set
/// (`tcp_done` before `sk_err` is seen), which std reports under this text. The next attempt tells.
const CLOSED_WITHOUT_ERROR: &str = "no error set after POLLHUP";

fn connect(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let first = TcpStream::connect_timeout(&address, timeout);
    match first {
        Err(error) if error.to_string() == CLOSED_WITHOUT_ERROR => {
            TcpStream::connect_timeout(&address, timeout)
        }
        other => other,
    }
}

fn exchange(address: SocketAddr, request: &str, timeout: Duration) -> io::Result<String> {
    let mut stream = connect(address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(request.as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

/// Reads `NAME CLIENT-ADDRESS`, with anything after it.
pub(crate) fn parse(line: &str) -> Result<Answer, ProbeError> {
    let mut words = line.split_whitespace();
    words
        .next()
        .zip(words.next().and_then(|client| client.parse().ok()))
        .map(|(pod, client)| Answer {
            pod: pod.to_owned(),
            client,
        })
        .ok_or_else(|| ProbeError::Garbled(line.to_owned()))
}

/// Who answered how often, and how often which error came instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Answers by Pod.
    pub answers: BTreeMap<String, usize>,
    /// Addresses that the Pods saw.
    pub clients: BTreeMap<IpAddr, usize>,
    /// Failures.
    pub failures: BTreeMap<ProbeError, usize>,
}

impl Spread {
    /// Adds one outcome.
    pub fn add(&mut self, outcome: Result<Answer, ProbeError>) {
        match outcome {
            Ok(answer) => {
                *self.answers.entry(answer.pod).or_default() += 1;
                *self.clients.entry(answer.client).or_default() += 1;
            }
            Err(error) => *self.failures.entry(error).or_default() += 1,
        }
    }

    /// The Pods that answered, in order.
    pub fn pods(&self) -> Vec<&str> {
        self.answers.keys().map(String::as_str).collect()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self.answers.iter().map(|(pod, count)| format!("{pod}:{count}"));
        let failures = self
            .failures
            .iter()
            .map(|(error, count)| format!("{error}:{count}"));
        f.write_str(&answers.chain(failures).collect::<Vec<_>>().join(" "))
    }
}

/// A place to ask from.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Where to ask from.
    pub netns: Netns,
    /// For one attempt.
    pub timeout: Duration,
}

impl Probe {
    /// Asks from this namespace; an attempt may take 2 s.
    pub fn from(netns: &Netns) -> Self {
        Self {
            netns: netns.clone(),
            timeout: Duration::from_secs(2),
        }
    }

    /// Asks once. Blocks for up to the timeout.
    ///
    /// # Errors
    /// How it failed.
    pub fn ask(&self, how: How, address: SocketAddr) -> Result<Answer, ProbeError> {
        self.netns
            .run(|| ask(how, address, self.timeout))
            .unwrap_or_else(|error| Err(ProbeError::Other(error.to_string())))
    }

    /// [`Probe::ask`] without blocking the runtime.
    ///
    /// # Errors
    /// How it failed.
    pub async fn ask_async(&self, how: How, address: SocketAddr) -> Result<Answer, ProbeError> {
        let probe = self.clone();
        tokio::task::spawn_blocking(move || probe.ask(how, address))
            .await
            .unwrap_or_else(|error| Err(ProbeError::Other(error.to_string())))
    }

    /// Asks `count` times, each time by a new connection or from a new port.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn spread(&self, how: How, address: SocketAddr, count: usize) -> Result<Spread, Error> {
        self.netns.run(|| {
            let mut spread = Spread::default();
            for _ in 0..count {
                spread.add(ask(how, address, self.timeout));
            }
            spread
        })
    }

    /// [`Probe::spread`] without blocking the runtime.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub async fn spread_async(&self, how: How, address: SocketAddr, count: usize) -> Result<Spread, Error> {
        let probe = self.clone();
        tokio::task::spawn_blocking(move || probe.spread(how, address, count))
            .await
            .map_err(|error| Error::io("probe")(io::Error::other(error)))?
    }

    /// Whether one ICMP echo is answered within a second.
    ///
    /// # Errors
    /// When `ping` is missing.
    pub fn ping(&self, address: IpAddr) -> Result<bool, Error> {
        crate::sandbox::require_tools(&["ping"])?;
        match self
            .netns
            .output("ping", &["-n", "-q", "-c", "1", "-W", "1", &address.to_string()])
        {
            Ok(_) => Ok(true),
            Err(Error::Command { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_name_and_the_client_and_nothing_else() {
        let answer = |pod: &str, client: &str| {
            Ok(Answer {
                pod: pod.into(),
                client: client.parse().expect("an address"),
            })
        };
        for (line, expected) in [
            ("web-1 10.0.0.1\n", answer("web-1", "10.0.0.1")),
            ("web-1 fd00::1 #17\n", answer("web-1", "fd00::1")),
            ("web-1\n", Err(ProbeError::Garbled("web-1\n".into()))),
            ("HTTP/1.1 400", Err(ProbeError::Garbled("HTTP/1.1 400".into()))),
        ] {
            assert_eq!(parse(line), expected, "{line:?}");
        }
    }
}
