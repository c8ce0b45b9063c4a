// SPDX-License-Identifier: Apache-2.0
//! The fields of one object of the file: each is taken once, by name; what is left over is unknown.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Fault, Ignored};

/// The fields of one object.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    path: String,
    left: BTreeMap<&'a str, &'a Value>,
    known: Vec<&'static str>,
    ignored: Vec<Ignored>,
    faults: Vec<Fault>,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which is at `path`; none where it is absent or null.
    pub(super) fn new(path: &str, value: Option<&'a Value>) -> Self {
        let mut this = Self {
            path: path.to_owned(),
            left: BTreeMap::new(),
            known: Vec::new(),
            ignored: Vec::new(),
            faults: Vec::new(),
        };
        match value {
            None | Some(Value::Null) => {}
            Some(Value::Object(map)) => {
                this.left = map.iter().map(|(name, value)| (name.as_str(), value)).collect()
            }
            Some(other) => this.faults.push(Fault {
                path: if path.is_empty() {
                    "the file".to_owned()
                } else {
                    path.to_owned()
                },
                what: format!("{other} is no object; write fields and values"),
            }),
        }
        this
    }

    /// The object in a field.
    pub(super) fn section(&mut self, name: &'static str) -> Fields<'a> {
        let value = self.take(name);
        Fields::new(&self.path_of(name), value)
    }

    /// Ends a section: what it found counts here.
    pub(super) fn close(&mut self, section: Fields<'a>) {
        let (mut ignored, mut faults) = section.finish();
        self.ignored.append(&mut ignored);
        self.faults.append(&mut faults);
    }

    /// What is ignored, and what is wrong: unknown fields, too.
    pub(super) fn finish(mut self) -> (Vec<Ignored>, Vec<Fault>) {
        for name in self.left.keys() {
            let close = self.known.iter().find(|known| known.eq_ignore_ascii_case(name));
            self.faults.push(Fault {
                path: self.path_of(name),
                what: match close {
                    Some(known) => format!("there is no such field; {known} is meant, it seems"),
                    None => {
                        "there is no such field in kubeproxy.config.k8s.io/v1alpha1; remove it".to_owned()
                    }
                },
            });
        }
        (self.ignored, self.faults)
    }

    /// A text; `None` where it is empty.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.parsed(name, |text| Ok(text.to_owned()))
    }

    /// A text that means something; `None` where it is empty.
    pub(super) fn parsed<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = match self.take(name)? {
            Value::Null => return None,
            Value::String(text) if text.is_empty() => return None,
            Value::String(text) => text.clone(),
            other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                return self.fault(
                    name,
                    format!("{other} is no text; put it in quotes, or see what the field takes"),
                );
            }
        };
        match parse(&text) {
            Ok(value) => Some(value),
            Err(what) => self.fault(name, what),
        }
    }

    /// A list of texts; `None` where it is empty.
    pub(super) fn parsed_list<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let entries = match self.take(name)? {
            Value::Null => return None,
            Value::Array(entries) => entries,
            other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                return self.fault(name, format!("{other} is no list; write [...]"));
            }
        };
        let mut parsed = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let outcome = match entry.as_str() {
                Some(text) => parse(text),
                None => Err(format!("{entry} is no text")),
            };
            match outcome {
                Ok(value) => parsed.push(value),
                Err(what) => self.faults.push(Fault {
                    path: format!("{}[{index}]", self.path_of(name)),
                    what,
                }),
            }
        }
        (!parsed.is_empty()).then_some(parsed)
    }

    /// A boolean; `None` where it is false, which is the default of all of them.
    pub(super) fn flag(&mut self, name: &'static str) -> Option<bool> {
        match self.take(name)? {
            Value::Null | Value::Bool(false) => None,
            Value::Bool(true) => Some(true),
            other @ (Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => {
                self.fault(name, format!("{other} is neither true nor false"))
            }
        }
    }

    /// A number up to `most`.
    pub(super) fn number(&mut self, name: &'static str, most: u32) -> Option<u32> {
        let value = self.take(name)?;
        if value.is_null() {
            return None;
        }
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        match number.filter(|number| *number <= most) {
            Some(number) => Some(number),
            None => self.fault(name, format!("{value} is no whole number from 0 to {most}")),
        }
    }

    /// A field that must be there and say this.
    pub(super) fn expect(&mut self, name: &'static str, wanted: &str) {
        let found = self.take(name);
        if found.and_then(Value::as_str) != Some(wanted) {
            let what = match found {
                Some(found) => format!("{found} is not read here; write {wanted}"),
                None => format!("it is missing; write {wanted}"),
            };
            self.fault::<()>(name, what);
        }
    }

    /// A field that has no effect: named if it is set to something.
    pub(super) fn ignore(&mut self, name: &'static str, why: &'static str) {
        if self.take(name).is_some_and(|value| !is_zero(value)) {
            self.ignored.push(Ignored {
                path: self.path_of(name),
                why,
            });
        }
    }

    fn take(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.left.remove(name)
    }

    fn fault<T>(&mut self, name: &str, what: String) -> Option<T> {
        let path = self.path_of(name);
        self.faults.push(Fault { path, what });
        None
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }
}

/// Whether a field says nothing: files that were written by a tool name every field.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => matches!(text.as_str(), "" | "0" | "0s" | "0.0.0.0"),
        Value::Array(entries) => entries.is_empty(),
        Value::Object(fields) => fields.values().all(is_zero),
    }
}
