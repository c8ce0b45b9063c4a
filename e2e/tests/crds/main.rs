// SPDX-License-Identifier: Apache-2.0
//! Berth's own kinds on the real API server: what is wrong with a spec is refused when it is applied, with the field
//! named, or is one of the faults that become a condition. And `kubectl explain` says what they are.

use anyhow::{Context, Result, ensure};
use berth_crds::{AddressClaimSpec, AddressPoolSpec, Fault, NodePortPoolSpec};
use berth_e2e::controlplane::{Binaries, ControlPlane, ControlPlaneConfig};
use berth_e2e::stage;
use berth_testkit::{in_sandbox_async, sandbox};
use http::Request;
use kube::Client;
use serde_json::{Value, json};

mod specs;

/// One of the kinds.
#[derive(Clone, Copy, Debug)]
enum Kind {
    AddressPool,
    NodePortPool,
    AddressClaim,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::AddressPool => "AddressPool",
            Self::NodePortPool => "NodePortPool",
            Self::AddressClaim => "AddressClaim",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::AddressPool => "/apis/berth.dev/v1alpha1/addresspools",
            Self::NodePortPool => "/apis/berth.dev/v1alpha1/nodeportpools",
            Self::AddressClaim => "/apis/berth.dev/v1alpha1/namespaces/default/addressclaims",
        }
    }

    /// A spec without fault.
    fn good(self) -> Value {
        match self {
            Self::AddressPool => {
                json!({"use": "ClusterIP", "addresses": ["10.96.8.0/24", "fd00:10:96::800/120"]})
            }
            Self::NodePortPool => json!({"ports": ["30000-30099"]}),
            Self::AddressClaim => json!({"serviceName": "web"}),
        }
    }

    fn faults(self, spec: &Value) -> Result<Vec<Fault>> {
        let spec = spec.clone();
        Ok(match self {
            Self::AddressPool => serde_json::from_value::<AddressPoolSpec>(spec)?.validate(),
            Self::NodePortPool => serde_json::from_value::<NodePortPoolSpec>(spec)?.validate(),
            Self::AddressClaim => serde_json::from_value::<AddressClaimSpec>(spec)?.validate(),
        })
    }

    fn object(self, name: &str, spec: &Value) -> Value {
        json!({"apiVersion": "berth.dev/v1alpha1", "kind": self.name(), "metadata": {"name": name}, "spec": spec})
    }
}

/// Fields over those of a good spec; null removes one.
fn with(kind: Kind, fields: &Value) -> Value {
    let mut spec = kind.good();
    for (name, value) in fields.as_object().cloned().unwrap_or_default() {
        spec[name] = value;
    }
    if let Some(spec) = spec.as_object_mut() {
        spec.retain(|_, value| !value.is_null());
    }
    spec
}

/// `Ok` with what is stored, or the message of the refusal.
async fn create(client: &Client, kind: Kind, name: &str, spec: &Value) -> Result<Result<Value, String>> {
    let body = serde_json::to_vec(&kind.object(name, spec))?;
    let request = Request::post(kind.path()).header("content-type", "application/json");
    answer(client.request(request.body(body)?).await)
}

async fn patch(client: &Client, kind: Kind, name: &str, spec: &Value) -> Result<Result<Value, String>> {
    let body = serde_json::to_vec(&json!({"spec": spec}))?;
    let path = format!("{}/{name}", kind.path());
    let request = Request::patch(path).header("content-type", "application/merge-patch+json");
    answer(client.request(request.body(body)?).await)
}

fn answer(result: Result<Value, kube::Error>) -> Result<Result<Value, String>> {
    match result {
        Ok(stored) => Ok(Ok(stored)),
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(Err(status.message)),
        Err(error) => Err(error.into()),
    }
}

async fn control_plane(name: &str) -> Result<ControlPlane> {
    let config = ControlPlaneConfig {
        logs: Some(stage::folder(name)?),
        ..ControlPlaneConfig::loopback(std::path::Path::new(sandbox::SCRATCH).join(name))
    };
    let control_plane = ControlPlane::start(config).await?;
    control_plane.install_kinds().await?;
    Ok(control_plane)
}

#[expect(clippy::unwrap_used, reason = "a test fails by a panic, its helpers too")]
fn prepare() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().unwrap();
    }
}

#[test]
fn what_is_wrong_with_a_spec_is_refused_with_its_field_or_is_a_fault() {
    prepare();
    in_sandbox_async!(async {
        let control_plane = control_plane("crds").await?;
        let client = control_plane.client();
        for (index, (kind, fields, field)) in specs::refused().into_iter().enumerate() {
            let spec = with(kind, &fields);
            let answer = create(&client, kind, &format!("refused-{index}"), &spec).await?;
            let message = answer
                .err()
                .with_context(|| format!("{} {spec} was taken", kind.name()))?;
            ensure!(
                message.contains(field),
                "{spec}: {message:?} does not name {field}"
            );
        }
        for (index, (kind, fields, field)) in specs::told_off().into_iter().enumerate() {
            let spec = with(kind, &fields);
            let stored = create(&client, kind, &format!("told-off-{index}"), &spec).await?;
            let stored = stored
                .map_err(anyhow::Error::msg)
                .with_context(|| spec.to_string())?;
            let faults = kind.faults(&stored["spec"])?;
            ensure!(
                faults.iter().any(|fault| fault.field == field),
                "{spec}: {faults:?} do not name {field}"
            );
        }
        anyhow::Ok(())
    });
}

#[test]
fn good_specs_are_taken_and_what_must_not_change_does_not() {
    prepare();
    in_sandbox_async!(async {
        let control_plane = control_plane("crds-good").await?;
        let client = control_plane.client();
        for (index, (kind, fields)) in specs::good().into_iter().enumerate() {
            let spec = with(kind, &fields);
            let stored = create(&client, kind, &format!("good-{index}"), &spec).await?;
            let stored = stored
                .map_err(anyhow::Error::msg)
                .with_context(|| spec.to_string())?;
            ensure!(kind.faults(&stored["spec"])?.is_empty(), "{spec}");
        }
        for (kind, fields, field) in [
            (Kind::AddressPool, json!({"use": "LoadBalancer"}), "spec.use"),
            (Kind::AddressClaim, json!({"use": "ClusterIP"}), "spec.use"),
            (
                Kind::AddressClaim,
                json!({"serviceName": "other"}),
                "spec.serviceName",
            ),
        ] {
            let name = format!("fixed-{}", kind.name().to_lowercase());
            // Made with the first, and there with the second.
            let _ = create(&client, kind, &name, &kind.good()).await;
            let message = patch(&client, kind, &name, &fields)
                .await?
                .err()
                .context("it was changed")?;
            ensure!(
                message.contains(field) && message.contains("create another"),
                "{message}"
            );
        }
        anyhow::Ok(())
    });
}

#[test]
fn kubectl_explains_the_kinds() {
    prepare();
    in_sandbox_async!(async {
        let control_plane = control_plane("crds-explain").await?;
        let mut said = String::new();
        for kind in ["nodeportpool.spec", "addressclaim.spec", "addressclaim.status"] {
            let text = control_plane.kubectl(&["explain", kind]).await?;
            let text: Vec<&str> = text.lines().map(str::trim_end).collect();
            said += &format!("$ kubectl explain {kind}\n{}\n", text.join("\n").trim_end());
            said.push('\n');
        }
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crds/explain.txt");
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        // For whoever changes a description: this is the new file.
        let found = stage::folder("crds-explain")?.join("explain.txt");
        std::fs::write(&found, &said)?;
        ensure!(
            said == expected,
            "{} differs from {}",
            found.display(),
            golden.display()
        );
        anyhow::Ok(())
    });
}
