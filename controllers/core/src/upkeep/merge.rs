// SPDX-License-Identifier: Apache-2.0
//! What turns one status into another, as a merge patch (RFC 7396).

use serde::Serialize;
use serde_json::{Map, Value};

/// The patch that makes the one of the other. What is left out of an object because it is zero or empty is removed by an
/// explicit null. Nothing where either can't be told in JSON.
pub fn merge_patch(before: &impl Serialize, after: &impl Serialize) -> Option<Value> {
    let before = serde_json::to_value(before).ok()?;
    let after = serde_json::to_value(after).ok()?;
    Some(difference(&before, after))
}

fn difference(before: &Value, after: Value) -> Value {
    let (Value::Object(before), Value::Object(mut after)) = (before, after) else {
        return Value::Null;
    };
    let mut patch = Map::new();
    for (name, old) in before {
        match after.remove(name) {
            None => {
                patch.insert(name.clone(), Value::Null);
            }
            Some(new) if new == *old => {}
            Some(new) if new.is_object() && old.is_object() => {
                patch.insert(name.clone(), difference(old, new));
            }
            Some(new) => {
                patch.insert(name.clone(), new);
            }
        }
    }
    patch.extend(after);
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_gone_is_removed_and_what_is_equal_is_not_sent() {
        let before = json!({"ipv4": {"allocated": 3, "reserved": 1}, "ipv6": {"allocated": 1}, "list": [1], "same": 1});
        let after = json!({"ipv4": {"allocated": 4}, "list": [1, 2], "same": 1, "new": {"a": 1}});
        assert_eq!(
            merge_patch(&before, &after),
            Some(
                json!({"ipv4": {"allocated": 4, "reserved": null}, "ipv6": null, "list": [1, 2], "new": {"a": 1}})
            )
        );
        assert_eq!(merge_patch(&before, &before), Some(json!({})));
    }
}
