// SPDX-License-Identifier: Apache-2.0
//! One of the contenders has converged and stops; the other starts, looks at everything, and writes nothing.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use berth_e2e::cluster::{PATIENCE, Request};
use berth_e2e::stage::{self, Contender, Launch, Stage};
use berth_testkit::in_sandbox_async;

use super::everything::{
    NAMESPACE, ORPHAN, RESERVED_HEADLESS, RESERVED_MANAGED_BY, RESERVED_MIRRORED, change_some,
    create_everything,
};
use super::settled::{SENTINELS, Stored, changed, converged, differences, looked_at_everything, stored};

/// Small, so that a Service of 13 Pods has several slices.
const FLAGS: [&str; 1] = ["--max-endpoints-per-slice=5"];

#[test]
fn berth_takes_over_from_kube_controller_manager_without_a_write() {
    super::prepare();
    in_sandbox_async!(async {
        let handover = handover("takeover-by-berth", Contender::KubeControllerManager).await?;
        let changed = differences(&handover.before, &handover.after);
        ensure!(changed.is_empty(), "Berth changed:\n{changed}");
        let writes = handover.writes(Contender::Berth);
        ensure!(writes.is_empty(), "Berth wrote: {writes:#?}");
        ensure!(
            handover.retries == 0.0,
            "{} turns are to be taken again",
            handover.retries
        );
        anyhow::Ok(())
    });
}

#[test]
fn kube_controller_manager_takes_over_from_berth_with_no_more_than_its_own_needless_writes() {
    super::prepare();
    in_sandbox_async!(async {
        let handover = handover("takeover-by-peer", Contender::Berth).await?;
        // It compares the labels of these with the Service's or the Endpoints' own, reserved ones included, and never
        // finds them equal. What it writes differs in the trigger time, that of mirrored slices in the order too.
        let endpoints = [RESERVED_HEADLESS, RESERVED_MANAGED_BY].map(|name| format!("Endpoints of {name}"));
        let mirrored = format!("slices of {RESERVED_MIRRORED}");
        // Endpoints without a Service are leftovers to it when it starts.
        let orphan = format!("Endpoints of {ORPHAN}");
        let expected: BTreeSet<String> = endpoints.into_iter().chain([mirrored, orphan]).collect();
        let changed = handover.changed();
        ensure!(
            changed.is_subset(&expected),
            "changed: {changed:#?}, expected at most {expected:#?}"
        );
        let writes = handover.writes(Contender::KubeControllerManager);
        ensure!(writes == expected, "{writes:#?}, expected {expected:#?}");
        anyhow::Ok(())
    });
}

/// What a handover left.
struct Handover {
    before: Stored,
    after: Stored,
    /// Turns of the second one that failed, before there was anything to write.
    retries: f64,
    requests: Vec<Request>,
}

impl Handover {
    /// Whose Endpoints or slices came, went, or have another resource version.
    fn changed(&self) -> BTreeSet<String> {
        let keys = changed(&self.before, &self.after);
        keys.iter().map(|key| self.owner(key)).collect()
    }

    /// Whose Endpoints or slices a contender wrote, changed or not, outside the sentinels' namespace.
    fn writes(&self, contender: Contender) -> BTreeSet<String> {
        let user = contender.user();
        self.requests
            .iter()
            .filter(|request| request.is_write() && request.user() == user)
            .filter(|request| request.namespace() != SENTINELS && request.resource() != "events")
            .map(|request| match request.resource() {
                "endpoints" => self.owner(&format!("Endpoints {NAMESPACE}/{}", request.name())),
                "endpointslices" => self.owner(&format!("EndpointSlice {NAMESPACE}/{}", request.name())),
                _ => request.to_string(),
            })
            .collect()
    }

    fn owner(&self, key: &str) -> String {
        let (kind, name) = key.split_once(' ').unwrap_or_default();
        if kind == "Endpoints" {
            return format!("Endpoints of {}", name.rsplit('/').next().unwrap_or_default());
        }
        let slice = self.after.get(key).or(self.before.get(key));
        let service =
            slice.and_then(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str());
        service.map_or(key.to_owned(), |service| format!("slices of {service}"))
    }
}

/// `first` converges a cluster that has one of everything and ends; the other one starts and looks at it all.
async fn handover(name: &str, first: Contender) -> Result<Handover> {
    let stage = Stage::start_audited(&stage::folder(name)?, Vec::new()).await?;
    let launch = |contender: Contender| Launch {
        extra_flags: FLAGS.map(str::to_owned).to_vec(),
        ..Launch::named(&contender.to_string())
    };
    create_everything(&stage.client()).await?;
    let mut process = stage.launch(first, &launch(first)).await?;
    stage.wait_ready(first, &launch(first), &mut process).await?;
    looked_at_everything(&stage, first, &launch(first), "early").await?;
    change_some(&stage.client()).await?;
    let before = converged(&stage, first, &launch(first), "first").await?;
    ensure!(before.len() > 40, "only {} objects", before.len());
    process.terminate(PATIENCE)?;

    let second = first.other();
    let mut process = stage.launch(second, &launch(second)).await?;
    stage.wait_ready(second, &launch(second), &mut process).await?;
    stage.wait_idle(second, &launch(second)).await?;
    let page = stage.metrics(second, &launch(second)).await?;
    let retries = page.sum("workqueue_retries_total", "");
    looked_at_everything(&stage, second, &launch(second), "second").await?;
    let after = stored(&stage.client()).await?;
    stage.nothing_was_forbidden()?;
    Ok(Handover {
        retries,
        before,
        after,
        requests: stage.audit()?.requests()?,
    })
}
