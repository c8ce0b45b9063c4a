// SPDX-License-Identifier: Apache-2.0
//! What runs for one Pod: nothing but an address, a process on the node, or a namespace with a process.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use nix::sys::signal::Signal;

use super::{FAKE, LINGER, Options};
use crate::Error;
use crate::lan::Node;
use crate::netns::Netns;
use crate::pods::{Addresses, Pod, Serve, start_testpod};
use crate::process::Process;

/// One Pod of the node.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) since: Timestamp,
    pub(super) restarts: i32,
    body: Body,
    linger: bool,
    deadline: Option<Instant>,
}

#[derive(Debug)]
enum Body {
    Fake { node: Node, addresses: Addresses },
    // The process comes first: it is to end before its namespace is taken away.
    OnNode { process: Process, node: Node },
    InNamespace { process: Process, pod: Pod },
}

pub(super) fn lock(slot: &Arc<Mutex<Slot>>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_true(pod: &api::Pod, annotation: &str) -> bool {
    pod.annotations()
        .get(annotation)
        .is_some_and(|value| value == "true")
}

/// The ports of all containers, native sidecars included.
fn serve(pod: &api::Pod, linger: bool) -> Serve {
    let spec = pod.spec.iter();
    let sidecars = spec
        .clone()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports: Vec<_> = spec
        .flat_map(|spec| &spec.containers)
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some((
                port.protocol.as_deref().unwrap_or("TCP"),
                u16::try_from(port.container_port).ok()?,
            ))
        })
        .collect();
    let of = |protocol: &str| -> Vec<u16> {
        let ports: BTreeSet<u16> = ports
            .iter()
            .filter(|(found, _)| *found == protocol)
            .map(|(_, port)| *port)
            .collect();
        ports.into_iter().collect()
    };
    // Longer than any test: the end of the grace period is the agent's to enforce.
    const FOREVER: Duration = Duration::from_secs(24 * 3600);
    Serve {
        tcp: of("TCP"),
        udp: of("UDP"),
        linger: linger.then_some(FOREVER),
    }
}

impl Slot {
    /// Starts what a Pod asks for. Blocks.
    pub(super) fn start(pod: &api::Pod, node: &Node, options: &Options) -> Result<Self, Error> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let linger = is_true(pod, LINGER);
        let before = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        let wanted: Option<Ipv4Addr> = before.and_then(|ip| ip.parse().ok());
        let uid = pod.uid().unwrap_or_default();
        let log = options.logs.join(format!("{namespace}_{name}_{uid}.log"));
        let on_node = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.host_network)
            .unwrap_or_default();
        let body = if is_true(pod, FAKE) {
            Body::Fake {
                addresses: node.allocate(&uid, wanted)?,
                node: node.clone(),
            }
        } else if on_node {
            let process = start_testpod(node.netns(), &name, &serve(pod, linger), &log)?;
            Body::OnNode {
                process,
                node: node.clone(),
            }
        } else {
            let made = Pod::create(node, &name, wanted)?;
            let process = made.serve(&serve(pod, linger), &log)?;
            Body::InNamespace { process, pod: made }
        };
        Ok(Self {
            namespace,
            name,
            since: Timestamp::now(),
            restarts: 0,
            body,
            linger,
            deadline: None,
        })
    }

    /// The Pod's addresses, IPv4 first.
    pub(super) fn addresses(&self) -> [IpAddr; 2] {
        match &self.body {
            Body::Fake { addresses, .. } => addresses.both(),
            Body::OnNode { node, .. } => node.addresses(),
            Body::InNamespace { pod, .. } => pod.addresses().both(),
        }
    }

    pub(super) fn netns(&self) -> Option<Netns> {
        match &self.body {
            Body::Fake { .. } => None,
            Body::OnNode { node, .. } => Some(node.netns().clone()),
            Body::InNamespace { pod, .. } => Some(pod.netns().clone()),
        }
    }

    fn process(&mut self) -> Option<&mut Process> {
        match &mut self.body {
            Body::Fake { .. } => None,
            Body::OnNode { process, .. } | Body::InNamespace { process, .. } => Some(process),
        }
    }

    /// Whether its process ended by itself.
    pub(super) fn ended(&mut self) -> Result<bool, Error> {
        self.process().map_or(Ok(false), |process| {
            process.try_wait().map(|status| status.is_some())
        })
    }

    /// Starts the process again in the namespace that is there. Blocks.
    pub(super) fn restart(&mut self, pod: &api::Pod) -> Result<(), Error> {
        let serve = serve(pod, self.linger);
        match &mut self.body {
            Body::Fake { .. } => {}
            Body::OnNode { process, node } => {
                *process = start_testpod(node.netns(), &self.name, &serve, process.log())?;
            }
            Body::InNamespace { process, pod } => *process = pod.serve(&serve, process.log())?,
        }
        self.restarts += 1;
        self.since = Timestamp::now();
        Ok(())
    }

    /// One step of the termination: SIGTERM at first, SIGKILL once the grace period has passed, which a
    /// second deletion may shorten. `Some(exit code)` when it is over.
    pub(super) fn terminate(&mut self, grace: Duration, now: Instant) -> Result<Option<i32>, Error> {
        let first = self.deadline.is_none();
        let deadline = self
            .deadline
            .map_or(now + grace, |deadline| deadline.min(now + grace));
        self.deadline = Some(deadline);
        let lingers = self.linger && now < deadline;
        let Some(process) = self.process() else {
            return Ok((!lingers).then_some(0));
        };
        if let Some(status) = process.try_wait()? {
            return Ok(Some(exit_code(status)));
        }
        if now >= deadline {
            return process.kill().map(|status| Some(exit_code(status)));
        }
        if first {
            process.signal(Signal::SIGTERM)?;
        }
        Ok(None)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Body::Fake { node, addresses } = &self.body {
            node.release(*addresses);
        }
    }
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or_default()
}
