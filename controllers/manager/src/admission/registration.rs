// SPDX-License-Identifier: Apache-2.0
//! What the API server is told about the webhook.
//!
//! **What each failure policy promises.** It speaks of reviews that nobody answers: no replica runs, none can be reached,
//! none in time, the certificate does not verify.
//!
//! - `Ignore` (the default): a Service is always made. While nobody answers, the API server picks from all its ranges: the
//!   value may lie outside the Service's pool, or inside somebody else's, and it stays, because a cluster IP can't
//!   be changed. It is counted and reported.
//! - `Fail`: a Service is made with values of its pool, or not at all: the client gets an error and tries again. While
//!   nobody answers no Service can be made or changed, except the exempt ones.
//!
//! A refusal is none of this: the API server has its answer, and the Service is not made under either.
//!
//! What came of it the API server looks at once more by itself, by the policies of [`crate::enforcement`]: they refuse under `Fail`, and
//! only warn under `Ignore`.
//!
//! **Nothing here can keep a cluster from starting.** `default/kubernetes`, which the API server makes by itself and
//! through its own admission, `kube-system` and Berth's own namespace never reach the webhook, so that what Berth needs
//! to run is made without it. Only Services are looked at: never IPAddresses, which the API server has to write in its first
//! minute. The exemptions are match conditions on the request alone, and need no lookup of a namespace that is not
//! there yet.

mod apply;

use std::collections::BTreeSet;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
    WebhookClientConfig,
};
use kube::api::ObjectMeta;

use super::FailurePolicy;
pub use apply::{Registrar, remove};

/// The name of the MutatingWebhookConfiguration; the shipped RBAC names it.
pub const CONFIGURATION: &str = "berth-services";
/// Where reviews are sent.
pub const PATH: &str = "/mutate-services";
/// The webhook's own name, which users see in refusals.
const WEBHOOK: &str = "services.berth.dev";
/// Components that a cluster does not start without are there.
const SYSTEM_NAMESPACE: &str = "kube-system";

/// How API servers reach the webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By a Service. Its ClusterIP is of no use to an API server whose node has no proxy: it goes to the endpoints.
    Service {
        /// Of the Service.
        namespace: String,
        /// Of the Service.
        name: String,
        /// Of the Service.
        port: u16,
    },
    /// By a URL, for control planes outside the cluster's network: `https://HOST:PORT/mutate-services`.
    Url(String),
}

/// What is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// How API servers reach the webhook.
    pub target: Target,
    /// What they do when they do not.
    pub failure_policy: FailurePolicy,
    /// How long they wait: 1 to 30.
    pub timeout_seconds: u8,
    /// Beside `kube-system`, which need not be named. Berth's own has to be.
    pub exempt_namespaces: BTreeSet<String>,
}

impl Registration {
    /// The object, with the authorities to trust in PEM.
    pub fn configuration(&self, bundle: &str) -> MutatingWebhookConfiguration {
        MutatingWebhookConfiguration {
            metadata: ObjectMeta {
                name: Some(CONFIGURATION.to_owned()),
                labels: Some([("app.kubernetes.io/part-of".to_owned(), "berth".to_owned())].into()),
                ..ObjectMeta::default()
            },
            webhooks: Some(vec![self.webhook(bundle)]),
        }
    }

    fn webhook(&self, bundle: &str) -> MutatingWebhook {
        MutatingWebhook {
            name: WEBHOOK.to_owned(),
            admission_review_versions: vec!["v1".to_owned()],
            client_config: self.client_config(bundle),
            rules: Some(vec![RuleWithOperations {
                api_groups: Some(vec![String::new()]),
                api_versions: Some(vec!["v1".to_owned()]),
                operations: Some(vec!["CREATE".to_owned(), "UPDATE".to_owned()]),
                resources: Some(vec!["services".to_owned()]),
                scope: Some("Namespaced".to_owned()),
            }]),
            match_conditions: Some(self.match_conditions()),
            match_policy: Some("Equivalent".to_owned()),
            failure_policy: Some(self.failure_policy.as_str().to_owned()),
            timeout_seconds: Some(i32::from(self.timeout_seconds)),
            // A dry run holds nothing.
            side_effects: "NoneOnDryRun".to_owned(),
            // A webhook after this one may change type or families, and then other values are needed.
            reinvocation_policy: Some("IfNeeded".to_owned()),
            ..MutatingWebhook::default()
        }
    }

    fn client_config(&self, bundle: &str) -> WebhookClientConfig {
        let ca_bundle = Some(ByteString(bundle.as_bytes().to_vec()));
        match &self.target {
            Target::Service {
                namespace,
                name,
                port,
            } => WebhookClientConfig {
                ca_bundle,
                service: Some(ServiceReference {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    path: Some(PATH.to_owned()),
                    port: Some(i32::from(*port)),
                }),
                url: None,
            },
            Target::Url(url) => WebhookClientConfig {
                ca_bundle,
                service: None,
                url: Some(url.clone()),
            },
        }
    }

    /// All of them have to hold. None can fail at run time, whatever the object is.
    fn match_conditions(&self) -> Vec<MatchCondition> {
        let mut exempt = self.exempt_namespaces.clone();
        exempt.insert(SYSTEM_NAMESPACE.to_owned());
        // Names of namespaces are DNS labels; Debug quotes as CEL does.
        let exempt: Vec<String> = exempt.iter().map(|namespace| format!("{namespace:?}")).collect();
        let condition = |name: &str, expression: String| MatchCondition {
            name: name.to_owned(),
            expression,
        };
        vec![
            condition(
                "not-in-an-exempt-namespace",
                format!("!(request.namespace in [{}])", exempt.join(", ")),
            ),
            condition(
                "not-the-api-servers-own",
                "!(request.namespace == \"default\" && has(object.metadata.name) && \
                 object.metadata.name == \"kubernetes\")"
                    .to_owned(),
            ),
            // Whatever is not the spec can't change what a Service has. All of it is compared, so that nothing is missed
            // that later versions of the API put there.
            condition(
                "touches-the-spec",
                "request.operation != \"UPDATE\" || object.spec != oldObject.spec".to_owned(),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn registration(target: Target) -> Value {
        let registration = Registration {
            target,
            failure_policy: FailurePolicy::Ignore,
            timeout_seconds: 5,
            exempt_namespaces: ["berth-system".to_owned()].into(),
        };
        serde_json::to_value(registration.configuration("PEM")).unwrap()
    }

    #[test]
    fn only_services_are_registered_for_and_by_default_a_failure_is_ignored() {
        let whole = registration(Target::Url("https://a/mutate-services".to_owned()));
        assert_eq!(whole["apiVersion"], "admissionregistration.k8s.io/v1");
        assert_eq!(whole["metadata"]["name"], "berth-services");
        assert_eq!(whole["webhooks"].as_array().unwrap().len(), 1);
        let webhook = &whole["webhooks"][0];
        let rules = json!([{
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
            "resources": ["services"], "scope": "Namespaced",
        }]);
        assert_eq!(webhook["rules"], rules);
        for (field, value) in [
            ("failurePolicy", "Ignore"),
            ("sideEffects", "NoneOnDryRun"),
            ("reinvocationPolicy", "IfNeeded"),
            ("matchPolicy", "Equivalent"),
        ] {
            assert_eq!(webhook[field], value, "{field}");
        }
        assert_eq!(webhook["timeoutSeconds"], 5);
        assert_eq!(webhook["admissionReviewVersions"], json!(["v1"]));
    }

    #[test]
    fn the_target_is_a_service_or_a_url_never_both() {
        let service = registration(Target::Service {
            namespace: "berth-system".to_owned(),
            name: "berth-admission".to_owned(),
            port: 443,
        });
        let expected = json!({
            "caBundle": "UEVN",
            "service": {
                "namespace": "berth-system", "name": "berth-admission", "port": 443, "path": "/mutate-services",
            },
        });
        assert_eq!(service["webhooks"][0]["clientConfig"], expected);
        let url = registration(Target::Url("https://a/mutate-services".to_owned()));
        let expected = json!({"caBundle": "UEVN", "url": "https://a/mutate-services"});
        assert_eq!(url["webhooks"][0]["clientConfig"], expected);
    }

    #[test]
    fn what_a_cluster_needs_to_start_is_exempt() {
        let whole = registration(Target::Url("https://a/mutate-services".to_owned()));
        let text = whole["webhooks"][0]["matchConditions"].to_string();
        for part in ["berth-system", "kube-system", "kubernetes", "oldObject.spec"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
