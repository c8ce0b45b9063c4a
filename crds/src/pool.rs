// SPDX-License-Identifier: Apache-2.0
//! What pools of addresses and pools of node ports have in common: who may use them, and how much of them.
#![expect(
    unreachable_pub,
    reason = "KubeSchema expands to a private copy of each struct, `pub` included"
)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube_derive::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Fault;

/// Which Services a pool serves: those in one of the namespaces, if any are
/// given, that carry the labels, if any are.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PoolSelector {
    /// Names of namespaces. Beside a namespaceSelector, a namespace is taken that
    /// is named here or selected there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(
            length(min = 1, max = 63),
            regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
        )
    )]
    pub namespaces: Vec<String>,
    /// Labels of namespaces. An empty selector selects all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Labels of the Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_selector: Option<LabelSelector>,
}

/// How much of a pool one namespace may hold. What is claimed counts like what
/// is held by a Service.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[x_kube(validation = Rule::new("has(self.perNamespace) || (has(self.overrides) && self.overrides.size() > 0)")
    .message("a quota needs perNamespace or overrides; remove it for a pool without limit"))]
#[serde(rename_all = "camelCase")]
pub struct PoolQuota {
    /// What each namespace may hold: addresses of each family, or node ports. 0 is
    /// none at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub per_namespace: Option<i64>,
    /// Other limits for some namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["namespace".into()]))]
    pub overrides: Vec<QuotaOverride>,
}

/// The limit of one namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct QuotaOverride {
    /// The namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// What it may hold, whatever perNamespace says.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub limit: i64,
}

impl PoolQuota {
    /// What a namespace may hold; `None` where there is no limit.
    pub fn of(&self, namespace: &str) -> Option<u64> {
        let own = self.overrides.iter().find(|limit| limit.namespace == namespace);
        let limit = own.map(|limit| limit.limit).or(self.per_namespace);
        limit.map(|limit| u64::try_from(limit).unwrap_or(0))
    }
}

/// Which of the free ones is given. Absent, the lowest where a pool is for load
/// balancers, and any elsewhere. What was just given back comes last.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strategy {
    /// Any: hard to guess, and seldom the one that was given back last.
    Random,
    /// The lowest: easy to read, and ranges stay free at their end.
    LowestFirst,
    /// The one that has been free for longest.
    LeastRecentlyReleased,
}

impl Strategy {
    /// The spelling of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Random => "Random",
            Self::LowestFirst => "LowestFirst",
            Self::LeastRecentlyReleased => "LeastRecentlyReleased",
        }
    }
}

/// What is wrong with a selector of `spec.selector`.
pub(crate) fn selector_faults(selector: Option<&PoolSelector>) -> Vec<Fault> {
    let Some(selector) = selector else {
        return Vec::new();
    };
    let namespaces = label_selector_faults(
        "spec.selector.namespaceSelector",
        selector.namespace_selector.as_ref(),
    );
    let services = label_selector_faults(
        "spec.selector.serviceSelector",
        selector.service_selector.as_ref(),
    );
    let duplicates = duplicates(&selector.namespaces).map(|(index, name)| {
        let field = format!("spec.selector.namespaces[{index}]");
        Fault::new(field, name, "is named twice; name each namespace once")
    });
    duplicates.chain(namespaces).chain(services).collect()
}

/// The API server looks at a selector inside a custom resource as at any other
/// object.
fn label_selector_faults(field: &str, selector: Option<&LabelSelector>) -> Vec<Fault> {
    let expressions = selector.and_then(|selector| selector.match_expressions.as_deref());
    let mut faults = Vec::new();
    for (index, expression) in expressions.unwrap_or_default().iter().enumerate() {
        let field = format!("{field}.matchExpressions[{index}]");
        let has_values = expression
            .values
            .as_ref()
            .is_some_and(|values| !values.is_empty());
        let problem = match (expression.operator.as_str(), has_values) {
            ("In" | "NotIn", true) | ("Exists" | "DoesNotExist", false) => None,
            ("In" | "NotIn", false) => Some((".values", "[]".to_owned(), "needs at least one value")),
            ("Exists" | "DoesNotExist", true) => {
                let values = expression.values.as_deref().unwrap_or_default().join(", ");
                Some((
                    ".values",
                    values,
                    "takes no values with this operator; remove them",
                ))
            }
            (operator, _) => Some((
                ".operator",
                operator.to_owned(),
                "is none of In, NotIn, Exists and DoesNotExist",
            )),
        };
        if let Some((part, value, problem)) = problem {
            faults.push(Fault::new(format!("{field}{part}"), value, problem));
        }
        if expression.key.is_empty() {
            faults.push(Fault::new(format!("{field}.key"), "", "names no label"));
        }
    }
    faults
}

/// What is wrong with a quota of `spec.quota`, beside what the schema refuses.
pub(crate) fn quota_faults(quota: Option<&PoolQuota>) -> Vec<Fault> {
    let Some(quota) = quota else {
        return Vec::new();
    };
    let names: Vec<String> = quota
        .overrides
        .iter()
        .map(|limit| limit.namespace.clone())
        .collect();
    let twice = duplicates(&names).map(|(index, name)| {
        let field = format!("spec.quota.overrides[{index}].namespace");
        Fault::new(field, name, "has a limit already; give each namespace one")
    });
    let mut faults: Vec<Fault> = twice.collect();
    let limits = quota.overrides.iter().enumerate();
    let limits = limits.map(|(index, limit)| (format!("spec.quota.overrides[{index}].limit"), limit.limit));
    let own = quota
        .per_namespace
        .map(|limit| ("spec.quota.perNamespace".to_owned(), limit));
    for (field, limit) in own.into_iter().chain(limits).filter(|(_, limit)| *limit < 0) {
        faults.push(Fault::new(field, limit, "is negative; 0 is none at all"));
    }
    if quota.per_namespace.is_none() && quota.overrides.is_empty() {
        faults.push(Fault::new(
            "spec.quota",
            "{}",
            "needs perNamespace or overrides; remove it for a pool without limit",
        ));
    }
    faults
}

/// Those that have been there before, with their index.
pub(crate) fn duplicates(names: &[String]) -> impl Iterator<Item = (usize, &String)> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    names
        .iter()
        .enumerate()
        .filter(move |(index, name)| seen.insert(name, *index).is_some())
}
