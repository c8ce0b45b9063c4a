// SPDX-License-Identifier: Apache-2.0
//! `make demo`: everything at work, shown to a newcomer.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anstream::{eprintln, println};
use anyhow::{Context, Result};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use crate::cluster::{Cluster, ClusterConfig, socket};
use crate::examples::{self, Examples, Expect, NAMESPACE, Outcome};
use crate::failover::cut_the_owner;
use crate::keep;

/// Runs the demo inside the sandbox.
///
/// # Errors
/// Any step that fails.
pub async fn run(keep_running: bool) -> Result<()> {
    let started = Instant::now();
    let config = ClusterConfig::whole("demo");
    let steps = Steps { started };
    let mut cluster = Cluster::start(&config, |step| steps.say(step)).await?;
    let result = show(&mut cluster, &steps).await;
    if result.is_err() {
        eprintln!("the logs are in {}", cluster.logs().display());
        return result;
    }
    if keep_running {
        keep::until_interrupted(&cluster).await?;
    }
    Ok(())
}

struct Steps {
    started: Instant,
}

impl Steps {
    /// On a terminal a line per step; a pipe gets the table only.
    fn say(&self, step: &str) {
        if std::io::stderr().is_terminal() {
            eprintln!("{:>6.1} s  {step}", self.started.elapsed().as_secs_f64());
        }
    }
}

async fn show(cluster: &mut Cluster, steps: &Steps) -> Result<()> {
    steps.say("applying examples/ and trying every Service from everywhere");
    let examples = Examples::prepare(cluster)?;
    let outcomes = examples.apply_and_try(cluster).await?;
    println!("{}", table(&outcomes));
    println!("(first answer: since the Service was created; its Pods are created and started after it)");
    examples::objects_without_packets(cluster).await?;
    println!(
        "peers (headless) and mail (ExternalName): objects as they should be; names are answered by cluster DNS, which is yet to come."
    );
    let pod = examples.place(&examples::Place::Pod("node-1".to_owned()))?;
    let ip = examples::kubernetes_default(cluster, pod).await?;
    println!("kubernetes.default: the API server answers at {ip} to a Pod, through Berth.");
    failover(cluster, steps).await?;
    cluster.daemons.check()?;
    cluster.nothing_was_forbidden()
}

async fn failover(cluster: &Cluster, steps: &Steps) -> Result<()> {
    steps.say("pulling the plug of the node that announces the LoadBalancer address");
    let addresses = cluster.load_balancer_addresses(NAMESPACE, "shop").await?;
    let address = addresses
        .first()
        .copied()
        .context("Service shop has no address")?;
    let failover = cut_the_owner(cluster, socket(address, 7)).await?;
    let gap = failover.report.longest_gap();
    println!(
        "failover: {address} was announced by {}; its cable was pulled; {} answers since. The LAN client got no answer for {} ({} of {} datagrams lost).",
        failover.from,
        failover.to,
        milliseconds(gap),
        failover.report.sent - failover.report.answered,
        failover.report.sent,
    );
    Ok(())
}

fn milliseconds(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

/// One line per Service, place and family: what was tried from where, who answered, how soon after the apply.
fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["Service", "kind", "tried", "from", "who answered", "first answer"]);
    for outcome in outcomes {
        let attempt = &outcome.attempt;
        let who = match attempt.expect {
            Expect::Refused => "refused, as it should be".to_owned(),
            Expect::Answers(_) => answers(outcome),
        };
        table.add_row([
            attempt.service.to_owned(),
            attempt.kind.to_owned(),
            format!("{} {}", attempt.how, attempt.to),
            attempt.from.to_string(),
            who,
            milliseconds(outcome.first),
        ]);
    }
    table
}

fn answers(outcome: &Outcome) -> String {
    let short = |pod: &str| pod.rsplit('/').next().unwrap_or(pod).to_owned();
    let counts = outcome
        .spread
        .answers
        .iter()
        .map(|(pod, count)| format!("{} x{count}", short(pod)));
    counts.collect::<Vec<_>>().join(", ")
}
