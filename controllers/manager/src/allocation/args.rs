// SPDX-License-Identifier: Apache-2.0
//! Flags of the replicas that hand out values together.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use berth_model::PortRange;
use berth_runtime::duration::parse as duration;

/// Where another replica finds this one, in a Pod.
const POD_IP: &str = "POD_IP";

/// Cluster IPs and node ports out of pools.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Cluster IPs and node ports out of pools")]
pub struct AllocationArgs {
    /// The API server's --service-node-port-range: ports outside it are never chosen
    #[arg(
        long,
        env = "BERTH_SERVICE_NODE_PORT_RANGE",
        value_name = "FIRST-LAST",
        default_value = "30000-32767"
    )]
    pub service_node_port_range: PortRange,

    /// How often the leader compares the API server's IPAddresses with Services: after between half and all of that
    #[arg(
        long,
        env = "BERTH_ADDRESS_AUDIT_PERIOD",
        value_name = "DURATION",
        default_value = "5m",
        value_parser = duration
    )]
    pub address_audit_period: Duration,

    /// Address on which other replicas ask this one, by mutual TLS; 0.0.0.0 means every address of both families
    #[arg(
        long,
        env = "BERTH_REPLICA_ADDRESS",
        value_name = "HOST:PORT",
        default_value = "0.0.0.0:10360"
    )]
    pub replica_address: SocketAddr,

    /// IP address by which other replicas reach this one. Default: $POD_IP, else that of the way to the API server
    #[arg(long, env = "BERTH_REPLICA_ADVERTISED_ADDRESS", value_name = "IP")]
    pub replica_advertised_address: Option<IpAddr>,
}

impl AllocationArgs {
    /// Where others reach this replica, as far as flags and environment say: the flag, the address that it listens on, or
    /// `pod_ip`, what `$POD_IP` holds.
    pub(super) fn advertised(&self, pod_ip: Option<&str>) -> Option<IpAddr> {
        let listens = self.replica_address.ip();
        let stated = (!listens.is_unspecified()).then_some(listens);
        self.replica_advertised_address
            .or(stated)
            .or_else(|| pod_ip?.parse().ok())
    }

    /// What the environment says.
    pub(super) fn pod_ip() -> Option<String> {
        std::env::var(POD_IP).ok()
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: AllocationArgs,
    }

    fn advertised(flags: &[&str], pod_ip: Option<&str>) -> Option<String> {
        let flags = std::iter::once("controllers").chain(flags.iter().copied());
        let args = Cli::try_parse_from(flags).unwrap().args;
        args.advertised(pod_ip).map(|address| address.to_string())
    }

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn others_are_told_the_flag_the_address_that_is_listened_on_or_the_pods() {
        let says = |text: &str| Some(text.to_owned());
        assert_eq!(advertised(&[], None), None);
        assert_eq!(advertised(&[], Some("10.1.2.3")), says("10.1.2.3"));
        assert_eq!(advertised(&[], Some("")), None);
        let listens = "--replica-address=192.0.2.1:10360";
        assert_eq!(advertised(&[listens], Some("10.1.2.3")), says("192.0.2.1"));
        let both = [listens, "--replica-advertised-address=fd00::1"];
        assert_eq!(advertised(&both, Some("10.1.2.3")), says("fd00::1"));
    }

    #[test]
    fn a_range_that_is_none_is_refused_with_the_flag_named() {
        for range in ["32767-30000", "0-10", "many"] {
            let flag = format!("--service-node-port-range={range}");
            let error = Cli::try_parse_from(["controllers", &flag])
                .map(|_| ())
                .unwrap_err();
            assert!(error.to_string().contains("--service-node-port-range"), "{error}");
        }
    }
}
