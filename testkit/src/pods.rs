// SPDX-License-Identifier: Apache-2.0
//! Pods: a namespace behind a node, routed point to point, with a process that really listens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Error;
use crate::lan::{INTERFACE, Node, POD_SYSCTLS};
use crate::netns::Netns;
use crate::process::{Process, Spec, binary};

/// Where each Pod finds its node: the same link-local address on every link, as several CNI plug-ins do.
const GATEWAY6: &str = "fe80::1";
/// The Pod's end of the link.
pub const POD_INTERFACE: &str = INTERFACE;

/// The addresses of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Addresses {
    /// In 10.244.N.0/24.
    pub ipv4: Ipv4Addr,
    /// In `fd00:10:244:N::/64`.
    pub ipv6: Ipv6Addr,
}

impl Addresses {
    /// Both, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        [self.ipv4.into(), self.ipv6.into()]
    }
}

/// What a Pod's process does.
#[derive(Clone, Debug, Default)]
pub struct Serve {
    /// TCP ports, both families.
    pub tcp: Vec<u16>,
    /// UDP ports, both families.
    pub udp: Vec<u16>,
    /// Goes on serving for so long after SIGTERM; ends at once without it.
    pub linger: Option<Duration>,
}

/// A Pod without a process. Dropping it removes the namespace and gives the addresses back.
#[derive(Debug)]
pub struct Pod {
    name: String,
    netns: Netns,
    node: Node,
    /// The node's end of the link.
    link: String,
    addresses: Addresses,
}

/// Namespaces and links need names that no other Pod of the sandbox ever had.
static NEXT: AtomicU64 = AtomicU64::new(1);

impl Pod {
    /// Makes a Pod on a node. `wanted` is its address of an earlier life, kept if it can be.
    ///
    /// # Errors
    /// When the node's range is used up or the kernel refuses.
    pub fn create(node: &Node, name: &str, wanted: Option<Ipv4Addr>) -> Result<Self, Error> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let link = format!("pod{number:x}");
        let addresses = node.allocate(&link, wanted)?;
        let netns = match Netns::create(&format!("{link}-{}", name.replace('/', "_"))) {
            Ok(netns) => netns,
            Err(error) => {
                node.release(addresses);
                return Err(error);
            }
        };
        // From here on dropping it cleans up.
        let pod = Self {
            name: name.to_owned(),
            netns,
            node: node.clone(),
            link,
            addresses,
        };
        pod.connect()?;
        Ok(pod)
    }

    fn connect(&self) -> Result<(), Error> {
        self.netns.sysctl(POD_SYSCTLS)?;
        let Addresses { ipv4, ipv6 } = self.addresses;
        let (link, inside, gateway) = (&self.link, self.netns.name(), self.node.pod_gateway());
        self.node.netns().ip(&format!(
            "link add {link} type veth peer name {POD_INTERFACE} netns {inside}\n\
             link set {link} up\n\
             addr add {gateway}/32 dev {link}\n\
             addr add {GATEWAY6}/64 dev {link} nodad\n\
             route add {ipv4}/32 dev {link} scope link\n\
             route add {ipv6}/128 dev {link}\n"
        ))?;
        self.netns.ip(&format!(
            "link set lo up\n\
             link set {POD_INTERFACE} up\n\
             addr add {ipv4}/32 dev {POD_INTERFACE}\n\
             addr add {ipv6}/128 dev {POD_INTERFACE} nodad\n\
             route add {gateway} dev {POD_INTERFACE} scope link\n\
             route add default via {gateway}\n\
             route add default via {GATEWAY6} dev {POD_INTERFACE}\n"
        ))
    }

    /// The name given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Pod's namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The node it runs on.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its addresses.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Starts the process that answers on the Pod's ports with the Pod's name and the client's
    /// address; `log` takes its output. Returns once every port listens.
    ///
    /// # Errors
    /// When the binary is not built or cannot listen.
    pub fn serve(&self, serve: &Serve, log: &Path) -> Result<Process, Error> {
        start_testpod(&self.netns, &self.name, serve, log)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // The kernel ends a namespace some time after its last user: the link, and with it the routes
        // to the addresses, must be gone before somebody else gets them.
        for removed in [
            self.node.netns().ip(&format!("link del {}\n", self.link)),
            self.netns.delete(),
        ] {
            if let Err(error) = removed {
                tracing::warn!(pod = %self.name, %error, "not removed");
            }
        }
        self.node.release(self.addresses);
    }
}

/// Starts `berth-testpod` in any namespace, for example as a server outside the cluster.
///
/// # Errors
/// When the binary is not built, or it does not listen within 10 s.
pub fn start_testpod(netns: &Netns, name: &str, serve: &Serve, log: &Path) -> Result<Process, Error> {
    let mut args = vec!["--name".to_owned(), name.to_owned()];
    for (flag, ports) in [("--tcp", &serve.tcp), ("--udp", &serve.udp)] {
        args.extend(ports.iter().flat_map(|port| [flag.to_owned(), port.to_string()]));
    }
    if let Some(linger) = serve.linger {
        args.extend(["--linger".to_owned(), linger.as_secs().to_string()]);
    }
    let spec = Spec {
        args,
        own_sysfs: false,
        ..Spec::new(name, binary("berth-testpod", "berth-testkit")?, log)
    };
    let mut process = Process::start(netns, &spec)?;
    process.wait_log("listening", Duration::from_secs(10))?;
    Ok(process)
}
