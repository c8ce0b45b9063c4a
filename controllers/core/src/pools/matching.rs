// SPDX-License-Identifier: Apache-2.0
//! Whether a pool's selector matches.

use berth_crds::PoolSelector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::service::Labels;

/// By name or by label; all of them where neither is asked for.
pub(super) fn selects_namespace(selector: Option<&PoolSelector>, namespace: &str, labels: &Labels) -> bool {
    let Some(selector) = selector else {
        return true;
    };
    let named = selector.namespaces.iter().any(|name| name == namespace);
    match &selector.namespace_selector {
        Some(by_label) => named || matches(by_label, labels),
        None => named || selector.namespaces.is_empty(),
    }
}

/// By label; all of them where none is asked for.
pub(super) fn selects_service(selector: Option<&PoolSelector>, labels: &Labels) -> bool {
    let by_label = selector.and_then(|selector| selector.service_selector.as_ref());
    by_label.is_none_or(|by_label| matches(by_label, labels))
}

fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let mut wanted = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    wanted.all(|(key, value)| labels.get(key) == Some(value))
        && expressions.all(|expression| holds(expression, labels))
}

/// One with an operator that is none holds for nothing: its pool is malformed, and says so.
fn holds(expression: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let value = labels.get(&expression.key);
    let listed = value.is_some_and(|value| expression.values.iter().flatten().any(|listed| listed == value));
    match expression.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}
