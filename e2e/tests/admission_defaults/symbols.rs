// SPDX-License-Identifier: Apache-2.0
//! Names for the values of a twin, so that what became of the two can be compared.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::twin::{NODE_PORTS, Twin};

/// The values of one twin by what they are: asked for, or the first, second and so on that turned up.
#[derive(Clone, Debug)]
pub(crate) struct Symbols {
    twin: String,
    known: BTreeMap<String, String>,
    turned_up: usize,
}

impl Symbols {
    pub(crate) fn of(twin: &Twin) -> Self {
        let mut known = BTreeMap::new();
        for (index, port) in twin.asked.ports.iter().enumerate() {
            known.insert(port.to_string(), format!("PORT-{index}"));
        }
        for (index, address) in twin.asked.v4.iter().chain(&twin.asked.v6).enumerate() {
            known.insert(address.to_string(), format!("ADDRESS-{index}"));
        }
        Self {
            twin: twin.name.clone(),
            known,
            turned_up: 0,
        }
    }

    fn name(&mut self, value: &str) -> String {
        // Two spellings of an address are one value.
        let canonical = value.parse().map(|address: IpAddr| address.to_string());
        let value = canonical.as_deref().unwrap_or(value);
        if let Some(name) = self.known.get(value) {
            return name.clone();
        }
        self.turned_up += 1;
        let name = format!("NEW-{}", self.turned_up);
        self.known.insert(value.to_owned(), name.clone());
        name
    }

    /// Forgets what the Service no longer has: a value that comes again is a new one.
    pub(crate) fn keep_to(&mut self, stored: &Value) {
        let spec = stored["spec"].to_string();
        let is_new = |name: &str| name.starts_with("NEW-");
        self.known
            .retain(|value, name| !is_new(name) || spec.contains(value.as_str()));
    }

    /// A stored Service without what no two have in common.
    pub(crate) fn of_stored(&mut self, stored: &Value) -> Value {
        let mut spec = stored["spec"].clone();
        for field in ["clusterIP", "healthCheckNodePort"] {
            self.replace(&mut spec[field]);
        }
        for value in spec["clusterIPs"].as_array_mut().into_iter().flatten() {
            self.replace(value);
        }
        for port in spec["ports"].as_array_mut().into_iter().flatten() {
            self.replace(&mut port["nodePort"]);
        }
        let metadata = &stored["metadata"];
        json!({"spec": spec, "labels": metadata["labels"], "annotations": metadata["annotations"]})
    }

    fn replace(&mut self, value: &mut Value) {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return,
        };
        if is_value(&text) {
            *value = json!(self.name(&text));
        }
    }

    /// A message of the API server.
    pub(crate) fn of_message(&mut self, message: &str) -> String {
        // The API server makes the end of a name up, of five characters (generateName), for every attempt.
        let range = format!("{}-{}", NODE_PORTS.0, NODE_PORTS.1);
        let mut text = message.replace(&self.twin, "NAME").replace(&range, "RANGE");
        if let Some(at) = text.find("NAME-") {
            text.replace_range(at + 4..(at + 10).min(text.len()), "");
        }
        let is_part = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | ':');
        let mut words: Vec<String> = Vec::new();
        for character in text.chars() {
            match words.last_mut() {
                Some(word) if is_part(character) && word.chars().all(is_part) => word.push(character),
                _ => words.push(character.to_string()),
            }
        }
        let name = |word: String| {
            let value = word.trim_end_matches([':', '.']);
            let rest = word[value.len()..].to_owned();
            if is_value(value) {
                self.name(value) + &rest
            } else {
                word
            }
        };
        words.into_iter().map(name).collect()
    }
}

/// An address, or a number of the range of node ports.
fn is_value(text: &str) -> bool {
    let is_port = |text: &str| {
        text.parse()
            .is_ok_and(|number: u16| (NODE_PORTS.0..=NODE_PORTS.1).contains(&number))
    };
    text.parse::<IpAddr>().is_ok() || is_port(text)
}
