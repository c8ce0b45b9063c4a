// SPDX-License-Identifier: Apache-2.0
//! Flags of `berth controllers`. Where upstream's kube-controller-manager has a flag for the same
//! thing, ours has its name and default.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use berth_controllers_core::load_balancer::Settings;
use berth_controllers_core::slices::{Leftovers, SliceOptions};
use berth_runtime::duration::parse as duration;
use berth_runtime::lease::LeaseArgs;

use crate::admission::AdmissionArgs;
use crate::allocation::AllocationArgs;
use crate::reconcile::Compactor;

/// What can be switched on by `--enable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Part {
    /// Legacy Endpoints of Services with a selector
    Endpoints,
    /// EndpointSlices of Services with a selector
    #[value(name = "endpointslices")]
    EndpointSlices,
    /// EndpointSlices that mirror hand-written Endpoints
    Mirroring,
    /// Addresses of LoadBalancer Services, out of AddressPools
    LoadBalancer,
    /// Cluster IPs and node ports out of AddressPools and NodePortPools, by a webhook that every replica serves
    Admission,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Endpoints,
        Self::EndpointSlices,
        Self::Mirroring,
        Self::LoadBalancer,
        Self::Admission,
    ];

    /// The controller that it is, of those that only the leader runs.
    fn controller(self) -> Option<Controller> {
        match self {
            Self::Endpoints => Some(Controller::Endpoints),
            Self::EndpointSlices => Some(Controller::EndpointSlices),
            Self::Mirroring => Some(Controller::Mirroring),
            Self::LoadBalancer => Some(Controller::LoadBalancer),
            Self::Admission => None,
        }
    }
}

/// What works off a queue, on the replica that leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// Legacy Endpoints of Services with a selector.
    Endpoints,
    /// EndpointSlices of Services with a selector.
    EndpointSlices,
    /// EndpointSlices that mirror hand-written Endpoints.
    Mirroring,
    /// Addresses of LoadBalancer Services, out of AddressPools.
    LoadBalancer,
}

impl Controller {
    /// Its name in flags, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::EndpointSlices => "endpointslices",
            Self::Mirroring => "mirroring",
            Self::LoadBalancer => "load-balancer",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which controllers run, and how.
#[derive(clap::Args, Clone, Debug)]
pub struct ControllersArgs {
    /// What to run; the first three need none of Berth's custom resources
    #[arg(
        long,
        env = "BERTH_ENABLE",
        value_name = "LIST",
        value_enum,
        value_delimiter = ',',
        default_values_t = Part::ALL
    )]
    pub enable: Vec<Part>,

    /// Address of /healthz, /readyz and /metrics
    #[arg(
        long,
        env = "BERTH_ADMIN_ADDRESS",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:10357"
    )]
    pub admin_address: SocketAddr,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a comment here would replace the help of the flattened flags"
    )]
    pub endpoints: EndpointsArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a comment here would replace the help of the flattened flags"
    )]
    pub load_balancer: LoadBalancerArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a comment here would replace the help of the flattened flags"
    )]
    pub allocation: AllocationArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a comment here would replace the help of the flattened flags"
    )]
    pub admission: AdmissionArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "a comment here would replace the help of the flattened flags"
    )]
    pub lease: LeaseArgs,
}

/// Endpoints, EndpointSlices and mirroring.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Endpoints and EndpointSlices")]
pub struct EndpointsArgs {
    /// Endpoints objects worked on at once
    #[arg(long, env = "BERTH_CONCURRENT_ENDPOINT_SYNCS", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub concurrent_endpoint_syncs: u16,

    /// Services whose EndpointSlices are worked on at once
    #[arg(long, env = "BERTH_CONCURRENT_SERVICE_ENDPOINT_SYNCS", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub concurrent_service_endpoint_syncs: u16,

    /// Endpoints objects mirrored at once
    #[arg(long, env = "BERTH_MIRRORING_CONCURRENT_SERVICE_ENDPOINT_SYNCS", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub mirroring_concurrent_service_endpoint_syncs: u16,

    /// Endpoints per EndpointSlice
    #[arg(long, env = "BERTH_MAX_ENDPOINTS_PER_SLICE", value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub max_endpoints_per_slice: u16,

    /// Addresses mirrored per subset of an Endpoints object
    #[arg(long, env = "BERTH_MIRRORING_MAX_ENDPOINTS_PER_SUBSET", value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub mirroring_max_endpoints_per_subset: u16,

    /// How long changes of Pods are gathered before Endpoints are written
    #[arg(long, env = "BERTH_ENDPOINT_UPDATES_BATCH_PERIOD", value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub endpoint_updates_batch_period: Duration,

    /// How long changes of Pods are gathered before EndpointSlices are written
    #[arg(long, env = "BERTH_ENDPOINTSLICE_UPDATES_BATCH_PERIOD", value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub endpointslice_updates_batch_period: Duration,

    /// How long changes of mirrored EndpointSlices are gathered before they are put right
    #[arg(long, env = "BERTH_MIRRORING_ENDPOINTSLICE_UPDATES_BATCH_PERIOD", value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub mirroring_endpointslice_updates_batch_period: Duration,

    /// Delete what is left when a Service loses its selector or becomes ExternalName (upstream leaves it)
    #[arg(long, env = "BERTH_DELETE_LEFTOVERS")]
    pub delete_leftovers: bool,

    /// Gather the endpoints of quiet Services in fewer EndpointSlices (upstream never does)
    #[arg(long, env = "BERTH_COMPACT_ENDPOINTSLICES")]
    pub compact_endpointslices: bool,

    /// Most writes that compaction makes in a minute
    #[arg(
        long,
        env = "BERTH_COMPACTION_WRITES_PER_MINUTE",
        value_name = "N",
        default_value_t = 30
    )]
    pub compaction_writes_per_minute: u32,

    /// How long the EndpointSlices of a Service must not have changed before they are compacted
    #[arg(long, env = "BERTH_COMPACTION_QUIET_PERIOD", value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub compaction_quiet_period: Duration,
}

/// LoadBalancer addresses.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "LoadBalancer addresses")]
pub struct LoadBalancerArgs {
    /// Serve LoadBalancer Services without a spec.loadBalancerClass too
    #[arg(long, env = "BERTH_DEFAULT_PROVIDER")]
    pub default_provider: bool,

    /// The spec.loadBalancerClass that is served
    #[arg(long, env = "BERTH_LOAD_BALANCER_CLASS", value_name = "CLASS", default_value = berth_crds::BARE_METAL_CLASS)]
    pub load_balancer_class: String,

    /// LoadBalancer Services worked on at once
    #[arg(long, env = "BERTH_CONCURRENT_SERVICE_SYNCS", value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub concurrent_service_syncs: u16,
}

impl ControllersArgs {
    /// The controllers to run, each once.
    pub(crate) fn enabled(&self) -> BTreeSet<Controller> {
        self.enable.iter().filter_map(|part| part.controller()).collect()
    }

    /// Whether Services get cluster IPs and node ports out of pools.
    pub(crate) fn serves_admission(&self) -> bool {
        self.enable.contains(&Part::Admission)
    }

    /// How many workers a controller has.
    pub(crate) fn workers(&self, controller: Controller) -> u16 {
        match controller {
            Controller::Endpoints => self.endpoints.concurrent_endpoint_syncs,
            Controller::EndpointSlices => self.endpoints.concurrent_service_endpoint_syncs,
            Controller::Mirroring => self.endpoints.mirroring_concurrent_service_endpoint_syncs,
            Controller::LoadBalancer => self.load_balancer.concurrent_service_syncs,
        }
    }

    /// How long a controller gathers changes.
    pub(crate) fn batch_period(&self, controller: Controller) -> Duration {
        match controller {
            Controller::Endpoints => self.endpoints.endpoint_updates_batch_period,
            Controller::EndpointSlices => self.endpoints.endpointslice_updates_batch_period,
            Controller::Mirroring => self.endpoints.mirroring_endpointslice_updates_batch_period,
            Controller::LoadBalancer => Duration::ZERO,
        }
    }

    /// What becomes of objects that upstream would leave behind.
    pub(crate) fn leftovers(&self) -> Leftovers {
        if self.endpoints.delete_leftovers {
            Leftovers::Delete
        } else {
            Leftovers::Keep
        }
    }

    /// Settings of the slice planner.
    pub(crate) fn slice_options(&self) -> SliceOptions {
        SliceOptions {
            max_endpoints: usize::from(self.endpoints.max_endpoints_per_slice),
            leftovers: self.leftovers(),
        }
    }

    /// Compaction, where it is asked for.
    pub(crate) fn compactor(&self) -> Option<Compactor> {
        let args = &self.endpoints;
        args.compact_endpointslices.then(|| {
            Compactor::new(
                usize::from(args.max_endpoints_per_slice),
                args.compaction_quiet_period,
                args.compaction_writes_per_minute,
            )
        })
    }

    /// Settings of the load balancer planner.
    pub(crate) fn load_balancer_settings(&self) -> Settings {
        Settings {
            class: self.load_balancer.load_balancer_class.clone(),
            default_provider: self.load_balancer.default_provider,
            ..Settings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: ControllersArgs,
    }

    fn parse(flags: &[&str]) -> Result<ControllersArgs, clap::Error> {
        let flags = std::iter::once("controllers").chain(flags.iter().copied());
        Cli::try_parse_from(flags).map(|cli| cli.args)
    }

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_is_enabled_unless_told_otherwise() {
        let all = parse(&[]).unwrap();
        assert_eq!((all.enabled().len(), all.serves_admission()), (4, true));
        let some = parse(&["--enable=endpoints,endpointslices,mirroring"]).unwrap();
        assert!(!some.enabled().contains(&Controller::LoadBalancer));
        assert!(!some.serves_admission());
        assert_eq!(some.enabled().len(), 3);
        let error = parse(&["--enable=endpoint"]).unwrap_err().to_string();
        assert!(
            error.contains("--enable") && error.contains("endpointslices"),
            "{error}"
        );
    }

    #[test]
    fn upstreams_limits_are_kept() {
        for flag in [
            "--max-endpoints-per-slice=1001",
            "--max-endpoints-per-slice=0",
            "--concurrent-endpoint-syncs=0",
            "--mirroring-max-endpoints-per-subset=1001",
            "--endpoint-updates-batch-period=soon",
        ] {
            let error = parse(&[flag]).unwrap_err().to_string();
            let name = flag.split('=').next().unwrap();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn leader_election_is_on_with_or_without_a_value() {
        assert!(parse(&[]).unwrap().lease.leader_elect);
        assert!(parse(&["--leader-elect"]).unwrap().lease.leader_elect);
        assert!(!parse(&["--leader-elect=false"]).unwrap().lease.leader_elect);
    }
}
