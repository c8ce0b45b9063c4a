// SPDX-License-Identifier: Apache-2.0
//! Proposals of what could happen next; the [`World`] says which of them make sense.

use super::dice::Dice;
use super::generate::NODES;
use super::history::Theme;
use super::propose_endpoints::{endpoints_edit, endpoints_shape};
use super::step::{
    ContainerPort, EndpointsMeddling, Family, Kind, Map, Phase, PodEdit, PodShape, PodStatus, PortShape,
    ServiceEdit, ServiceShape, SliceMeddling, Stack, Step, Target,
};
use super::world::{LivePod, POLICIES, World};

/// Few names, so that steps meet each other.
const SERVICES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Labels that Services and hand-written Endpoints carry: plain ones, and those that controllers reserve.
pub(super) const LABELS: [&[(&str, &str)]; 9] = [
    &[],
    &[("team", "red")],
    &[("team", "blue"), ("stage", "1")],
    &[("stage", "2")],
    &[("service.kubernetes.io/headless", "")],
    &[("endpointslice.kubernetes.io/managed-by", "someone")],
    &[("kubernetes.io/service-name", "other"), ("team", "red")],
    &[("endpoints.kubernetes.io/managed-by", "someone")],
    &[("endpointslice.kubernetes.io/skip-mirror", "true")],
];

pub(super) fn map(pairs: &[(&str, &str)]) -> Map {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

pub(crate) struct Proposer {
    dice: Dice,
    theme: Theme,
}

impl Proposer {
    pub(crate) fn new(dice: Dice, theme: Theme) -> Self {
        Self { dice, theme }
    }

    /// Something; `early` right after a barrier, where strangers may meddle.
    pub(crate) fn propose(&mut self, world: &World, early: bool) -> Step {
        if early && self.dice.chance(12) {
            return self.meddling();
        }
        let (services, pods) = match self.theme {
            Theme::Plain => (26, 60),
            Theme::Packing | Theme::Topology => (25, 73),
        };
        let roll = self.dice.below(100);
        if roll < services {
            self.service(world)
        } else if roll < services + pods {
            self.pod(world)
        } else {
            self.endpoints(world)
        }
    }

    fn meddling(&mut self) -> Step {
        let name = self.dice.word(&SERVICES);
        if self.dice.chance(50) {
            let how = [
                EndpointsMeddling::Replace,
                EndpointsMeddling::Empty,
                EndpointsMeddling::Label,
                EndpointsMeddling::Delete,
            ];
            return Step::MeddleEndpoints(name, how[self.dice.below(how.len())]);
        }
        let how = [
            SliceMeddling::Empty,
            SliceMeddling::Label,
            SliceMeddling::Delete,
            SliceMeddling::Empty,
            SliceMeddling::Label,
            SliceMeddling::Delete,
            SliceMeddling::Disown,
        ];
        Step::MeddleSlice(name, self.dice.below(2), how[self.dice.below(how.len())])
    }

    fn service(&mut self, world: &World) -> Step {
        let name = self.dice.word(&SERVICES);
        let Some(existing) = world.services.get(&name) else {
            return Step::CreateService(name, self.service_shape());
        };
        if self.dice.chance(14) {
            return Step::DeleteService(name);
        }
        let edit = if existing.kind == Kind::ExternalName && self.dice.chance(60) {
            ServiceEdit::FromExternalName {
                kind: self.kind(),
                stack: self.stack(),
            }
        } else {
            self.service_edit()
        };
        Step::EditService(name, edit)
    }

    fn service_shape(&mut self) -> ServiceShape {
        let kind = self.kind();
        let ports = if kind == Kind::Headless && self.dice.chance(30) {
            Vec::new()
        } else {
            self.ports()
        };
        ServiceShape {
            kind,
            selector: self.selector(),
            ports,
            stack: self.stack(),
            publish_not_ready: self.dice.chance(15),
            distribution: self.distribution(),
            labels: self.labels(),
            annotations: self.annotations(),
        }
    }

    fn service_edit(&mut self) -> ServiceEdit {
        match self.dice.below(14) {
            0..=2 => ServiceEdit::Selector(self.selector()),
            3 | 4 => ServiceEdit::Ports(self.ports()),
            5 | 6 => ServiceEdit::Policy(POLICIES[self.dice.below(POLICIES.len())]),
            7 => ServiceEdit::Type(self.kind()),
            8 => ServiceEdit::ToExternalName,
            9 => ServiceEdit::PublishNotReady(self.dice.chance(50)),
            10 => ServiceEdit::Distribution(self.distribution()),
            11 | 12 => ServiceEdit::Labels(self.labels()),
            _ => ServiceEdit::Annotations(self.annotations()),
        }
    }

    fn kind(&mut self) -> Kind {
        match self.dice.below(12) {
            0..=4 => Kind::ClusterIp,
            5..=7 => Kind::Headless,
            8 => Kind::NodePort,
            9 => Kind::LoadBalancer,
            10 if self.theme == Theme::Plain => Kind::ExternalName,
            _ => Kind::ClusterIp,
        }
    }

    fn stack(&mut self) -> Stack {
        let first = [None, Some(Family::IPv4), Some(Family::IPv6)];
        Stack {
            policy: [None, Some(POLICIES[0]), Some(POLICIES[1]), Some(POLICIES[2])][self.dice.below(4)],
            first: first[self.dice.below(3)],
        }
    }

    fn selector(&mut self) -> Option<Map> {
        let by_hand = match self.theme {
            Theme::Plain => 18,
            Theme::Packing | Theme::Topology => 4,
        };
        if self.dice.chance(by_hand) {
            return [None, None, Some(Map::new())][self.dice.below(3)].clone();
        }
        let selectors: [&[(&str, &str)]; 6] = [
            &[("app", "x")],
            &[("app", "y")],
            &[("app", "x"), ("tier", "1")],
            &[("tier", "2")],
            &[("app", "x"), ("tier", "2")],
            &[("app", "z")],
        ];
        Some(map(selectors[self.dice.below(selectors.len())]))
    }

    fn ports(&mut self) -> Vec<PortShape> {
        let port = |name: &str, port, target, protocol: &str| PortShape {
            name: (!name.is_empty()).then(|| name.to_owned()),
            port,
            target,
            protocol: protocol.to_owned(),
            app_protocol: None,
        };
        let named = |name: &str| Target::Name(name.to_owned());
        // Proportional hints are shared out over all slices that change: one group keeps that simple.
        let choices = if self.theme == Theme::Topology { 3 } else { 7 };
        match self.dice.below(choices) {
            0 => vec![port("http", 80, Target::Number(8080), "TCP")],
            1 => vec![port("", 80, Target::Absent, "TCP")],
            2 => vec![port("http", 8080, Target::Number(80), "TCP")],
            3 => vec![
                port("http", 80, named("web"), "TCP"),
                port("metrics", 9090, Target::Number(9090), "TCP"),
            ],
            4 => vec![
                port("dns", 53, named("dns"), "UDP"),
                port("dns-tcp", 53, named("dns"), "TCP"),
            ],
            5 => vec![PortShape {
                app_protocol: Some("kubernetes.io/h2c".to_owned()),
                ..port("web", 443, named("web"), "TCP")
            }],
            _ => vec![port("lost", 1, named("missing"), "SCTP")],
        }
    }

    fn distribution(&mut self) -> Option<String> {
        let choices = [
            None,
            None,
            Some("PreferClose"),
            Some("PreferSameZone"),
            Some("PreferSameNode"),
        ];
        choices[self.dice.below(choices.len())].map(str::to_owned)
    }

    fn labels(&mut self) -> Map {
        map(LABELS[self.dice.below(LABELS.len())])
    }

    fn annotations(&mut self) -> Map {
        let plain: [&[(&str, &str)]; 3] = [&[], &[], &[("note", "1")]];
        let topology: [&[(&str, &str)]; 6] = [
            &[("service.kubernetes.io/topology-mode", "Auto")],
            &[("service.kubernetes.io/topology-mode", "auto")],
            &[("service.kubernetes.io/topology-mode", "Auto"), ("note", "2")],
            &[("service.kubernetes.io/topology-aware-hints", "Auto")],
            &[
                ("service.kubernetes.io/topology-aware-hints", "Disabled"),
                ("service.kubernetes.io/topology-mode", "Auto"),
            ],
            &[],
        ];
        match self.theme {
            Theme::Plain | Theme::Packing => map(plain[self.dice.below(plain.len())]),
            Theme::Topology => map(topology[self.dice.below(topology.len())]),
        }
    }

    fn pod(&mut self, world: &World) -> Step {
        let names = match self.theme {
            Theme::Plain => 10,
            Theme::Packing | Theme::Topology => 18,
        };
        let name = format!("p{}", self.dice.below(names));
        let Some(pod) = world.pods.get(&name) else {
            return Step::CreatePod(name, self.pod_shape());
        };
        let edit = match self.dice.below(20) {
            _ if pod.node.is_none() && self.dice.chance(60) => PodEdit::Bind(self.node()),
            0..=8 => PodEdit::Status(self.status(pod)),
            9..=12 => PodEdit::Labels(self.pod_labels()),
            13..=15 => PodEdit::Terminate,
            16 | 17 => PodEdit::Remove,
            _ if pod.terminating => PodEdit::Remove,
            _ => PodEdit::Status(self.status(pod)),
        };
        Step::EditPod(name, edit)
    }

    fn node(&mut self) -> String {
        // The last one is not there at first; waiting for it, upstream packs later than Berth.
        let known = self.theme == Theme::Packing || self.dice.chance(92);
        let from = if known { NODES.len() - 1 } else { NODES.len() };
        self.dice.word(&NODES[..from])
    }

    fn pod_labels(&mut self) -> Map {
        let labels: [&[(&str, &str)]; 5] = [
            &[("app", "x"), ("tier", "1")],
            &[("app", "x"), ("tier", "2")],
            &[("app", "y"), ("tier", "1")],
            &[("app", "y"), ("tier", "2")],
            &[("app", "other")],
        ];
        map(labels[self.dice.below(labels.len())])
    }

    fn pod_shape(&mut self) -> PodShape {
        let port = |name: &str, number, protocol: &str| ContainerPort {
            name: name.to_owned(),
            number,
            protocol: protocol.to_owned(),
        };
        let (ports, sidecar_ports) = match self.dice.below(6) {
            0 | 1 => (vec![port("web", 8080, "TCP")], Vec::new()),
            2 => (
                vec![port("web", 8081, "TCP"), port("dns", 5353, "UDP")],
                Vec::new(),
            ),
            3 => (vec![port("dns", 53, "TCP")], vec![port("web", 9000, "TCP")]),
            4 => (vec![port("web", 8080, "UDP")], vec![port("dns", 53, "UDP")]),
            _ => (Vec::new(), Vec::new()),
        };
        let named = self.dice.chance(20);
        let host_network = self.dice.chance(6);
        let mut shape = PodShape {
            labels: self.pod_labels(),
            node: None,
            ports,
            sidecar_ports,
            host_network,
            hostname: named.then(|| format!("host-{}", self.dice.below(3))),
            subdomain: named.then(|| self.dice.word(&SERVICES)),
            status: None,
        };
        if host_network || self.dice.chance(80) {
            shape.node = Some(self.node());
            let mut status = PodStatus {
                phase: Phase::Running,
                ips: self.ips(),
                ready: self.dice.chance(75),
            };
            if host_network {
                status.ips = vec!["172.16.0.1".to_owned()];
            }
            shape.status = (host_network || self.dice.chance(85)).then_some(status);
        }
        shape
    }

    fn status(&mut self, pod: &LivePod) -> PodStatus {
        let before = pod.status.as_ref();
        let mut ips = before.map(|status| status.ips.clone()).unwrap_or_default();
        if ips.is_empty() || self.dice.chance(10) {
            ips = self.ips();
        }
        // The end of a Pod that upstream does not see would change how slices are packed.
        let ends = usize::from(self.theme == Theme::Packing) * 3;
        let (phase, ready) = match ends + self.dice.below(20 - ends) {
            0 => (Phase::Failed, false),
            1 => (Phase::Succeeded, false),
            2 => (Phase::Failed, true),
            3 => (Phase::Pending, false),
            4..=9 => (Phase::Running, false),
            _ => (Phase::Running, true),
        };
        PodStatus { phase, ips, ready }
    }

    /// One or both families, either first; some in forms that only older API servers stored.
    fn ips(&mut self) -> Vec<String> {
        let (high, low) = (self.dice.below(4), 1 + self.dice.below(250));
        let v4 = format!("10.244.{high}.{low}");
        let v6 = match self.dice.below(10) {
            0 => format!("FD00:10:244:{high}::{low:X}"),
            1 => format!("fd00:10:244:{high}:0:0:0:{low:x}"),
            _ => format!("fd00:10:244:{high}::{low:x}"),
        };
        match self.dice.below(8) {
            0 | 1 => vec![v4],
            2 => vec![v6],
            3 => vec![v6, v4],
            4 => Vec::new(),
            _ => vec![v4, v6],
        }
    }

    fn endpoints(&mut self, world: &World) -> Step {
        let name = self.dice.word(&SERVICES);
        if !world.endpoints.contains_key(&name) {
            return Step::CreateEndpoints(name, endpoints_shape(&mut self.dice));
        }
        if self.dice.chance(15) {
            return Step::DeleteEndpoints(name);
        }
        Step::EditEndpoints(name, endpoints_edit(&mut self.dice))
    }
}
