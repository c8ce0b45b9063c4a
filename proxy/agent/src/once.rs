// SPDX-License-Identifier: Apache-2.0
//! What the proxy does once and then exits: clean up, show what it would write, count.

use std::collections::BTreeSet;
use std::time::Instant;

use berth_model::IpFamily;
use berth_proxy_core::counting::{Counted, Report, Tally, counted};
use berth_proxy_core::iptables::{self, Choices};
use berth_proxy_core::ipvs::{self, Choice};
use berth_proxy_core::nft::full_script;
use berth_proxy_core::userspace::Demand;
use berth_proxy_core::{Intent, Settings};
use berth_runtime::exit::{Code, ExitError};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::apply::count::Counting;
use crate::args::CountFormat;
use crate::feed::{Event, State};
use crate::node::own_addresses;
use crate::options::{Options, ProxyMode};
use crate::run::NODE_PATIENCE;
use crate::{ProxyArgs, backend};

/// Removes what Berth wrote, in whatever mode, and nothing else.
///
/// # Errors
/// Missing privileges (3), or the kernel refused (1).
pub async fn cleanup() -> Result<(), ExitError> {
    Ok(backend::remove(None).await?)
}

/// Prints what would be written, or counts, once everything is listed.
///
/// # Errors
/// The watches ended; there is no such Service (2); the kernel refused.
pub(crate) async fn once(
    args: &ProxyArgs,
    options: &Options,
    events: mpsc::Receiver<Event>,
    stop: &CancellationToken,
) -> Result<(), ExitError> {
    let Some(state) = listed(options, events, stop).await? else {
        return Ok(());
    };
    if args.count.is_empty() {
        dry_run(options, &state);
        return Ok(());
    }
    let intent = Intent::of(
        state.index.view(),
        options.settings(state.node.as_ref(), &BTreeSet::new()),
    );
    for service in &args.count {
        if !intent.has_service(service) {
            let text = format!(
                "--count {service}: this proxy serves no such Service; see `kubectl get services -A` for names (headless and \
                 ExternalName ones have nothing to count, and others may have another --service-proxy-name)"
            );
            return Err(ExitError::new(Code::Usage, text));
        }
    }
    let counted = counted(&intent, &args.count.iter().cloned().collect());
    let frontends = counted.iter().map(|counted| counted.frontend).collect();
    let counting = Counting::start(frontends).await?;
    let started = Instant::now();
    tracing::info!(frontends = counted.len(), span = ?args.count_for, "counting");
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(args.count_for) => {}
    }
    let span = started.elapsed().min(args.count_for);
    let report = Report::new(span, counted, &counting.read().await?);
    match args.output {
        CountFormat::Text => print!("{report}"),
        CountFormat::Json => println!("{}", json_of(&report)),
    }
    Ok(())
}

/// The same as the text, field by field.
fn json_of(report: &Report) -> serde_json::Value {
    let row = |(counted, tally): &(Counted, Tally)| {
        json!({
            "service": counted.owner.service.to_string(),
            "port": counted.owner.port.to_string(),
            "protocol": counted.owner.protocol.to_string(),
            "role": counted.role.to_string(),
            "frontend": counted.frontend.to_string(),
            "asked": tally.asked,
            "letThrough": tally.let_through,
            "refusals": counted.refusals,
        })
    };
    json!({
        "seconds": report.span.as_secs_f64(),
        "frontends": report.rows.iter().map(row).collect::<Vec<_>>(),
    })
}

/// Reads on until everything is listed that rules depend on; `None` if it is told to stop before.
async fn listed(
    options: &Options,
    mut events: mpsc::Receiver<Event>,
    stop: &CancellationToken,
) -> Result<Option<State>, ExitError> {
    let mut state = State::default();
    let mut patience = std::pin::pin!(tokio::time::sleep(NODE_PATIENCE));
    let mut waiting = true;
    let lacks = |state: &State| {
        let cidrs = options.drops_unallocated() && state.service_cidrs().is_none();
        cidrs || !state.is_node_listed()
    };
    while !state.is_synced() || (waiting && lacks(&state)) {
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            event = events.recv() => match event {
                Some(event) => state.accept(event),
                None => return Err(ExitError::failure("the watches ended")),
            },
            // Where the Node may not be read, what depends on it is as without a Node.
            () = &mut patience, if waiting => waiting = false,
        }
    }
    Ok(Some(state))
}

fn dry_run(options: &Options, state: &State) {
    let own = own_addresses().unwrap_or_default();
    let settings = Settings {
        service_cidrs: state.service_cidrs(),
        ..options.settings(state.node.as_ref(), &own)
    };
    let intent = Intent::of(state.index.view(), settings);
    let text = match options.mode {
        ProxyMode::Nftables => full_script(&intent),
        ProxyMode::Iptables => {
            let of_family = |family| {
                let text = iptables::full_script(family, &intent, Choices::default());
                format!("# {family}: iptables-restore --noflush\n{text}")
            };
            IpFamily::ALL.map(of_family).concat()
        }
        ProxyMode::Ipvs => {
            let choice = Choice {
                own: &own,
                scheduler: options.ipvs.scheduler,
                drain_bound: options.ipvs.drain_bound,
            };
            ipvs::full_script(&intent, &choice)
        }
        // The table is made of the ports that relays come to have: what they are for says more.
        ProxyMode::Userspace => Demand::of(&intent).to_string(),
    };
    print!("{text}");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use berth_model::{PortName, Protocol, ServiceKey, ServicePortName};
    use berth_proxy_core::{Frontend, Role};

    use super::*;

    #[test]
    fn counts_are_the_same_for_programs_as_for_people() {
        let counted = Counted {
            frontend: Frontend::Vip {
                ip: [10, 96, 0, 1].into(),
                protocol: Protocol::Tcp,
                port: 80.try_into().unwrap(),
            },
            owner: ServicePortName {
                service: ServiceKey::new("shop", "web"),
                port: PortName::new("http"),
                protocol: Protocol::Tcp,
            },
            role: Role::ClusterIp,
            refusals: vec!["reject (NoEndpoints)".to_owned()],
        };
        let tally = Tally {
            asked: 5,
            let_through: None,
        };
        let report = Report {
            span: Duration::from_secs(10),
            rows: vec![(counted, tally)],
        };
        assert_eq!(
            json_of(&report),
            json!({"seconds": 10.0, "frontends": [{
                "service": "shop/web", "port": "http", "protocol": "TCP", "role": "ClusterIP",
                "frontend": "10.96.0.1:80/TCP", "asked": 5, "letThrough": null,
                "refusals": ["reject (NoEndpoints)"],
            }]})
        );
    }
}
