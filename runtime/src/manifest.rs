// SPDX-License-Identifier: Apache-2.0
//! Kubernetes objects in a text, as `kubectl get -o yaml` writes it and people do: YAML documents or JSON, lists unfolded.
//!
//! In: a text. Out: its objects, each with what it says it is. Touches nothing.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// One object, not of any type yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// `apiVersion`; not empty.
    pub api_version: String,
    /// `kind`; not empty, and no list.
    pub kind: String,
    /// `metadata.name`, if there is one.
    pub name: String,
    place: Place,
    object: Value,
}

/// Where in a text: which document, counted from 1 without empty ones, and which item of each list in it, counted from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    document: usize,
    items: Vec<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}", self.document)?;
        self.items
            .iter()
            .try_for_each(|index| write!(f, ": items[{index}]"))
    }
}

/// What cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not the syntax.
    #[error("not readable as YAML or JSON: {0}")]
    Syntax(String),
    /// Nothing of Kubernetes.
    #[error("{0}: no Kubernetes object: apiVersion or kind is missing")]
    NoObject(String),
    /// A field that its type does not have like that.
    #[error("{place}: {what}: {fault}")]
    Field {
        /// Where in the text.
        place: String,
        /// Kind, and name in quotes.
        what: String,
        /// What is wrong.
        fault: String,
    },
}

/// Reads every object of a text, in order. Empty documents are none.
///
/// # Errors
/// Names the document, and the item in it.
pub fn manifests(text: &str) -> Result<Vec<Manifest>, ManifestError> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| ManifestError::Syntax(error.to_string()))?;
    let mut found = Vec::new();
    for (number, document) in (1..).zip(documents) {
        let place = Place {
            document: number,
            items: Vec::new(),
        };
        unfold(document, place, &mut found)?;
    }
    Ok(found)
}

fn unfold(mut object: Value, place: Place, found: &mut Vec<Manifest>) -> Result<(), ManifestError> {
    if object.is_null() {
        return Ok(());
    }
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (api_version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    if api_version.is_empty() || kind.is_empty() {
        return Err(ManifestError::NoObject(place.to_string()));
    }
    if !kind.ends_with("List") {
        found.push(Manifest {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            place,
            object,
        });
        return Ok(());
    }
    let items = object.get_mut("items").map(Value::take).unwrap_or_default();
    let Value::Array(items) = items else {
        return Ok(());
    };
    for (index, item) in items.into_iter().enumerate() {
        let mut place = place.clone();
        place.items.push(index);
        unfold(item, place, found)?;
    }
    Ok(())
}

impl Manifest {
    /// The object as its type has it.
    ///
    /// # Errors
    /// A field does not fit the type.
    pub fn typed<T: DeserializeOwned>(self) -> Result<T, ManifestError> {
        let fault = Fault::of(&self);
        serde_json::from_value(self.object).map_err(|error| fault.with(&error.to_string()))
    }

    /// What is wrong with it, for whoever finds that.
    pub fn fault(&self, fault: &str) -> ManifestError {
        Fault::of(self).with(fault)
    }
}

/// Of which object, while the object itself is being taken apart.
struct Fault {
    place: String,
    what: String,
}

impl Fault {
    fn of(manifest: &Manifest) -> Self {
        Self {
            place: manifest.place.to_string(),
            what: format!("{} {:?}", manifest.kind, manifest.name),
        }
    }

    fn with(self, fault: &str) -> ManifestError {
        ManifestError::Field {
            place: self.place,
            what: self.what,
            fault: fault.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    #[test]
    fn documents_and_lists_become_objects_in_order() {
        let text = "kind: Service\napiVersion: v1\nmetadata: {name: a}\n---\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: b}}\n\
                    - apiVersion: v1\n  kind: NodeList\n  items: [{apiVersion: v1, kind: Node, metadata: {name: c}}]\n";
        let found = manifests(text).unwrap();
        let names: Vec<String> = found
            .iter()
            .map(|found| format!("{}: {} {}", found.place, found.kind, found.name))
            .collect();
        assert_eq!(
            names,
            [
                "document 1: Service a",
                "document 2: items[0]: Pod b",
                "document 2: items[1]: items[0]: Node c"
            ]
        );
        assert_eq!(manifests("").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_place() {
        for (text, said) in [
            (
                "{apiVersion: v1}",
                "document 1: no Kubernetes object: apiVersion or kind is missing",
            ),
            (
                "{apiVersion: v1, kind: List, items: [{kind: Pod}]}",
                "document 1: items[0]: no Kubernetes object: apiVersion or kind is missing",
            ),
        ] {
            assert_eq!(manifests(text).unwrap_err().to_string(), said);
        }
        assert!(matches!(manifests("a: ["), Err(ManifestError::Syntax(_))));
        let text = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: 3}}";
        let service = manifests(text).unwrap().remove(0);
        assert_eq!(
            service.fault("too long").to_string(),
            "document 1: Service \"a\": too long"
        );
        let said = service.typed::<Service>().unwrap_err().to_string();
        assert!(
            said.starts_with("document 1: Service \"a\": invalid type"),
            "{said}"
        );
    }
}
