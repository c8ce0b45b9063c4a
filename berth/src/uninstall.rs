// SPDX-License-Identifier: Apache-2.0
//! What `berth uninstall` takes out of a cluster, in which order, and what it has to leave.
//!
//! In: what there is. Out: [`Step`]s. Touches: nothing.
//!
//! First goes what API servers ask or check on every write of a Service, so that no write depends on anything that is about to
//! go; then what pools were given; last what only Berth's own processes read. Nothing is taken that a Service lives on.

use std::fmt;
use std::net::IpAddr;

use berth_controllers_core::key_of;
use berth_controllers_core::upkeep::service_cidrs::is_ours;
use berth_model::{IpRange, ServiceKey};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// How many Services a line names.
const NAMED: usize = 3;

/// What there is of Berth outside its Pods and kinds, and what may depend on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// Whether API servers ask the webhook.
    pub(crate) is_registered: bool,
    /// Names of ValidatingAdmissionPolicies, whose bindings have the same.
    pub(crate) policies: Vec<String>,
    /// All of the cluster.
    pub(crate) service_cidrs: Vec<ServiceCIDR>,
    /// All of the cluster.
    pub(crate) services: Vec<Service>,
    /// Of the namespace that Berth runs in, by name.
    pub(crate) secret: Option<String>,
    /// Of that namespace: those by which `berth controllers` agree who leads, and who hands out values.
    pub(crate) leases: Vec<Lease>,
}

/// An object, or several that go together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind")]
pub(crate) enum Target {
    #[serde(rename = "MutatingWebhookConfiguration")]
    Webhook,
    #[serde(rename = "ValidatingAdmissionPolicy")]
    Policies {
        names: Vec<String>,
    },
    #[serde(rename = "ServiceCIDR")]
    ServiceCidr {
        name: String,
    },
    Secret {
        name: String,
    },
    Lease {
        name: String,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Webhook => write!(
                f,
                "MutatingWebhookConfiguration {}",
                berth_controllers_manager::admission::CONFIGURATION
            ),
            Self::Policies { names } => {
                write!(
                    f,
                    "ValidatingAdmissionPolicies {}, with their bindings",
                    names.join(", ")
                )
            }
            Self::ServiceCidr { name } => write!(f, "ServiceCIDR {name}"),
            Self::Secret { name } => write!(f, "Secret {name}"),
            Self::Lease { name } => write!(f, "Lease {name}"),
        }
    }
}

/// What becomes of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Step {
    /// What it is about.
    pub(crate) target: Target,
    /// Whether it goes.
    pub(crate) goes: bool,
    /// What that means, or why it stays and what would help.
    pub(crate) because: String,
}

/// The steps, in their order.
pub(crate) fn plan(found: &Found) -> Vec<Step> {
    let goes = |target: Target, because: &str| Step {
        target,
        goes: true,
        because: because.to_owned(),
    };
    let webhook = found.is_registered.then(|| {
        let because = "API servers ask nobody for cluster IPs and node ports any more";
        goes(Target::Webhook, because)
    });
    let policies = (!found.policies.is_empty()).then(|| {
        let names = found.policies.clone();
        goes(
            Target::Policies { names },
            "API servers hold nobody to a pool any more",
        )
    });
    let of_pools = found.service_cidrs.iter().filter(|cidr| is_ours(cidr));
    let service_cidrs = of_pools.map(|cidr| service_cidr(cidr, found));
    let secret = found.secret.clone().map(|name| {
        let because = "the authority and certificate of the webhook";
        goes(Target::Secret { name }, because)
    });
    let leases = found.leases.iter().map(|lease| {
        let name = lease.metadata.name.clone().unwrap_or_default();
        goes(Target::Lease { name }, "nobody runs who would renew it")
    });
    let first = webhook.into_iter().chain(policies).chain(service_cidrs);
    first.chain(secret).chain(leases).collect()
}

/// One that pools wanted goes, unless a Service has an address that nothing else covers.
fn service_cidr(cidr: &ServiceCIDR, found: &Found) -> Step {
    let others: Vec<IpRange> = found
        .service_cidrs
        .iter()
        .filter(|other| !is_ours(other))
        .flat_map(ranges)
        .collect();
    let own = ranges(cidr);
    let depends = |address: &IpAddr| {
        own.iter().any(|range| range.contains(*address))
            && !others.iter().any(|range| range.contains(*address))
    };
    let users: Vec<ServiceKey> = found
        .services
        .iter()
        .filter(|service| cluster_ips(service).iter().any(depends))
        .map(|service| key_of(&service.metadata))
        .collect();
    let name = cidr.metadata.name.clone().unwrap_or_default();
    Step {
        target: Target::ServiceCidr { name },
        goes: users.is_empty(),
        because: if users.is_empty() {
            "no Service has an address that only it covers".to_owned()
        } else {
            format!(
                "{} have addresses that only it covers; create them anew, and run this again",
                named(&users)
            )
        },
    }
}

fn named(services: &[ServiceKey]) -> String {
    let names: Vec<String> = services.iter().take(NAMED).map(ToString::to_string).collect();
    match services.len().saturating_sub(NAMED) {
        0 => format!("Services {}", names.join(", ")),
        more => format!("Services {} and {more} more", names.join(", ")),
    }
}

fn ranges(cidr: &ServiceCIDR) -> Vec<IpRange> {
    let spec = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    spec.filter_map(|text| text.parse().ok()).collect()
}

fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let spec = service.spec.iter();
    let texts = spec.flat_map(|spec| spec.cluster_ips.iter().flatten());
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// The Lease that somebody renews, and who: all that is taken away would be written again.
pub(crate) fn running(leases: &[Lease], now: Timestamp) -> Option<(String, String)> {
    leases.iter().find_map(|lease| {
        let spec = lease.spec.as_ref()?;
        let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty())?;
        let lasts = SignedDuration::from_secs(i64::from(spec.lease_duration_seconds.unwrap_or(0)));
        let renewed = spec.renew_time.as_ref()?.0;
        let runs = now.duration_since(renewed) < lasts;
        runs.then(|| (lease.metadata.name.clone().unwrap_or_default(), holder))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cidr(name: &str, range: &str, ours: bool) -> ServiceCIDR {
        let labels = if ours {
            json!({"app.kubernetes.io/managed-by": "berth"})
        } else {
            json!({})
        };
        let object = json!({"metadata": {"name": name, "labels": labels}, "spec": {"cidrs": [range]}});
        serde_json::from_value(object).unwrap()
    }

    fn service(name: &str, addresses: &[&str]) -> Service {
        let object =
            json!({"metadata": {"namespace": "shop", "name": name}, "spec": {"clusterIPs": addresses}});
        serde_json::from_value(object).unwrap()
    }

    fn lease(holder: &str, renewed: &str) -> Lease {
        let spec: Value = json!({"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed});
        serde_json::from_value(json!({"metadata": {"name": "berth-controllers"}, "spec": spec})).unwrap()
    }

    fn lines(found: &Found) -> Vec<String> {
        let line = |step: Step| {
            let what = if step.goes { "go" } else { "stay" };
            format!("{what}: {}", step.target)
        };
        plan(found).into_iter().map(line).collect()
    }

    #[test]
    fn what_api_servers_ask_goes_first_and_what_only_berth_reads_last() {
        let found = Found {
            is_registered: true,
            policies: vec!["berth-cluster-ips".to_owned(), "berth-node-ports".to_owned()],
            service_cidrs: vec![
                cidr("kubernetes", "10.96.0.0/16", false),
                cidr("berth-lab-1", "10.97.0.0/24", true),
            ],
            services: vec![service("web", &["10.96.0.9"])],
            secret: Some("berth-admission".to_owned()),
            leases: vec![lease("", "2026-01-02T03:04:05.000000Z")],
        };
        assert_eq!(
            lines(&found),
            [
                "go: MutatingWebhookConfiguration berth-services",
                "go: ValidatingAdmissionPolicies berth-cluster-ips, berth-node-ports, with their bindings",
                "go: ServiceCIDR berth-lab-1",
                "go: Secret berth-admission",
                "go: Lease berth-controllers",
            ]
        );
        assert_eq!(plan(&Found::default()), []);
    }

    #[test]
    fn a_service_cidr_that_a_service_lives_on_stays_unless_another_covers_the_address() {
        let mut found = Found {
            service_cidrs: vec![
                cidr("berth-a-1", "10.97.0.0/24", true),
                cidr("berth-b-1", "10.97.0.0/25", true),
                cidr("by-hand", "10.98.0.0/16", false),
                cidr("berth-c-1", "10.98.1.0/24", true),
            ],
            services: ["a", "b", "c", "d"]
                .map(|name| service(name, &["10.97.0.200", "10.98.1.1"]))
                .to_vec(),
            ..Found::default()
        };
        assert_eq!(
            lines(&found),
            [
                "stay: ServiceCIDR berth-a-1",
                "go: ServiceCIDR berth-b-1",
                "go: ServiceCIDR berth-c-1"
            ]
        );
        assert_eq!(
            plan(&found)[0].because,
            "Services shop/a, shop/b, shop/c and 1 more have addresses that only it covers; create them anew, and run this again"
        );
        found.services.clear();
        assert!(plan(&found).iter().all(|step| step.goes));
    }

    #[test]
    fn controllers_run_while_somebody_renews_the_lease() {
        let now: Timestamp = "2026-01-02T03:04:20Z".parse().unwrap();
        for (holder, renewed, expected) in [
            ("a", "2026-01-02T03:04:06.000000Z", true),
            ("a", "2026-01-02T03:04:05.000000Z", false),
            ("", "2026-01-02T03:04:19.000000Z", false),
        ] {
            let running = running(&[lease(holder, renewed)], now);
            assert_eq!(running.is_some(), expected, "{holder} {renewed}");
        }
    }
}
