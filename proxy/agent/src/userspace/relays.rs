// SPDX-License-Identifier: Apache-2.0
//! The sockets that relays listen on, each with its task.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use berth_model::{Port, Protocol};
use berth_proxy_core::Target;
use berth_proxy_core::userspace::{PortRange, Relay, RelayIntent, Socket};
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::limits::Capacity;
use super::relay::{Common, Pool, Refusal};
use super::tcp;
use super::udp::UdpRelay;

/// How often the kernel is asked for a port when the one that it chose is a Service's own.
const ATTEMPTS: usize = 16;

/// A relay's listening side. Dropped, it ends; its TCP connections go on.
#[derive(Debug)]
struct Open {
    pool: Arc<Pool>,
    udp: Option<Arc<UdpRelay>>,
    _stop: DropGuard,
}

impl Open {
    fn update(&self, wish: &RelayIntent) {
        match &self.udp {
            Some(relay) => relay.update(wish),
            None => self.pool.update(wish),
        }
    }
}

/// What was bound and does not run yet.
enum Bound {
    Tcp(tokio::net::TcpListener),
    Udp(UdpRelay),
}

/// All of them.
#[derive(Debug)]
pub(super) struct Relays {
    pub(super) common: Arc<Common>,
    ports: PortRange,
    udp_clients: usize,
    /// Where tasks run.
    runtime: Handle,
    open: BTreeMap<Socket, Open>,
    /// The port of the range that was taken last.
    last: Option<Port>,
    /// Those that could not be opened, and why.
    failing: BTreeMap<Relay, String>,
}

impl Relays {
    /// None yet. Their tasks run on `runtime`.
    pub(super) fn new(mark: u32, ports: PortRange, capacity: Capacity, runtime: Handle) -> Self {
        Self {
            common: Arc::new(Common::new(mark, capacity.connections)),
            ports,
            udp_clients: capacity.udp_clients,
            runtime,
            open: BTreeMap::new(),
            last: None,
            failing: BTreeMap::new(),
        }
    }

    /// How many listen.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Opens a relay on a port of the address that is nobody's: not another socket's, and not `taken` by a Service. One
    /// that moves from `before` takes its balancer along, with its clients.
    ///
    /// # Errors
    /// No port is free, the address is not there (yet), or there are no descriptors.
    pub(super) fn open(
        &mut self,
        relay: &Relay,
        ip: IpAddr,
        wish: &RelayIntent,
        before: Option<Socket>,
        taken: impl Fn(&Socket) -> bool,
    ) -> io::Result<Socket> {
        let pool = before.and_then(|before| Some(Arc::clone(&self.open.get(&before)?.pool)));
        let pool = pool.unwrap_or_else(|| Arc::new(Pool::new(Arc::clone(&self.common))));
        let runtime = self.runtime.clone();
        let _entered = runtime.enter();
        let (bound, socket) = self.bind(relay.protocol(), ip, &pool, taken)?;
        let stop = CancellationToken::new();
        let udp = match bound {
            Bound::Tcp(listener) => {
                let serving = tcp::serve(listener, Arc::clone(&pool), stop.clone());
                self.runtime.spawn(serving);
                None
            }
            Bound::Udp(relay) => {
                let relay = Arc::new(relay);
                self.runtime.spawn(Arc::clone(&relay).serve(stop.clone()));
                Some(relay)
            }
        };
        let open = Open {
            pool,
            udp,
            _stop: stop.drop_guard(),
        };
        open.update(wish);
        self.open.insert(socket, open);
        self.failing.remove(relay);
        Ok(socket)
    }

    /// Has a relay go by other endpoints, or another affinity.
    pub(super) fn update(&self, socket: &Socket, wish: &RelayIntent) {
        if let Some(open) = self.open.get(socket) {
            open.update(wish);
        }
    }

    /// Stops to listen.
    pub(super) fn close(&mut self, socket: &Socket) {
        self.open.remove(socket);
    }

    fn bind(
        &mut self,
        protocol: Protocol,
        ip: IpAddr,
        pool: &Arc<Pool>,
        taken: impl Fn(&Socket) -> bool,
    ) -> io::Result<(Bound, Socket)> {
        let bind = |port: u16| -> io::Result<(Bound, Option<Socket>)> {
            let (bound, at) = listen(protocol, SocketAddr::new(ip, port), pool, self.udp_clients)?;
            let port = Port::new(at.port());
            let socket = port.map(|port| Socket {
                protocol,
                at: Target { ip, port },
            });
            Ok((bound, socket.filter(|socket| !taken(socket))))
        };
        let mut refused = Vec::new();
        if self.ports == PortRange::Any {
            for _ in 0..ATTEMPTS {
                match bind(0)? {
                    (bound, Some(socket)) => return Ok((bound, socket)),
                    // Kept meanwhile, so that the kernel does not choose it again.
                    (bound, None) => refused.push(bound),
                }
            }
        }
        let behind = self.last.and_then(|last| last.checked_add(1));
        for port in self.ports.from(behind) {
            match bind(port.get()) {
                Ok((bound, Some(socket))) => {
                    self.last = Some(port);
                    return Ok((bound, socket));
                }
                Ok((_, None)) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Forgets relays that could not be opened and that nobody wants any more.
    pub(super) fn forget_failing(&mut self, is_wanted: impl Fn(&Relay) -> bool) {
        self.failing.retain(|relay, _| is_wanted(relay));
    }

    /// Those that could not be opened, and why.
    pub(super) fn failing(&self) -> impl Iterator<Item = (&Relay, &str)> {
        self.failing.iter().map(|(relay, why)| (relay, why.as_str()))
    }

    /// Notes that a relay could not be opened.
    pub(super) fn not_opened(&mut self, relay: &Relay, error: &io::Error) {
        self.common.count(Refusal::NotOpened);
        let hint = match (error.kind(), self.ports) {
            (io::ErrorKind::AddrInUse, PortRange::Within { .. }) => {
                "no port of --proxy-port-range is free; widen it, or leave it out"
            }
            _ => "tried again soon",
        };
        let why = format!("{}: relay for {relay}: {error}; {hint}", Refusal::NotOpened);
        self.failing.insert(relay.clone(), why);
    }
}

fn listen(
    protocol: Protocol,
    at: SocketAddr,
    pool: &Arc<Pool>,
    udp_clients: usize,
) -> io::Result<(Bound, SocketAddr)> {
    match protocol {
        Protocol::Tcp => {
            let listener = tcp::listen(at)?;
            let at = listener.local_addr()?;
            Ok((Bound::Tcp(listener), at))
        }
        Protocol::Udp => {
            let relay = UdpRelay::listen(at, Arc::clone(pool), udp_clients)?;
            let at = relay.local_addr()?;
            Ok((Bound::Udp(relay), at))
        }
        Protocol::Sctp => Err(io::ErrorKind::Unsupported.into()),
    }
}
