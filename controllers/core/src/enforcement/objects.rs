// SPDX-License-Identifier: Apache-2.0
//! The policy and its binding as API objects.

use std::fmt;

use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, ParamKind, ParamRef, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBindingSpec, ValidatingAdmissionPolicySpec,
    Validation, Variable,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};

use super::expressions::{CONDITIONS, validations, variables};
use super::tables::Tables;
use super::{Action, Enforced, Subject};
use crate::admission::Exemptions;

/// The label that the API server keeps on every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// `anchor`: the name of one of the pools.
pub(super) fn enforced(
    subject: Subject,
    tables: &Tables,
    exemptions: &Exemptions,
    action: Action,
    anchor: &str,
) -> Enforced {
    Enforced {
        subject,
        policy: ValidatingAdmissionPolicy {
            metadata: meta(subject),
            spec: Some(policy(subject, tables, exemptions)),
            status: None,
        },
        binding: ValidatingAdmissionPolicyBinding {
            metadata: meta(subject),
            spec: binding(subject, action, anchor),
        },
    }
}

fn meta(subject: Subject) -> ObjectMeta {
    ObjectMeta {
        name: Some(subject.name().to_owned()),
        labels: Some([("app.kubernetes.io/part-of".to_owned(), "berth".to_owned())].into()),
        ..ObjectMeta::default()
    }
}

fn policy(subject: Subject, tables: &Tables, exemptions: &Exemptions) -> ValidatingAdmissionPolicySpec {
    let variables = variables(subject, tables).into_iter();
    let variables = variables.map(|(name, expression)| Variable {
        name: name.to_owned(),
        expression,
    });
    let validations = validations(subject, tables).into_iter();
    let validations = validations.map(|(expression, message)| Validation {
        expression,
        message_expression: Some(message),
        // As the webhook refuses.
        reason: Some("Forbidden".to_owned()),
        ..Validation::default()
    });
    let conditions = CONDITIONS.map(|(name, expression)| MatchCondition {
        name: name.to_owned(),
        expression: expression.to_owned(),
    });
    ValidatingAdmissionPolicySpec {
        // Of what can't be evaluated. A refusal is no failure.
        failure_policy: Some("Ignore".to_owned()),
        param_kind: Some(ParamKind {
            api_version: Some(format!("{}/v1alpha1", berth_crds::GROUP)),
            kind: Some(subject.pool_kind().to_owned()),
        }),
        match_constraints: Some(services(exemptions)),
        match_conditions: Some(conditions.into()),
        variables: Some(variables.collect()),
        validations: Some(validations.collect()),
        ..ValidatingAdmissionPolicySpec::default()
    }
}

/// Creates and updates of Services, but for exempt namespaces: these are told by the label that every namespace has, so that the
/// API server does not even look for parameters there.
fn services(exemptions: &Exemptions) -> MatchResources {
    let not_exempt = LabelSelectorRequirement {
        key: NAMESPACE_NAME.to_owned(),
        operator: "NotIn".to_owned(),
        values: Some(exemptions.namespaces().map(str::to_owned).collect()),
    };
    MatchResources {
        match_policy: Some("Equivalent".to_owned()),
        namespace_selector: Some(LabelSelector {
            match_expressions: Some(vec![not_exempt]),
            ..LabelSelector::default()
        }),
        resource_rules: Some(vec![NamedRuleWithOperations {
            api_groups: Some(vec![String::new()]),
            api_versions: Some(vec!["v1".to_owned()]),
            operations: Some(vec!["CREATE".to_owned(), "UPDATE".to_owned()]),
            resources: Some(vec!["services".to_owned()]),
            scope: Some("Namespaced".to_owned()),
            ..NamedRuleWithOperations::default()
        }]),
        ..MatchResources::default()
    }
}

fn binding(subject: Subject, action: Action, anchor: &str) -> ValidatingAdmissionPolicyBindingSpec {
    let actions: &[&str] = match action {
        Action::Deny => &["Deny"],
        Action::Report => &["Warn", "Audit"],
    };
    ValidatingAdmissionPolicyBindingSpec {
        policy_name: subject.name().to_owned(),
        param_ref: Some(ParamRef {
            // Without it nothing is evaluated.
            name: Some(anchor.to_owned()),
            parameter_not_found_action: Some("Allow".to_owned()),
            ..ParamRef::default()
        }),
        validation_actions: actions.iter().map(|action| (*action).to_owned()).collect(),
        ..ValidatingAdmissionPolicyBindingSpec::default()
    }
}

/// What it says, for people and golden files.
impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let anchor = self.binding.spec.param_ref.as_ref();
        let anchor = anchor.and_then(|anchor| anchor.name.as_deref());
        let (name, kind) = (self.subject.name(), self.subject.pool_kind());
        writeln!(f, "{name} while there is {kind} {}", anchor.unwrap_or_default())?;
        writeln!(f, "  {}", self.binding.spec.validation_actions.join(", "))?;
        let Some(spec) = &self.policy.spec else {
            return Ok(());
        };
        let constraints = spec.match_constraints.iter();
        for selector in constraints.filter_map(|all| all.namespace_selector.as_ref()) {
            for requirement in selector.match_expressions.iter().flatten() {
                let values = requirement.values.clone().unwrap_or_default().join(", ");
                writeln!(f, "  {} {} {values}", requirement.key, requirement.operator)?;
            }
        }
        for condition in spec.match_conditions.iter().flatten() {
            writeln!(f, "  if {}: {}", condition.name, condition.expression)?;
        }
        for variable in spec.variables.iter().flatten() {
            writeln!(f, "  {} = {}", variable.name, variable.expression)?;
        }
        for validation in spec.validations.iter().flatten() {
            writeln!(f, "  holds: {}", validation.expression)?;
            let message = validation.message_expression.as_deref().unwrap_or_default();
            writeln!(f, "    else {message}")?;
        }
        Ok(())
    }
}
