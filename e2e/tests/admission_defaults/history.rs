// SPDX-License-Identifier: Apache-2.0
//! Two Services that live through the same writes.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use berth_controllers_core::admission::{
    Chosen, ClusterFamilies, Decision, Exemptions, Need, Needs, Patch, PortNeed, Request, decide, patch,
};
use berth_model::{IpFamily, Port};
use fastrand::Rng;
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use serde_json::Value;

use super::admitted::{Write, patched};
use super::compare::Foreseen;
use super::propose;
use super::symbols::Symbols;
use super::tally::Tally;
use super::twin::{Answer, GIVEN_UP, NAMESPACE, Twin};

/// What the API server says of an address that nobody has. Its repair of IPAddress objects looks at one that an update
/// has claimed before it knows of the update, deletes it, and makes it again when it does know: by then the Service may
/// have given it back, and it stays for a minute (`repairip.go` of pkg/registry/core/service/ipallocator, 1.37.2).
const DISTURBED: &str = "provided IP is already allocated";

/// Two Services, and the choices that are made for both.
pub(crate) struct History {
    index: u64,
    lane: u64,
    dice: Rng,
    twins: [Twin; 2],
    symbols: [Symbols; 2],
    ends: bool,
    /// The twins are no longer alike, and nobody is to blame.
    is_disturbed: bool,
}

/// What was thought of a write to one twin.
struct Thought {
    admitted: Value,
    before: Option<Service>,
    decision: Decision,
}

impl Thought {
    fn of(write: &Write, twin: &Twin, cluster: ClusterFamilies) -> Result<Self> {
        let admitted = write.admitted(twin.stored.as_ref())?;
        let service: Service =
            serde_json::from_value(admitted.clone()).with_context(|| admitted.to_string())?;
        let before: Option<Service> = twin.stored.clone().map(serde_json::from_value).transpose()?;
        let decision = said(&service, before.as_ref(), cluster);
        Ok(Self {
            admitted,
            before,
            decision,
        })
    }

    fn needs(&self) -> Option<&Needs> {
        match &self.decision {
            Decision::Exempt(_) | Decision::LeaveToServer(_) => None,
            Decision::Nothing(needs) | Decision::Serve(needs) => Some(needs),
        }
    }
}

fn said(service: &Service, old: Option<&Service>, cluster: ClusterFamilies) -> Decision {
    let request = Request {
        namespace: NAMESPACE,
        service,
        old,
    };
    decide(&request, cluster, &Exemptions::with([]))
}

impl History {
    pub(crate) fn new(seed: u64, index: u64, lanes: u64) -> Self {
        let lane = index % lanes;
        let twins = Twin::pair(&format!("h-{index}"), lane);
        let symbols = [Symbols::of(&twins[0]), Symbols::of(&twins[1])];
        Self {
            index,
            lane,
            dice: Rng::with_seed(seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            twins,
            symbols,
            ends: false,
            is_disturbed: false,
        }
    }

    /// Its Services go with its last write.
    pub(crate) fn ending(mut self) -> Self {
        self.ends = true;
        self
    }

    pub(crate) fn lane(&self) -> u64 {
        self.lane
    }

    /// Some writes, to both.
    pub(crate) async fn run(
        &mut self,
        client: &Client,
        cluster: ClusterFamilies,
        steps: usize,
        tally: &mut Tally,
    ) -> Result<()> {
        for step in 0..steps {
            if self.is_disturbed {
                break;
            }
            self.step(client, cluster, tally)
                .await
                .with_context(|| format!("history {}, write {step}", self.index))?;
        }
        if self.ends {
            self.end(client).await?;
        }
        Ok(())
    }

    pub(crate) async fn end(&mut self, client: &Client) -> Result<()> {
        for twin in &mut self.twins {
            twin.end(client).await?;
        }
        Ok(())
    }

    async fn step(&mut self, client: &Client, cluster: ClusterFamilies, tally: &mut Tally) -> Result<()> {
        // The same dice fall for both: what they decide is the same, on values that differ.
        let mut dice = self.dice.fork();
        let writes = [
            propose::write(&mut dice.clone(), &self.twins[0]),
            propose::write(&mut dice, &self.twins[1]),
        ];
        let bare = Thought::of(&writes[0], &self.twins[0], cluster)?;
        let helped = Thought::of(&writes[1], &self.twins[1], cluster)?;
        let (chosen, patch) = self.choose(&helped)?;
        tally.writes += 1;
        if let Decision::LeaveToServer(reason) = bare.decision {
            tally.left_alone += 1;
            *tally.by_reason.entry(reason).or_default() += 1;
        }
        tally.patched += u64::from(!patch.is_empty());
        let told = format!(
            "{}\n  sent   {}\n  stored {}\n  patch  {patch}",
            bare.decision,
            bare.admitted["spec"],
            self.twins[0].stored.as_ref().unwrap_or(&Value::Null)["spec"],
        );
        let write = if patch.is_empty() {
            writes[1].clone()
        } else {
            let object = patched(&helped.admitted, &patch)?;
            is_settled(&object, &helped, cluster, &self.spare(&helped)?)?;
            Write::Whole(object)
        };
        let answers = [
            self.twins[0]
                .send(client, &writes[0])
                .await
                .context(told.clone())?,
            self.twins[1].send(client, &write).await.context(told.clone())?,
        ];
        for (twin, write) in self.twins.iter_mut().zip(writes) {
            if let (None, Write::Whole(object)) = (&twin.manifest, write) {
                twin.manifest = twin.stored.as_ref().map(|_| object);
            }
        }
        self.compare(client, [&bare, &helped], &chosen, answers, tally)
            .await
            .context(told)
    }

    /// A chosen value for everything that is missing, now and then not for all of it.
    fn choose(&mut self, thought: &Thought) -> Result<(Chosen, Patch)> {
        let mut chosen = self.spare(thought)?;
        if self.dice.u8(..) < 40 {
            chosen.cluster_ips.remove(&IpFamily::V6);
        }
        if self.dice.u8(..) < 40 {
            chosen.node_ports.pop_first();
        }
        let Some(needs) = thought.needs() else {
            return Ok((Chosen::default(), Patch::default()));
        };
        if needs.families.first() == Some(&IpFamily::V6) && !chosen.cluster_ips.contains_key(&IpFamily::V6) {
            // The second is not set without the first.
            let missing = needs
                .cluster_ips
                .addresses()
                .first()
                .is_some_and(|first| first.need == Need::Any);
            if missing {
                chosen.cluster_ips.clear();
            }
        }
        let service: Service = serde_json::from_value(thought.admitted.clone())?;
        let patch = patch(&service, needs, &chosen);
        Ok((chosen, patch))
    }

    /// Values of the lane that the patched twin does not have.
    fn spare(&self, thought: &Thought) -> Result<Chosen> {
        let Some(needs) = thought.needs() else {
            return Ok(Chosen::default());
        };
        let twin = &self.twins[1];
        let held = twin
            .stored
            .as_ref()
            .map(|stored| stored["spec"].to_string())
            .unwrap_or_default();
        let free = |texts: &[IpAddr]| {
            texts
                .iter()
                .find(|address| !held.contains(&format!("\"{address}\"")))
                .copied()
        };
        let mut chosen = Chosen::default();
        for address in needs
            .cluster_ips
            .addresses()
            .iter()
            .filter(|address| address.need == Need::Any)
        {
            let texts = match address.family {
                IpFamily::V4 => &twin.free.v4,
                IpFamily::V6 => &twin.free.v6,
            };
            chosen
                .cluster_ips
                .insert(address.family, free(texts).context("no address is left")?);
        }
        let mut ports = twin
            .free
            .ports
            .iter()
            .filter(|port| !held.contains(&port.to_string()));
        let mut port = || {
            ports
                .next()
                .copied()
                .and_then(Port::new)
                .context("no node port is left")
        };
        for (index, need) in needs.node_ports.iter().enumerate() {
            if *need == PortNeed::Of(Need::Any) {
                chosen.node_ports.insert(index, port()?);
            }
        }
        if needs.health_check == Some(Need::Any) {
            chosen.health_check = Some(port()?);
        }
        Ok(chosen)
    }

    async fn compare(
        &mut self,
        client: &Client,
        thoughts: [&Thought; 2],
        chosen: &Chosen,
        answers: [Answer; 2],
        tally: &mut Tally,
    ) -> Result<()> {
        let says_taken =
            |answer: &Answer| matches!(answer, Answer::Refused(text) if text.contains(DISTURBED));
        let taken = answers.iter().filter(|answer| says_taken(answer)).count();
        if taken == 1 {
            tally.disturbed += 1;
            self.is_disturbed = true;
            return Ok(());
        }
        let [bare, helped] = &mut self.symbols;
        match answers {
            [Answer::Stored(one), Answer::Stored(two)] => {
                tally.accepted += 1;
                let none = Chosen::default();
                for (index, (stored, chosen)) in [(&one, &none), (&two, chosen)].into_iter().enumerate() {
                    let thought = thoughts[index];
                    let needs = thought.needs().context("left alone, and accepted")?;
                    let typed: Service = serde_json::from_value(stored.clone())?;
                    let foreseen = Foreseen::new(needs, chosen, thought.before.as_ref(), &self.twins[index]);
                    let held = foreseen.holds(&typed);
                    held.with_context(|| {
                        format!("{} is stored as {}", self.twins[index].name, stored["spec"])
                    })?;
                    free(client, needs, tally).await?;
                }
                let (one, two) = (bare.of_stored(&one), helped.of_stored(&two));
                ensure!(one == two, "they differ:\n  {one}\n  {two}");
                for (symbols, twin) in self.symbols.iter_mut().zip(&self.twins) {
                    symbols.keep_to(twin.stored.as_ref().unwrap_or(&Value::Null));
                }
            }
            [Answer::Refused(one), Answer::Refused(two)] => {
                tally.refused += 1;
                tally.given_up += u64::from(one == GIVEN_UP);
                let (one, two) = (bare.clone().of_message(&one), helped.clone().of_message(&two));
                ensure!(one == two, "refused differently:\n  {one}\n  {two}");
                if thoughts[0].needs().is_some() {
                    tally.refused_with(one);
                }
            }
            [Answer::Stored(_), Answer::Refused(message)] => bail!("refused with the patch alone: {message}"),
            [Answer::Refused(message), Answer::Stored(_)] => {
                bail!("refused without the patch alone: {message}")
            }
        }
        Ok(())
    }
}

/// That a write which was patched needs no patch, whatever else there were to choose.
fn is_settled(object: &Value, thought: &Thought, cluster: ClusterFamilies, spare: &Chosen) -> Result<()> {
    let service: Service = serde_json::from_value(object.clone())?;
    let decision = said(&service, thought.before.as_ref(), cluster);
    let (Decision::Nothing(needs) | Decision::Serve(needs)) = &decision else {
        bail!("patched, it is left alone: {decision}");
    };
    let again = patch(&service, needs, &Chosen::default());
    ensure!(again.is_empty(), "patched twice: {again}");
    // What was left to the API server may still be chosen; nothing else may.
    let again = patched(object, &patch(&service, needs, spare))?;
    let service: Service = serde_json::from_value(again)?;
    let decision = said(&service, thought.before.as_ref(), cluster);
    let (Decision::Nothing(needs) | Decision::Serve(needs)) = &decision else {
        bail!("patched twice, it is left alone: {decision}");
    };
    let again = patch(&service, needs, spare);
    ensure!(again.is_empty(), "patched for ever: {again}");
    Ok(())
}

/// Looks whether the API server no longer has the addresses that were to be given back.
async fn free(client: &Client, needs: &Needs, tally: &mut Tally) -> Result<()> {
    for released in &needs.released.cluster_ips {
        let path = format!("/apis/networking.k8s.io/v1/ipaddresses/{}", released.address);
        match client
            .request::<Value>(http::Request::get(path).body(Vec::new())?)
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => tally.freed += 1,
            Err(error) => return Err(error.into()),
            Ok(_) => tally.disturbed += 1,
        }
    }
    Ok(())
}
