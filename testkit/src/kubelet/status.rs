// SPDX-License-Identifier: Apache-2.0
//! Which status a Pod should have, from what is seen of it. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::READY;

/// What the agent sees of a Pod.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) host: [IpAddr; 2],
    pub(super) addresses: Option<[IpAddr; 2]>,
    pub(super) containers: Containers,
    pub(super) restarts: i32,
}

/// All containers of a Pod are one process here, so they share one state.
#[derive(Clone, Debug)]
pub(super) enum Containers {
    /// Could not be started, and why.
    Waiting(String),
    Running(Timestamp),
    Ended {
        since: Timestamp,
        exit_code: i32,
    },
}

/// The conditions that a kubelet owns; others are someone else's and stay.
const CONDITIONS: [&str; 4] = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];

/// The status to be written. It equals `before` when nothing has changed.
pub(super) fn plan_status(pod: &Pod, before: &PodStatus, seen: &Seen, now: Timestamp) -> PodStatus {
    let running = matches!(seen.containers, Containers::Running(_));
    let ready = running && pod.annotations().get(READY).is_none_or(|value| value != "false");
    let both = |addresses: [IpAddr; 2]| addresses.map(|address| address.to_string());
    let addresses = seen.addresses.map(both);
    let message = match &seen.containers {
        Containers::Waiting(why) => Some(why.clone()),
        Containers::Running(_) | Containers::Ended { .. } => None,
    };
    PodStatus {
        phase: Some(phase(&seen.containers).to_owned()),
        message,
        host_ip: Some(seen.host[0].to_string()),
        host_ips: Some(both(seen.host).map(|ip| HostIP { ip }).into()),
        pod_ip: addresses.as_ref().map(|[ipv4, _]| ipv4.clone()),
        pod_ips: addresses.map(|addresses| addresses.map(|ip| PodIP { ip }).into()),
        start_time: before.start_time.clone().or(Some(Time(now))),
        conditions: Some(conditions(pod, before, [true, true, ready, ready], now)),
        container_statuses: Some(container_statuses(pod, seen, ready)),
        ..before.clone()
    }
}

fn phase(containers: &Containers) -> &'static str {
    match containers {
        Containers::Waiting(_) => "Pending",
        Containers::Running(_) => "Running",
        Containers::Ended { exit_code: 0, .. } => "Succeeded",
        Containers::Ended { .. } => "Failed",
    }
}

fn conditions(pod: &Pod, before: &PodStatus, values: [bool; 4], now: Timestamp) -> Vec<PodCondition> {
    let known = |type_: &str| {
        before
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == type_)
    };
    let ours = CONDITIONS.into_iter().zip(values).map(|(type_, value)| {
        let status = if value { "True" } else { "False" };
        let unchanged = known(type_).filter(|condition| condition.status == status);
        let since = unchanged.and_then(|condition| condition.last_transition_time.clone());
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            last_transition_time: since.or(Some(Time(now))),
            ..PodCondition::default()
        }
    });
    let current = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let others = current
        .filter(|condition| !CONDITIONS.contains(&condition.type_.as_str()))
        .cloned();
    ours.chain(others).collect()
}

fn container_statuses(pod: &Pod, seen: &Seen, ready: bool) -> Vec<ContainerStatus> {
    let state = match &seen.containers {
        Containers::Waiting(why) => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some("CreateContainerError".to_owned()),
                message: Some(why.clone()),
            }),
            ..ContainerState::default()
        },
        Containers::Running(since) => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(Time(*since)),
            }),
            ..ContainerState::default()
        },
        Containers::Ended { since, exit_code } => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: *exit_code,
                reason: Some(if *exit_code == 0 { "Completed" } else { "Error" }.to_owned()),
                finished_at: Some(Time(*since)),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        },
    };
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .map(|container| ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            ready,
            started: Some(matches!(seen.containers, Containers::Running(_))),
            restart_count: seen.restarts,
            state: Some(state.clone()),
            ..ContainerStatus::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builders::{mk_container_port, mk_pod};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn seen(containers: Containers) -> Seen {
        let ip = |text: &str| text.parse().expect("an address");
        Seen {
            host: [ip("10.77.0.11"), ip("fd00:77::11")],
            addresses: Some([ip("10.244.1.2"), ip("fd00:10:244:1::2")]),
            containers,
            restarts: 0,
        }
    }

    fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a PodCondition {
        let mut conditions = status.conditions.iter().flatten();
        conditions
            .find(|condition| condition.type_ == type_)
            .expect("the condition is there")
    }

    #[test]
    fn readiness_follows_the_process_and_the_annotation() {
        let annotated = |ready: Option<&str>| {
            let mut pod = mk_pod(
                "default",
                "web",
                &[("app", "web")],
                &[mk_container_port("http", 80, "TCP")],
            );
            if let Some(ready) = ready {
                pod.annotations_mut().insert(READY.to_owned(), ready.to_owned());
            }
            pod
        };
        let ended = |exit_code| Containers::Ended {
            since: at(2),
            exit_code,
        };
        for (what, ready, containers, phase, expected) in [
            ("running", None, Containers::Running(at(1)), "Running", "True"),
            (
                "annotated ready",
                Some("true"),
                Containers::Running(at(1)),
                "Running",
                "True",
            ),
            (
                "annotated not ready",
                Some("false"),
                Containers::Running(at(1)),
                "Running",
                "False",
            ),
            (
                "not started",
                None,
                Containers::Waiting("no address".into()),
                "Pending",
                "False",
            ),
            ("ended well", None, ended(0), "Succeeded", "False"),
            ("killed", None, ended(137), "Failed", "False"),
        ] {
            let status = plan_status(&annotated(ready), &PodStatus::default(), &seen(containers), at(3));
            assert_eq!(status.phase.as_deref(), Some(phase), "{what}");
            assert_eq!(condition(&status, "Ready").status, expected, "{what}");
            assert_eq!(condition(&status, "ContainersReady").status, expected, "{what}");
            let containers = status.container_statuses.expect("statuses");
            assert_eq!(containers[0].ready, expected == "True", "{what}");
        }
    }

    #[test]
    fn nothing_changes_when_nothing_is_new_and_transition_times_tell_when_something_was() {
        let mut pod = mk_pod("default", "web", &[], &[]);
        let running = seen(Containers::Running(at(1)));
        let first = plan_status(&pod, &PodStatus::default(), &running, at(10));
        assert_eq!(plan_status(&pod, &first, &running, at(20)), first);

        pod.annotations_mut().insert(READY.to_owned(), "false".to_owned());
        let second = plan_status(&pod, &first, &running, at(30));
        assert_eq!(
            condition(&second, "Ready").last_transition_time,
            Some(Time(at(30)))
        );
        assert_eq!(
            condition(&second, "PodScheduled").last_transition_time,
            Some(Time(at(10)))
        );
    }

    #[test]
    fn conditions_of_others_stay() {
        let gate = PodCondition {
            type_: "example.com/gate".into(),
            status: "True".into(),
            ..PodCondition::default()
        };
        let mut pod = mk_pod("default", "web", &[], &[]);
        pod.status = Some(PodStatus {
            conditions: Some(vec![gate.clone()]),
            ..PodStatus::default()
        });
        let status = plan_status(
            &pod,
            &PodStatus::default(),
            &seen(Containers::Running(at(1))),
            at(2),
        );
        assert_eq!(condition(&status, "example.com/gate"), &gate);
    }
}
