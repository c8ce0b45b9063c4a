// SPDX-License-Identifier: Apache-2.0
//! One command of kubectl.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::lane::{Lane, POOLED, Seen};

/// The Service, and the label by which it is found where its name is made up.
pub(crate) const NAME: &str = "web";

/// One command.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Create(Value),
    /// As `Create`, which has to fail.
    CreateRefused(Value),
    /// The same, with a value that no pool has: where one selects, it is the pool that refuses.
    CreateOutside(Value),
    Apply(Value),
    ApplyRefused(Value),
    ApplyServerSide(Value),
    Replace(Value),
    /// Deletes and creates.
    ReplaceForce(Value),
    Patch(Value),
    PatchRefused(Value),
    /// By a script of sed.
    Edit(&'static str),
    /// `kubectl apply --dry-run=server`: nothing may come of it.
    DryRun(Value),
    /// `kubectl diff` where there is a difference, which it says by failing.
    Diff(Value),
    /// `kubectl diff` where there is none.
    NoDiff(Value),
    Label,
    Delete,
    /// `kubectl create service`, with these arguments.
    Imperative(&'static [&'static str]),
    /// `kubectl set selector`.
    Selector,
}

impl Step {
    /// Arguments of kubectl, and what it is given to read.
    pub(crate) fn command(&self) -> (Vec<String>, Option<Value>) {
        let words = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<String>>()
        };
        match self {
            Self::Create(spec) | Self::CreateRefused(spec) | Self::CreateOutside(spec) => {
                (words(&["create", "-f", "-"]), Some(manifest(spec)))
            }
            Self::Apply(spec) | Self::ApplyRefused(spec) => {
                (words(&["apply", "-f", "-"]), Some(manifest(spec)))
            }
            Self::ApplyServerSide(spec) => {
                let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
                (words(&arguments), Some(manifest(spec)))
            }
            Self::Replace(spec) => (words(&["replace", "-f", "-"]), Some(manifest(spec))),
            Self::ReplaceForce(spec) => (words(&["replace", "--force", "-f", "-"]), Some(manifest(spec))),
            Self::Patch(patch) | Self::PatchRefused(patch) => {
                // A text, so that tokens in it are filled in; a port is a number only without its quotes.
                let text = json!({"spec": patch}).to_string();
                let text = ["$port1", "$port2", "$port3"]
                    .iter()
                    .fold(text, |text, token| text.replace(&format!("\"{token}\""), token));
                (
                    vec![
                        "patch".into(),
                        "service".into(),
                        NAME.into(),
                        format!("--patch={text}"),
                    ],
                    None,
                )
            }
            Self::Edit(_) => (words(&["edit", "service", NAME]), None),
            Self::DryRun(spec) => (
                words(&["apply", "--dry-run=server", "-f", "-"]),
                Some(manifest(spec)),
            ),
            Self::Diff(spec) | Self::NoDiff(spec) => (words(&["diff", "-f", "-"]), Some(manifest(spec))),
            Self::Label => (words(&["label", "service", NAME, "tier=front"]), None),
            Self::Delete => {
                let selector = format!("--selector=case={NAME}");
                (words(&["delete", "services", &selector, "--wait=true"]), None)
            }
            Self::Imperative(more) => {
                let mut arguments = words(&["create", "service"]);
                arguments.extend(more.iter().map(|word| (*word).to_owned()));
                (arguments, None)
            }
            Self::Selector => (words(&["set", "selector", "service", NAME, "app=other"]), None),
        }
    }

    /// The editor's script.
    pub(crate) fn editor(&self) -> Option<&str> {
        if let Self::Edit(script) = self {
            Some(script)
        } else {
            None
        }
    }

    /// Whether what came of it in a lane is what came of it in the bare one.
    pub(crate) fn alike(&self, bare: &Seen, other: &Seen, lane: &Lane) -> bool {
        if lane.namespace == POOLED && matches!(self, Self::CreateOutside(_)) {
            let refused = other.error.as_deref().unwrap_or_default();
            bare.error.is_some() && refused.contains("WishOutside") && bare.spec == other.spec
        } else {
            bare == other
        }
    }

    /// Whether it ends well where it should, so that no case compares failures with each other by mistake.
    pub(crate) fn expected(&self, seen: &Seen) -> Result<()> {
        let refused = matches!(
            self,
            Self::CreateRefused(_)
                | Self::CreateOutside(_)
                | Self::ApplyRefused(_)
                | Self::PatchRefused(_)
                | Self::Diff(_)
        );
        ensure!(seen.error.is_some() == refused, "{:?}", seen.error);
        Ok(())
    }
}

/// A Service with one port unless it says otherwise. `generateName` in it makes one without a name.
fn manifest(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let generate = spec.as_object_mut().and_then(|spec| spec.remove("generateName"));
    if spec["ports"].is_null() && spec["type"] != "ExternalName" {
        spec["ports"] = json!([{"name": "http", "port": 80}]);
    }
    let mut metadata = json!({"labels": {"case": NAME}});
    match generate {
        Some(generate) => metadata["generateName"] = generate,
        None => metadata["name"] = json!(NAME),
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}
