// SPDX-License-Identifier: Apache-2.0
//! `berth plan`: what Berth would make of some YAML.

use std::fmt::Write as _;
use std::path::PathBuf;

use berth_controllers_core::load_balancer::Settings as LbSettings;
use berth_model::NodeName;
use berth_proxy_core::nft::full_script;
use berth_proxy_core::{FrontendIntent, Outcome as Verdict, Settings as ProxySettings};
use clap::ValueEnum;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::plan::{Assumer, Objects, Outcome, plan};

/// Shows what Berth would make of some YAML, without a cluster.
///
/// Reads Services, Pods, Nodes, Endpoints, EndpointSlices, ServiceCIDRs and AddressPools, and prints the
/// EndpointSlices, the addresses and the rules that the daemons would make of them: the same planners run here. What a cluster would
/// have filled in (ClusterIPs, node ports, Pod addresses) is assumed, and every assumption is listed.
#[derive(clap::Args, Debug)]
pub(crate) struct PlanArgs {
    /// A file, a folder of .yaml, .yml and .json files, or - for standard input; repeatable.
    #[arg(short, long, value_name = "FILE|DIR", required = true)]
    filename: Vec<PathBuf>,
    /// text: for reading; json: for scripts; nft: the rules as a script for `nft -f`.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Plan the rules of this Node (its Pods get hairpin rules).
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Networks of the ClusterIPs that are assumed.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', default_values = ["10.96.0.0/16", "fd00:10:96::/112"])]
    service_cidr: Vec<String>,
    /// Networks of the Pods: where assumed addresses come from, and whose connections are not masqueraded.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', default_values = ["10.244.0.0/16", "fd00:10:244::/48"])]
    pod_cidr: Vec<String>,
    /// Give addresses to Services without a loadBalancerClass as well.
    #[arg(long)]
    default_provider: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Text,
    Json,
    Nft,
}

/// Runs the command.
///
/// # Errors
/// A file that cannot be read or understood, or a bad network.
pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let text = render(args)?;
    anstream::print!("{text}");
    Ok(())
}

fn render(args: &PlanArgs) -> anyhow::Result<String> {
    let mut objects = Objects::read(&args.filename)?;
    let assumptions = Assumer::new(&args.service_cidr, &args.pod_cidr)?.complete(&mut objects);
    let lb = LbSettings {
        default_provider: args.default_provider,
        ..LbSettings::default()
    };
    let proxy = ProxySettings {
        node: args.node.as_deref().map(NodeName::new),
        cluster_cidrs: args
            .pod_cidr
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
        ..ProxySettings::default()
    };
    // Dates only conditions, which are not printed: a fixed moment keeps the output reproducible.
    let now = Time(Timestamp::UNIX_EPOCH);
    let outcome = plan(&mut objects, lb, proxy, &now);
    Ok(match args.output {
        Output::Text => as_text(&assumptions, &objects, &outcome)?,
        Output::Json => format!("{:#}\n", as_json(&assumptions, &objects, &outcome)),
        Output::Nft => full_script(&outcome.intent),
    })
}

fn as_text(assumptions: &[String], objects: &Objects, outcome: &Outcome) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut section = |title: &str, lines: Vec<String>| -> anyhow::Result<()> {
        if !lines.is_empty() {
            writeln!(text, "{title}:")?;
            lines.iter().try_for_each(|line| writeln!(text, "  {line}"))?;
        }
        Ok(())
    };
    section("Assumed, since no cluster says otherwise", assumptions.to_vec())?;
    section("Endpoints and EndpointSlices", outcome.writes.clone())?;
    section(
        "LoadBalancer addresses",
        outcome.load_balancers.iter().map(ToString::to_string).collect(),
    )?;
    section(
        "Rules on each node",
        outcome
            .intent
            .frontends()
            .map(|(frontend, intent)| rule(frontend, intent))
            .collect(),
    )?;
    section("Remarks", outcome.remarks.clone())?;
    let ignored = objects
        .ignored
        .iter()
        .map(|(kind, count)| format!("{count} x {kind}"))
        .collect();
    section("Not read by any planner", ignored)?;
    if text.is_empty() {
        text.push_str("Nothing to plan: no Service in the input.\n");
    }
    Ok(text)
}

fn rule(frontend: &berth_proxy_core::Frontend, intent: &FrontendIntent) -> String {
    let decided = match &intent.outcome {
        Verdict::Reject(reason) => format!("refused ({reason})"),
        Verdict::Endpoints(_) | Verdict::Drop(_) => intent.to_string(),
    };
    format!("{frontend} ({} of {}) -> {decided}", intent.role, intent.owner)
}

/// Endpoints, why refused, why dropped.
fn outcome_parts(outcome: &Verdict) -> (Vec<String>, Option<String>, Option<String>) {
    match outcome {
        Verdict::Endpoints(targets) => (targets.iter().map(ToString::to_string).collect(), None, None),
        Verdict::Reject(reason) => (Vec::new(), Some(reason.to_string()), None),
        Verdict::Drop(reason) => (Vec::new(), None, Some(reason.to_string())),
    }
}

fn as_json(assumptions: &[String], objects: &Objects, outcome: &Outcome) -> serde_json::Value {
    let rules: Vec<_> = outcome
        .intent
        .frontends()
        .map(|(frontend, intent)| {
            let (endpoints, reject, drop) = outcome_parts(&intent.outcome);
            let outside = intent.outside.as_ref().map(|outside| {
                let (endpoints, reject, drop) = outcome_parts(outside);
                json!({"endpoints": endpoints, "reject": reject, "drop": drop})
            });
            json!({
                "frontend": frontend.to_string(), "role": intent.role.to_string(), "owner": intent.owner.to_string(),
                "endpoints": endpoints, "reject": reject, "drop": drop, "fromOutside": outside,
                "masquerade": intent.masquerade.to_string(),
                "sourceRanges": intent.source_ranges.as_ref().map(|nets| nets.iter().map(ToString::to_string).collect::<Vec<_>>()),
            })
        })
        .collect();
    let addresses: Vec<_> = outcome
        .load_balancers
        .iter()
        .map(|plan| {
            let taken: Vec<_> = plan.taken.iter().map(|one| one.item.to_string()).collect();
            json!({"service": plan.key.to_string(), "outcome": plan.outcome.as_str(), "message": plan.outcome.to_string(), "taken": taken})
        })
        .collect();
    json!({
        "assumptions": assumptions, "writes": outcome.writes, "loadBalancers": addresses,
        "rules": rules, "remarks": outcome.remarks, "ignored": objects.ignored,
    })
}
