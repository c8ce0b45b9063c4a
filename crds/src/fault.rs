// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a spec.

use std::fmt;

/// One thing that is wrong with a spec. All of them are reported at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field, as in `spec.addresses[2]`.
    pub field: String,
    /// What the user wrote there.
    pub value: String,
    /// What is wrong and what to do.
    pub problem: String,
}

impl Fault {
    pub(crate) fn new(field: impl Into<String>, value: impl ToString, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            value: value.to_string(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", self.field, self.value, self.problem)
    }
}
